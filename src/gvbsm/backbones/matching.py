"""Which layers of a network are matched."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn


@dataclass(frozen=True)
class MatchedLayers:
    """The layers whose inputs are compared with the real data's statistics.

    Attributes:
        batchnorm: Module path -> BatchNorm layer with running statistics, for L_BN.
        conv: Module path -> convolution, for L_Conv; the first is the one that sees the image.
    """

    batchnorm: dict[str, nn.Module]
    conv: dict[str, nn.Module]


def matched_layers(model: nn.Module) -> MatchedLayers:
    """Find the matched layers of any network, by their type and never by their name.

    Args:
        model: A network.

    Returns:
        All `BatchNorm2d` layers (those without running statistics have nothing to match, and are
        left out) and all `Conv2d` layers, in the order of their definition. Either may be empty.
    """
    batchnorm: dict[str, nn.Module] = {}
    conv: dict[str, nn.Module] = {}
    for path, module in model.named_modules():
        if isinstance(module, nn.BatchNorm2d) and module.running_mean is not None:
            batchnorm[path] = module
        elif isinstance(module, nn.Conv2d):
            conv[path] = module
    return MatchedLayers(batchnorm, conv)


def disable_inplace(model: nn.Module) -> None:
    """Make every activation and dropout of `model` return a new tensor.

    A captured input is the tensor itself. A later in-place layer on the same tensor (a branch that
    opens with `ReLU(inplace=True)`, say) would silently change it before its statistics are
    taken. The price is memory: one more feature map for each activation.

    Args:
        model: The network, changed in place.
    """
    for module in model.modules():
        if getattr(module, "inplace", False) is True:
            module.inplace = False  # type: ignore[assignment]  # a plain bool, not a Parameter
