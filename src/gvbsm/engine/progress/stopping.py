"""A request to stop: a loop that has a checkpoint to write does so first.

A signal handler calls `request`. Where a loop keeps a checkpoint (`files.checkpoint`), it saves one
at its next step and then raises the request's error. Elsewhere the handler raises it at once.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from gvbsm.engine.progress.activity import ACTIVITY, Loop
from gvbsm.engine.progress.spelling import spell_duration


class Stopping:
    """Whether this process is to stop, and what it keeps and loses.

    Attributes:
        is_requested: Whether it shall stop at its next checkpoint.
        account: What is kept or lost, for the last line; empty where no loop was at work.
        saves: Whether a loop with a checkpoint is at work.
        error: The error of the request.
    """

    def __init__(self) -> None:
        self.is_requested, self.saves, self.account = False, False, ""
        self.error = KeyboardInterrupt()
        self._saved_at = 0.0
        self._cancel: Callable[[], None] = lambda: None

    # For loops.

    def begin(self) -> None:
        """Note that a loop with a checkpoint begins."""
        self.saves, self._saved_at = True, time.monotonic()

    def saving(self) -> None:
        """Note that the checkpoint is being written, which must not be interrupted."""
        self._cancel()

    def saved(self) -> None:
        """Note that the checkpoint is written.

        Raises:
            KeyboardInterrupt: The error of the request, if there is one.
        """
        self._saved_at = time.monotonic()
        if self.is_requested:
            self.account = f"kept: {_place(ACTIVITY.loop)}"
            raise self.error

    def end(self) -> None:
        """Note that the loop is done and its result is written.

        Raises:
            KeyboardInterrupt: The error of the request, if there is one.
        """
        self.saves, self._saved_at = False, time.monotonic()
        self._cancel()
        if self.is_requested:
            self.account = "no work is lost"
            raise self.error

    # For signal handlers.

    def request(self, error: KeyboardInterrupt, cancel: Callable[[], None]) -> None:
        """Ask the loop at work to save a checkpoint and raise an error.

        Args:
            error: The error.
            cancel: Is called when the checkpoint is about to be written: the wait is over.
        """
        self.error, self._cancel, self.is_requested = error, cancel, True
        self._count_loss()

    def give_up(self) -> None:
        """Note that the process stops without a checkpoint."""
        self.is_requested = False
        self._count_loss()

    def _count_loss(self) -> None:
        loop = ACTIVITY.loop
        if loop is not None:
            lost = spell_duration(time.monotonic() - max(ACTIVITY.begun, self._saved_at))
            self.account = f"at most {lost} of work are lost ({_place(loop)})"


def _place(loop: Loop | None) -> str:
    """Return where a loop is, such as `squeeze resnet18 at step 120 of 3,950`."""
    if loop is None:
        return "a checkpoint"
    total = f" of {loop.total:,}" if loop.total else ""
    return f"{loop.desc} at {loop.unit} {loop.n:,}{total}"


STOPPING = Stopping()  # of this process
