"""Measure the most memory that work takes: of the GPU, or of this process on a CPU under Linux."""

from __future__ import annotations

import torch

from gvbsm.engine.machine.resident import (
    peak_bytes,
    reset_peak,
    resident_bytes,
    return_freed_memory,
)


def memory_in_use(device: torch.device) -> int | None:
    """Bytes in use: of a GPU by torch, of a CPU by this process; None if they are not known."""
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device)
    return_freed_memory()
    return resident_bytes()


class PeakMemory:
    """The memory that work takes beyond what is in use before it.

    Args:
        device: Where the work is done.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._before = memory_in_use(device)
        self._is_known = self._before is not None

    def begin(self) -> None:
        """Measure from here on."""
        if self._device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self._device)
        else:
            self._is_known = reset_peak()

    def taken(self) -> int | None:
        """The most bytes that were in use since `begin`, less those before; None if not known."""
        cuda = self._device.type == "cuda"
        peak = torch.cuda.max_memory_allocated(self._device) if cuda else peak_bytes()
        if peak is None or self._before is None or not self._is_known:
            return None
        return max(0, peak - self._before)
