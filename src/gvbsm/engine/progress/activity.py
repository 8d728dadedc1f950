"""What this process works on: a part of the run and its loop, and how much of the run is done."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple, Protocol

from gvbsm.engine.progress.spelling import plural, spell_duration, with_article

PRIOR_SECONDS = 30.0  # weight of the plan's own speed beside the measured one
FRESH_SECONDS = 5.0  # between two exchanges of finished shares with the other processes


class Loop(Protocol):
    """A loop whose steps are counted, such as a progress bar."""

    n: float
    initial: float
    total: float | None
    desc: str
    unit: str


class PartShare(NamedTuple):
    """How much of a part of the run is done.

    Attributes:
        done: Its finished share, from 0 to 1.
        resumed: What of this share an earlier run has done: it says nothing about the speed.
    """

    done: float
    resumed: float = 0.0


class RunProgress(NamedTuple):
    """How far the whole run is.

    Attributes:
        share: Share of the planned work that is done, from 0 to 1.
        seconds_left: Estimated time until its end.
    """

    share: float
    seconds_left: float


class Schedule:
    """The planned seconds of the parts of a run, compared with the time that they really take.

    Args:
        seconds: Key of each part, as in `seconds.json` -> planned seconds.
        finished: Returns the keys of the parts that this run has finished, in all its processes.
        elsewhere: Returns the share of each part at which another process works.
        clock: Returns the time in seconds.
    """

    def __init__(
        self,
        seconds: Mapping[str, float],
        finished: Callable[[], set[str]],
        elsewhere: Callable[[], Mapping[str, PartShare]] = dict,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._seconds, self._finished, self._elsewhere = seconds, finished, elsewhere
        self._clock, self._start = clock, clock()
        self._known, self._others = set[str](), dict[str, PartShare]()
        self._own = dict[str, PartShare]()  # parts at which this process works or worked
        self._known_at = -FRESH_SECONDS

    def _shares(self, running: Mapping[str, PartShare]) -> dict[str, PartShare]:
        """Return the share of each part that was begun."""
        if self._clock() - self._known_at >= FRESH_SECONDS:
            self._known, self._others = self._finished(), dict(self._elsewhere())
            self._known_at = self._clock()
        self._own.update(running)
        shares = {**self._others, **self._own}
        for key in self._known:
            shares[key] = PartShare(1.0, shares[key].resumed if key in shares else 0.0)
        return shares

    def progress(self, running: Mapping[str, PartShare]) -> RunProgress | None:
        """Return how far the run is; None if nothing is planned.

        The planned time of the remaining parts is scaled by how long the finished ones took.

        Args:
            running: Key of the part at which this process works -> its share.
        """
        total = sum(self._seconds.values())
        if total <= 0:
            return None
        shares = self._shares(running)
        begun = [
            (self._seconds[key], share) for key, share in shares.items() if key in self._seconds
        ]
        done = sum(planned * share.done for planned, share in begun)
        worked = sum(planned * max(0.0, share.done - share.resumed) for planned, share in begun)
        slowness = (self._clock() - self._start + PRIOR_SECONDS) / (worked + PRIOR_SECONDS)
        return RunProgress(done / total, slowness * (total - done))


class Activity:
    """What a process works on.

    Attributes:
        schedule: The planned time of the run; None if there is none.
        publish: publish(key, share) sends the share of a part to process 0; None in process 0.
        title: The part at work among its kind, such as `teacher 2 of 5`; may be empty.
        loop: The innermost loop at work; None between loops.
        begun: When it began, in seconds of the monotonic clock.
    """

    def __init__(self) -> None:
        self.schedule: Schedule | None = None
        self.publish: Callable[[str, PartShare], None] | None = None
        self._published_at = -FRESH_SECONDS
        self.title = ""
        self.loop: Loop | None = None
        self.begun = 0.0
        self._key: str | None = None

    @contextmanager
    def part(self, key: str, title: str = "") -> Iterator[None]:
        """Work on a part of the run in the block.

        Args:
            key: Its key, as in `seconds.json`.
            title: See `title`.
        """
        before = self._key, self.title
        self._key, self.title = key, title
        try:
            yield
        finally:
            self._key, self.title = before

    def enter(self, loop: Loop) -> Loop | None:
        """Begin a loop; return the one around it."""
        outer, self.loop, self.begun = self.loop, loop, time.monotonic()
        return outer

    def leave(self, loop: Loop, outer: Loop | None) -> None:
        """End a loop, unless another one has begun meanwhile."""
        if self.loop is loop:
            self.loop = outer

    def run_progress(self) -> RunProgress | None:
        """Return how far the whole run is; None without a schedule."""
        if self.schedule is None:
            return None
        return self.schedule.progress(self._running())

    def publish_progress(self) -> None:
        """Send the share of the part at work to process 0, every `FRESH_SECONDS`.

        Bars call this after each step.
        """
        if self.publish is None or time.monotonic() - self._published_at < FRESH_SECONDS:
            return
        self._published_at = time.monotonic()
        for key, share in self._running().items():
            self.publish(key, share)

    def _running(self) -> dict[str, PartShare]:
        """Key of the part at work -> its share; empty between loops."""
        loop = self.loop
        if self._key is None or loop is None or not loop.total:
            return {}
        done = min(loop.n, loop.total)
        return {self._key: PartShare(done / loop.total, min(loop.initial, done) / loop.total)}


ACTIVITY = Activity()  # of this process


def describe(loop: Mapping[str, Any], title: str, run: RunProgress | None) -> str:
    """Describe how far a loop is, in one line.

    Args:
        loop: Its `tqdm.format_dict`.
        title: The part of the run that it belongs to; may be empty.
        run: How far the whole run is; None if that is not known.
    """
    name = loop["prefix"] + f" ({title})" * bool(title)
    done, total, rate, unit = (loop[key] for key in ("n", "total", "rate", "unit"))
    count = f"{done:,} of {total:,} {plural(unit)}" if total else f"{done:,} {plural(unit)}"
    facts = [f"{count} in {spell_duration(loop['elapsed'])}"]
    if rate:
        slow = f"{spell_duration(1 / rate)} {with_article(unit)}"
        facts.append(f"{rate:.3g} {plural(unit)}/s" if rate >= 1 else slow)
        if total:
            facts.append(f"{spell_duration((total - done) / rate)} left")
    return f"{name}: {', '.join(facts)}{describe_run(run)}"


def describe_run(run: RunProgress | None) -> str:
    """Describe how far the whole run is, as the end of a line; empty if that is not known."""
    if run is None:
        return ""
    return f"; the run: {100 * run.share:.0f} % done, {spell_duration(run.seconds_left)} left"
