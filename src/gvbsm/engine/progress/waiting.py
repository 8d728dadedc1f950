"""Log lines of a process that waits for the others."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from gvbsm.engine.progress.activity import ACTIVITY, describe_run
from gvbsm.engine.progress.bars import LINE_SECONDS
from gvbsm.engine.progress.spelling import spell_duration

log = logging.getLogger("gvbsm")

Idle = Callable[[], None]
"""What a process does now and then while it waits."""


class Waiting:
    """Logs once a minute how long this process has waited, and how far the run is.

    Args:
        clock: Returns the time in seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._begun = self._logged_at = clock()

    def __call__(self) -> None:
        """Log a line if one is due."""
        now = self._clock()
        if now - self._logged_at < LINE_SECONDS:
            return
        self._logged_at = now
        waited, run = spell_duration(now - self._begun), ACTIVITY.run_progress()
        log.info("waiting for the other processes for %s%s", waited, describe_run(run))
