"""Prepare a network to be called: check that it can be, and keep its inputs unchanged."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from gvbsm.config.errors import first_line


def check_call(
    build: Callable[[], nn.Module], shape: tuple[int, int, int, int], classes: int
) -> None:
    """Call a network forward and backward as it is trained, and forward as it is tested.

    The call is made on the meta device, which computes shapes only and takes neither memory nor
    time. If that fails, because of an operation that the meta device lacks or of the network
    itself, it is repeated on the CPU.

    Args:
        build: Builds the network on torch's default device.
        shape: (batch, channels, height, width) of the pictures.
        classes: Number of logits expected.

    Raises:
        ValueError: If the network fails on the CPU too; the message is its error's first line.
    """
    try:
        with torch.device("meta"):
            _call(build(), torch.empty(shape), classes)
    except Exception:  # of any type, as networks of any library raise
        try:
            with torch.random.fork_rng(), torch.device("cpu"):
                _call(build(), torch.zeros(shape), classes)
        except Exception as error:
            raise ValueError(first_line(error)) from error


def _call(model: nn.Module, pictures: Tensor, classes: int) -> None:
    with torch.enable_grad():
        logits = model.train()(pictures)
        if not isinstance(logits, Tensor) or logits.shape != (len(pictures), classes):
            output = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
            expected = (len(pictures), classes)
            raise ValueError(f"logits of shape {expected} were expected, got {output}")
        logits.sum().backward()  # type: ignore[no-untyped-call]
    with torch.no_grad():
        model.eval()(pictures)


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
