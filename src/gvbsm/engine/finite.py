"""Stop a run whose losses or tensors are no longer finite."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from gvbsm.engine.device import RunError


def check_finite(value: Tensor, what: str, advice: str) -> None:
    """Stop the run if a loss is no longer finite.

    Raises:
        RunError: Naming the work and what to change.
    """
    if not bool(torch.isfinite(value).all()):
        raise RunError(f"{what}: the loss became {float(value.detach()):g}; {advice}")


def first_not_finite(tensors: Mapping[str, Tensor]) -> str | None:
    """Return the name of the first tensor with a NaN or an infinity, or None."""
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            return name
    return None
