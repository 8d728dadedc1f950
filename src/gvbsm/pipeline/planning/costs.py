"""The measured cost of each kind of work, kept between runs."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Callable, Collection
from typing import Any

from gvbsm.backbones.cost import weight_bytes
from gvbsm.engine.device import Runtime
from gvbsm.pipeline.forms.compiling import compiled_share
from gvbsm.pipeline.forms.machine_cache import MachineCache, of_code
from gvbsm.pipeline.planning.network_timing import (
    time_labeling,
    time_pixels,
    time_recording,
    time_testing,
    time_training,
)
from gvbsm.pipeline.planning.peak_memory import PeakMemory, memory_in_use
from gvbsm.pipeline.planning.picture_timing import (
    time_corrupting,
    time_label_store,
    time_real_views,
    time_set_batches,
    time_test_pictures,
    without_network,
)
from gvbsm.pipeline.planning.timing_task import TimingTask
from gvbsm.pipeline.planning.work import KINDS, Cost, Task, Work

log = logging.getLogger("gvbsm")

REPORT_BYTES = 285 * 10**6  # that matplotlib and the report take; measured on a CPU

TIMINGS: dict[Task, Callable[[TimingTask, Work, PeakMemory], Cost]] = {
    "training": time_training,
    "pixels": time_pixels,
    "labeling": time_labeling,
    "testing": time_testing,
    "recording": time_recording,
    "real views": without_network(time_real_views),
    "test pictures": without_network(time_test_pictures),
    "set batches": without_network(time_set_batches),
    "label store": without_network(time_label_store),
    "corrupting": without_network(time_corrupting),
}
"""The cost of a picture by the kind of work."""


class MeasuredCosts:
    """Time and memory of each kind of work, measured once a machine and kept in its cache.

    A network is timed in the form that it has in the run (`engine.forms`). Files on disk are timed
    for each data set.

    Args:
        task: The pictures, the device, and the forms of the networks.
    """

    def __init__(self, task: TimingTask) -> None:
        self._task = task
        self._cache = MachineCache(task.runtime, "work_costs.json")
        self._known: dict[Work, Cost] = {}
        self._in_use = memory_in_use(task.runtime.device)

    @property
    def runtime(self) -> Runtime:
        """The device, and the forms of the networks."""
        return self._task.runtime

    def __call__(self, work: Work) -> float:
        """Return the seconds a picture in one process."""
        return self._cost(work).seconds

    def memory(self, works: Collection[Work]) -> int | None:
        """Return the most bytes that a process takes that does these works one after the other.

        That is what is in use now, the weights of all networks, what the largest work takes beside
        them, what loads pictures and labels, and the images. Without works it is that of the table
        and the report. None if it is not known.
        """
        if self._in_use is None:
            return None
        if not works:
            on_cpu = self._task.runtime.device.type == "cpu"
            return self._in_use + (REPORT_BYTES if on_cpu else 0)
        loading: defaultdict[str, int] = defaultdict(int)
        steps, weights = [0], dict[str, int]()
        for work in works:
            if (nbytes := self._cost(work).nbytes) is None:
                return None
            if work.network:
                weights[work.network] = self._weight_bytes(work)
                steps.append(nbytes - weights[work.network])
            else:
                loading[work.task] = max(loading[work.task], nbytes)
        images = max((self._image_bytes(work) for work in works), default=0)
        return self._in_use + sum(weights.values()) + max(steps) + sum(loading.values()) + images

    def _weight_bytes(self, work: Work) -> int:
        data = self._task.data
        return weight_bytes(work.network, len(data.class_names), work.side, data.channels)

    def _image_bytes(self, work: Work) -> int:
        """Bytes of the images of a set, of which few take part in a timing."""
        count: Any = dict(work.settings).get("images", 0)
        return int(count) * self._task.data.channels * work.side**2

    def _cost(self, work: Work) -> Cost:
        if work not in self._known:
            self._known[work] = self._look_up(work)
        return self._known[work]

    def _look_up(self, work: Work) -> Cost:
        key = self._key(work)
        if (rows := self._cache.get(key)) is not None:
            return Cost(*rows[0])  # type: ignore[arg-type]
        memory = PeakMemory(self._task.runtime.device)
        seconds, nbytes = TIMINGS[work.task](self._task, work, memory)
        cost = Cost(seconds * self._compiled_share(work), nbytes)
        log.debug("%s: %.3g ms a picture, %s bytes", key, 1000 * cost.seconds, nbytes)
        self._cache.put(key, [[*cost]])
        return cost

    def _compiled_share(self, work: Work) -> float:
        """The share of its time that a network takes in its form, which is timed uncompiled."""
        if work.task not in ("training", "pixels"):
            return 1.0
        kind, runtime = KINDS[work.task], self._task.runtime
        is_compiled = runtime.of(work.network, kind).compiled
        return compiled_share(work.network, kind, runtime) if is_compiled else 1.0

    def _key(self, work: Work) -> str:
        data, settings = self._task.data, dict(work.settings)
        if "extra" in settings:
            settings["extra"] = of_code(str(settings["extra"]))
        words = [work.task, f"{len(data.class_names)} classes", f"batch {work.batch}"]
        words += [f"{data.channels}x{work.side}"]
        words += [f"{name}={value}" for name, value in settings.items()]
        if work.network:
            form = self._task.runtime.of(work.network, KINDS[work.task]).form
            words = [of_code(work.network), form.name, *words]
        elif data.train.images is None:
            words += [data.fingerprint[:16], f"workers {self._task.workers}"]
        return " ".join(words)
