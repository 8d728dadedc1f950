"""How the time of a stage follows from its pieces and from the processes that share them."""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence
from dataclasses import dataclass

from gvbsm.engine.machine.limits import THREADS_GAIN, cores_each


@dataclass(frozen=True)
class ProcessPlan:
    """The processes in which a run computes.

    Attributes:
        count: How many.
        shares_cores: Whether a stage with fewer pieces of work than processes gives more threads to
            those that have work.
    """

    count: int = 1
    shares_cores: bool = False

    @property
    def threads(self) -> int | None:
        """Threads of each process where all have work; None if the user has chosen them."""
        return cores_each(self.count) if self.shares_cores else None

    def gain(self, pieces: int) -> float:
        """How much faster a process computes in a stage of so many pieces than with all at work."""
        working = max(1, min(pieces, self.count))
        return (self.count / working) ** THREADS_GAIN if self.shares_cores else 1.0

    def shared(self, seconds: float, pieces: int) -> float:
        """Time of a stage of equal pieces that take so many seconds together in one process."""
        if pieces <= 0:
            return 0.0
        rounds = math.ceil(pieces / self.count)
        return seconds * rounds / pieces / self.gain(pieces)

    def dealt(self, seconds: Sequence[float]) -> float:
        """Time until all pieces are done, of which a free process takes the next."""
        ends = [0.0] * self.count
        for duration in seconds:
            heapq.heapreplace(ends, ends[0] + duration)
        return max(ends)
