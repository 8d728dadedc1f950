"""Log lines of a process that waits for the others."""

import logging

import pytest

from gvbsm.engine.progress.activity import ACTIVITY, Schedule
from gvbsm.engine.progress.bars import LINE_SECONDS
from gvbsm.engine.progress.waiting import Waiting
from support.clock import Clock


@pytest.mark.parametrize("planned", [False, True])
def test_a_line_a_minute_says_how_long_and_how_far_the_run_is(planned, caplog, monkeypatch):
    clock = Clock()
    if planned:
        schedule = Schedule(
            {"squeeze/a": 60.0, "labels": 180.0}, lambda: {"squeeze/a"}, clock=clock
        )
        monkeypatch.setattr(ACTIVITY, "schedule", schedule)
    waiting = Waiting(clock)
    with caplog.at_level(logging.INFO, "gvbsm"):
        for _ in range(9):
            clock.now += 0.25 * LINE_SECONDS
            waiting()
    first, second = caplog.messages
    assert first.startswith("waiting for the other processes for 1 min")
    assert second.startswith("waiting for the other processes for 2 min")
    assert ("; the run: 25 % done, 3 min left" in first) == planned
