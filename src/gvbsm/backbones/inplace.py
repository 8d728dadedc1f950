"""Keep layers from changing their inputs, so that these can be recorded."""

from __future__ import annotations

from torch import nn


def disable_inplace(model: nn.Module) -> None:
    """Make every activation and dropout of `model` return a new tensor.

    A recorded input is the tensor itself. An in-place layer on the same tensor, such as
    `ReLU(inplace=True)` at the start of a branch, would change it before its statistics are
    computed. The cost is memory: one more feature map for each activation.

    Args:
        model: The network, changed in place.
    """
    for module in model.modules():
        if getattr(module, "inplace", False) is True:
            module.inplace = False  # type: ignore[assignment]  # a plain bool, not a Parameter
