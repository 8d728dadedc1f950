"""Progress that several processes share: the steps of a loop, and the parts of a run."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Any, Self

from gvbsm.engine.progress.activity import PartShare
from gvbsm.engine.progress.bars import Bar
from gvbsm.engine.progress.waiting import Idle

SECONDS = 0.5  # between two exchanges of steps with the other processes


class SharedBar:
    """Counts this process's steps; the bar of process 0 shows those of all.

    Its block ends when that of each process has ended.

    Args:
        bar: This process's bar.
        add: add(name, count): add to a number that the processes share, and return it.
        barrier: barrier(meanwhile): wait for the other processes, and call `meanwhile` now and
            then.
        clock: Returns the time in seconds.

    Attributes:
        n: Steps of this process.
    """

    def __init__(
        self,
        bar: Bar,
        add: Callable[[str, int], int],
        barrier: Callable[[Idle], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.n = 0
        self._bar, self._add, self._barrier, self._clock = bar, add, barrier, clock
        self._own, self._shown = {"skipped": 0, "done": 0}, {"skipped": 0, "done": 0}
        self._exchanged_at = clock()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        with self._bar:
            if error is None:
                self._exchange()
                self._barrier(self._exchange_if_due)
                self._exchange()

    def skip(self, count: int) -> None:
        """Count steps that an earlier run has done."""
        self._count("skipped", count)

    def update(self, n: int = 1) -> None:
        """Count steps; a negative number takes steps back."""
        self._count("done", n)

    def set_postfix(self, **values: Any) -> None:
        """Show values beside the bar."""
        self._bar.set_postfix(**values)

    def _count(self, kind: str, count: int) -> None:
        self.n += count
        self._own[kind] += count
        self._exchange_if_due()

    def _exchange_if_due(self) -> None:
        if self._clock() - self._exchanged_at >= SECONDS:
            self._exchange()

    def _exchange(self) -> None:
        """Add the new steps of this process to the shared numbers, and show the sums."""
        self._exchanged_at = self._clock()
        for kind, show in (("skipped", self._bar.skip), ("done", self._bar.update)):
            total = self._add(kind, self._own[kind])
            self._own[kind] = 0
            show(total - self._shown[kind])
            self._shown[kind] = total


class SharedParts:
    """How much of each part of a run is done, which all processes can read.

    Args:
        add: add(name, count): add to a number that the processes share, and return it.
    """

    def __init__(self, add: Callable[[str, int], int]) -> None:
        self._add, self._published = add, dict[str, int]()

    def publish(self, key: str, share: PartShare) -> None:
        """Publish the share of a part; it replaces the last one of this process.

        Args:
            key: Key of the part; one process works at it.
            share: How much of it is done.
        """
        for name, value in zip(_names(key), share, strict=True):
            permille = round(1000 * value)
            self._add(name, permille - self._published.get(name, 0))
            self._published[name] = permille

    def read(self, keys: Iterable[str]) -> dict[str, PartShare]:
        """Return the share of each part; 0 if no process has published one."""
        return {
            key: PartShare(*(min(1.0, self._add(name, 0) / 1000) for name in _names(key)))
            for key in keys
        }


def _names(key: str) -> tuple[str, str]:
    """The shared numbers of a part: the two values of its `PartShare`."""
    return key, f"{key}, resumed"
