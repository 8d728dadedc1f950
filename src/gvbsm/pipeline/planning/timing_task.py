"""What is timed on, and how many steps are timed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from statistics import fmean

import torch
from torch import Tensor, nn

from gvbsm.backbones import build_backbone
from gvbsm.data.datasets import ImageData
from gvbsm.engine.device import Runtime
from gvbsm.engine.processes import ALONE
from gvbsm.engine.seeds import seeded
from gvbsm.pipeline.planning.peak_memory import PeakMemory
from gvbsm.pipeline.planning.work import Cost, Work

SECONDS = 0.12  # that the steps of a timing take together, if they are short
MOST = 12  # steps of a timing
SMALL_BATCH = 4  # pictures: a batch that takes long is not timed, but this one and
LARGER = 3  # one of at least so many times the pictures


@dataclass(frozen=True)
class TimingTask:
    """What is timed on.

    Attributes:
        data: The real pictures.
        runtime: Device, and the forms of the networks.
        workers: Processes that decode pictures which are not in memory.
    """

    data: ImageData
    runtime: Runtime
    workers: int = 0

    @property
    def classes(self) -> int:
        """Number of classes."""
        return len(self.data.class_names)

    def shape(self, work: Work) -> tuple[int, int, int]:
        """(channels, height, width) of a picture."""
        return self.data.channels, work.side, work.side

    def quiet(self, runtime: Runtime) -> Runtime:
        """The runtime without bars, log, other processes and compilation.

        Compiled networks have a layout that may be slow when they are not.
        """
        layout = None if runtime.compiled else runtime.layout
        alone = replace(runtime, quiet=True, log=None, processes=ALONE)
        return replace(alone, compiled=False, layout=layout)

    def network(self, work: Work) -> nn.Module:
        """Build a network, with random weights."""
        with seeded(0, "cost"):
            return build_backbone(work.network, self.classes, work.side, self.data.channels)

    def pictures(self, work: Work, count: int) -> tuple[Tensor, Tensor]:
        """Normalized noise (count, channels, height, width) and labels (count,), on the device."""
        generator = torch.Generator().manual_seed(0)
        noise = torch.randn(count, *self.shape(work), generator=generator)
        device = self.runtime.device
        return noise.to(device), (torch.arange(count) % self.classes).to(device)


def picture_cost(times: Callable[[int, int], list[float]], batch: int, memory: PeakMemory) -> Cost:
    """Return the cost of a picture in steps on batches of a size.

    A batch that takes long is not timed. Its time and memory are those of two smaller ones,
    extrapolated along a line: a step costs a time of its own, of the optimizer and of casting
    weights, and a time for each picture.

    Args:
        times: times(steps, size): seconds of so many steps on batches of a size; the first is not
            counted.
        batch: Pictures in a batch.
        memory: What is taken since before the network was built.
    """
    few = min(SMALL_BATCH, batch)
    memory.begin()
    short = min(times(3, few)[1:])
    least = memory.taken()
    affordable = max(LARGER * few, int(few * SECONDS / max(short, 1e-7)))
    size = min(batch, affordable)
    if size == few:
        return Cost(short / few, least)
    memory.begin()
    seconds = fmean(times(1 + repetitions(short * size / few), size)[1:])
    picture = max(seconds - short, 0.25 * seconds) / (size - few)
    most = memory.taken()
    if least is not None and most is not None:
        most += max(0, most - least) * (batch - size) // (size - few)
    return Cost((seconds + picture * (batch - size)) / batch, most)


def repetitions(seconds: float) -> int:
    """Number of steps of so many seconds that are timed."""
    return max(1, min(MOST, int(SECONDS / max(seconds, 1e-7))))
