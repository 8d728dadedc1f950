"""Stop a run whose losses or tensors are no longer finite."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from gvbsm.engine.device import RunError


def check_finite(value: Tensor, what: str, advice: str) -> None:
    """Check that a loss is finite.

    Args:
        value: The loss, a scalar.
        what: What is computed, for the message.
        advice: What the user should change, for the message.

    Raises:
        RunError: If the loss is NaN or infinite.
    """
    if not bool(torch.isfinite(value).all()):
        raise RunError(f"{what}: the loss became {float(value.detach()):g}; {advice}")


def first_not_finite(tensors: Mapping[str, Tensor]) -> str | None:
    """Return the name of the first tensor with a NaN or an infinity, or None."""
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            return name
    return None
