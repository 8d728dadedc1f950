"""The measured cost of a picture in each kind of work, kept between runs."""

from __future__ import annotations

import logging
from collections.abc import Callable

from gvbsm.pipeline.forms.compiling import compiled_share
from gvbsm.pipeline.forms.machine_cache import MachineCache
from gvbsm.pipeline.planning.network_timing import (
    time_labeling,
    time_pixels,
    time_recording,
    time_testing,
    time_training,
)
from gvbsm.pipeline.planning.picture_timing import (
    time_label_store,
    time_real_views,
    time_set_batches,
    time_test_pictures,
)
from gvbsm.pipeline.planning.timing_task import TimingTask
from gvbsm.pipeline.planning.work import KINDS, Task, Work

log = logging.getLogger("gvbsm")

TIMINGS: dict[Task, Callable[[TimingTask, Work], float]] = {
    "training": time_training,
    "pixels": time_pixels,
    "labeling": time_labeling,
    "testing": time_testing,
    "recording": time_recording,
    "real views": time_real_views,
    "test pictures": time_test_pictures,
    "set batches": time_set_batches,
    "label store": time_label_store,
}
"""Seconds a picture by the kind of work."""


class MeasuredCosts:
    """Seconds a picture of each kind of work, timed once a machine and kept in its cache.

    A network is timed in the form that it has in the run (`engine.forms`). Files on disk are timed
    for each data set.

    Args:
        task: The pictures, the device, and the forms of the networks.
    """

    def __init__(self, task: TimingTask) -> None:
        self._task = task
        self._cache = MachineCache(task.runtime, "costs.json")
        self._known: dict[Work, float] = {}

    def __call__(self, work: Work) -> float:
        """Return the seconds a picture in one process."""
        if work not in self._known:
            self._known[work] = self._look_up(work)
        return self._known[work]

    def _look_up(self, work: Work) -> float:
        key = self._key(work)
        if (rows := self._cache.get(key)) is not None:
            return float(rows[0][0])  # type: ignore[arg-type]
        seconds = TIMINGS[work.task](self._task, work) * self._compiled_share(work)
        log.debug("%s: %.3g ms a picture", key, 1000 * seconds)
        self._cache.put(key, [[seconds]])
        return seconds

    def _compiled_share(self, work: Work) -> float:
        """The share of its time that a network takes in its form, which is timed uncompiled."""
        if work.task not in ("training", "pixels"):
            return 1.0
        kind, runtime = KINDS[work.task], self._task.runtime
        is_compiled = runtime.of(work.network, kind).compiled
        return compiled_share(work.network, kind, runtime) if is_compiled else 1.0

    def _key(self, work: Work) -> str:
        data, settings = self._task.data, [f"{name}={value}" for name, value in work.settings]
        words = [work.task, f"{len(data.class_names)} classes", f"batch {work.batch}"]
        words += [f"{data.channels}x{work.side}", *settings]
        if work.network:
            form = self._task.runtime.of(work.network, KINDS[work.task]).form
            words = [work.network, form.name, *words]
        elif data.train.images is None:
            words += [data.fingerprint[:16], f"workers {self._task.workers}"]
        return " ".join(words)
