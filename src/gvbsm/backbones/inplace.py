"""Keep layers from changing their inputs, so that what a layer sees can be recorded."""

from __future__ import annotations

from torch import nn


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
