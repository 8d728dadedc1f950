"""Progress of a loop: a bar on a terminal or in a notebook, else a log line at most once a minute.

All are tqdm's bars, which count, and average the rate. They differ in what they show.
"""

from __future__ import annotations

import io
import logging
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from gvbsm.engine.progress.activity import ACTIVITY, Activity, Loop, describe

log = logging.getLogger("gvbsm")

FIRST_SECONDS, LINE_SECONDS = 10.0, 60.0  # until the first log line, and between two
FEWEST_STEPS = 3  # before the first log line, unless they take longer than the time between two
FEWEST_SHARE = 0.01  # of the steps; fewer than both say nothing about the time that is left


if TYPE_CHECKING:
    TqdmBar = tqdm[Any]
else:
    TqdmBar = tqdm  # not generic when it runs


class Bar(TqdmBar):
    """A bar on a terminal. A log line is written at most once a minute, for the log file.

    A hidden bar counts on: the message of a stopped run names the step, and process 0 shows the
    progress of the other processes.
    """

    _activity: Activity | None = None  # held here, since tqdm closes bars when Python ends, too
    _outer: Loop | None = None  # the loop around this one
    _logged_at: float | None = None
    _time: Callable[[], float]

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.desc, self.unit = options.get("desc") or "", options.get("unit", "it")
        self.initial = 0  # steps that an earlier run has done; a hidden bar of tqdm has none
        self._activity, self._outer = ACTIVITY, ACTIVITY.enter(self)

    def skip(self, count: int) -> None:
        """Count steps that an earlier run has done, which say nothing about the rate."""
        self.n += count
        self.initial += count
        if not self.disable:
            self.last_print_n += count

    def update(self, n: float | None = 1) -> bool | None:
        """Count steps; return whether the bar was shown."""
        if not self.disable:
            return super().update(n)
        self.n += n or 0
        ACTIVITY.publish_progress()
        return None

    def __iter__(self) -> Iterator[Any]:
        """Yield the items and count them."""
        if not self.disable:
            yield from super().__iter__()
            return
        for item in self.iterable:
            yield item
            self.update()

    def display(self, *arguments: Any, **options: Any) -> Any:
        """Show the bar, and log a line if one is due; tqdm calls this now and then."""
        if hasattr(self, "start_t") and self._line_is_due():
            self._log()
        return self._show(*arguments, **options)

    def _show(self, *arguments: Any, **options: Any) -> Any:
        return super().display(*arguments, **options)

    def _line_is_due(self) -> bool:
        now = self._time()
        if self._logged_at is None:
            is_slow = self._few_steps()
            is_due = now - self.start_t >= (LINE_SECONDS if is_slow else FIRST_SECONDS)
        else:
            is_due = now - self._logged_at >= LINE_SECONDS
        if is_due:
            self._logged_at = now
        return bool(is_due)

    def _few_steps(self) -> bool:
        """Tell whether only the first steps are done, which may start processes or compile."""
        return bool(self.n - self.initial < FEWEST_STEPS)

    def _log(self) -> None:
        facts, run = {**self.format_dict, "prefix": self.desc}, ACTIVITY.run_progress()
        done, total, elapsed = facts["n"], facts["total"], facts["elapsed"]
        rate = facts["rate"] or (elapsed and (done - facts["initial"]) / elapsed)
        if total and self._few_steps() and done < FEWEST_SHARE * total:
            rate = None
        left = (total - done) / rate if total and rate else None
        progress = {
            "part": " ".join(filter(None, (self.desc, ACTIVITY.title))),
            "done": done,
            "total": total,
            "seconds_left": left,
        }
        if run is not None:
            progress |= {"run_share": run.share, "run_seconds_left": run.seconds_left}
        line = describe({**facts, "rate": rate}, ACTIVITY.title, run)
        log.info("%s", line, extra={"progress": progress})

    @property
    def format_dict(self) -> Any:
        """What tqdm shows of the bar, with the part of the run in its name."""
        facts = dict(super().format_dict)
        run = ACTIVITY.run_progress()
        facts["prefix"] += f" ({ACTIVITY.title})" * bool(ACTIVITY.title)
        facts["prefix"] += "" if run is None else f" [run {100 * run.share:.0f} %]"
        return facts

    def close(self) -> None:
        """End the bar."""
        if self._activity is not None:
            self._activity.leave(self, self._outer)
        super().close()


class Lines(Bar):
    """No bar: log lines alone."""

    monitor_interval = 0  # tqdm needs no thread that redraws them

    def __init__(self, clock: Callable[[], float] = time.time, **options: Any) -> None:
        options |= {"delay": FIRST_SECONDS, "mininterval": FIRST_SECONDS, "miniters": 1}
        super().__init__(file=io.StringIO(), **options)
        self._time = clock
        self.start_t = self.last_print_t = clock()

    def _show(self, *_arguments: Any, **_options: Any) -> Any:
        pass


def begin(
    total: int | None, name: str, unit: str, quiet: bool, items: Iterable[Any] | None = None
) -> Bar:
    """Begin to show the progress of a loop.

    Args:
        total: Number of its steps; None if it is not known.
        name: What it does.
        unit: One step.
        quiet: Show and log nothing.
        items: What the bar yields, if it is iterated.
    """
    options: dict[str, Any] = {"iterable": items, "total": total, "desc": name, "unit": unit}
    if quiet:
        return Bar(disable=True, **options)
    if has_notebook_bars():
        from gvbsm.engine.progress.notebook import VanishingBar

        bar: Bar = type("NotebookBar", (Bar, VanishingBar), {})(**options)
        return bar
    if sys.stderr.isatty():
        return Bar(dynamic_ncols=True, **options)
    return Lines(**options)


def has_notebook_bars() -> bool:
    """Whether this is the kernel of a notebook that can show bars."""
    return "ipykernel" in sys.modules and find_spec("ipywidgets") is not None
