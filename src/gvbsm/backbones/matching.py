"""Which layers of a network are matched, and what they see during a forward pass.

Shapes are (batch, channels, height, width).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from torch import Tensor, nn


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


@contextmanager
def capture_inputs(model: nn.Module, paths: Iterable[str]) -> Iterator[dict[str, Tensor]]:
    """Collect what the layers at `paths` are given, as long as the context lasts.

    Args:
        model: The network whose forward pass is watched.
        paths: Module paths, as in `matched_layers`.

    Yields:
        Module path -> the layer's input, (batch, channels, height, width): the tensor itself with
        its graph, not a copy. Emptied whenever `model` starts a forward pass, so it always shows
        the last one.

    Raises:
        ValueError: If a path is not in the model.
        RuntimeError: In the forward pass, if a layer is called twice; one statistic cannot
            describe two inputs.
    """
    modules = dict(model.named_modules(remove_duplicate=False))
    paths = list(paths)
    unknown = [path for path in paths if path not in modules]
    if unknown:
        raise ValueError(f"no such layers in {type(model).__name__}: {', '.join(unknown)}")
    inputs: dict[str, Tensor] = {}

    def start(_module: nn.Module, _arguments: tuple[Tensor, ...]) -> None:
        inputs.clear()

    def watch(path: str, module: nn.Module) -> None:
        def capture(_module: nn.Module, arguments: tuple[Tensor, ...]) -> None:
            if path in inputs:
                raise RuntimeError(f"layer `{path}` is called twice in one forward pass")
            inputs[path] = arguments[0]

        hooks.callback(module.register_forward_pre_hook(capture).remove)

    with ExitStack() as hooks:
        hooks.callback(model.register_forward_pre_hook(start).remove)
        for path in paths:
            watch(path, modules[path])
        yield inputs


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
