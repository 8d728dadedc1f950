"""A network is called once on pictures of a size, before anything is trained that it would end."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from gvbsm.config.errors import first_line


def check_call(build: Callable[[], nn.Module], shape: tuple[int, int, int], classes: int) -> None:
    """Call a network forward and backward as it is trained, and forward as it is tested.

    This happens on the meta device, which computes shapes alone and takes neither memory nor time.
    A network that uses what the meta device lacks is called on the CPU.

    Args:
        build: Builds the network, on the device that is torch's default then.
        shape: Channels, height and width of a picture.
        classes: Number of logits that it must give.

    Raises:
        ValueError: If it cannot be called so; the first line of its error.
    """
    try:
        with torch.device("meta"):
            _call(build(), torch.empty(2, *shape), classes)
    except Exception:  # a network may fail in any way, or only miss an operation
        try:
            with torch.random.fork_rng(), torch.device("cpu"):
                _call(build(), torch.zeros(2, *shape), classes)
        except Exception as error:
            raise ValueError(first_line(error)) from error


def _call(model: nn.Module, pictures: Tensor, classes: int) -> None:
    with torch.enable_grad():
        logits = model.train()(pictures)
        if not isinstance(logits, Tensor) or logits.shape != (len(pictures), classes):
            got = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
            raise ValueError(f"logits of shape {(len(pictures), classes)} were expected, got {got}")
        logits.sum().backward()  # type: ignore[no-untyped-call]
    with torch.no_grad():
        model.eval()(pictures)
