"""What is timed on, and how many steps are timed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from statistics import median

import torch
from torch import Tensor, nn

from gvbsm.backbones import build_backbone
from gvbsm.data.datasets import ImageData
from gvbsm.engine.device import Runtime
from gvbsm.engine.forms.race import timed
from gvbsm.engine.processes import ALONE
from gvbsm.engine.seeds import seeded
from gvbsm.pipeline.planning.work import Work

SECONDS = 0.12  # that the steps of a timing take together, if they are short
FEWEST, MOST = 2, 12  # steps of a timing
SMALLEST = 4  # pictures in a batch: networks of large pictures are timed on few of them


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
        """The runtime without bars, log, other processes and compilation."""
        return replace(runtime, quiet=True, log=None, processes=ALONE, compiled=False)

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


def batch_of(seconds: Callable[[int], float], most: int) -> tuple[int, float]:
    """Choose a batch that takes about `SECONDS`, by the time of a small one.

    Returns:
        Its size, and the seconds a picture of the small one.
    """
    few = min(SMALLEST, most)
    picture = max(seconds(few), 1e-7) / few
    return max(few, min(most, int(SECONDS / picture))), picture


def repetitions(seconds: float) -> int:
    """Number of steps of so many seconds that are timed."""
    return max(FEWEST, min(MOST, int(SECONDS / seconds)))


def median_seconds(step: Callable[[], object], runtime: Runtime) -> float:
    """Median time of a step, after one that is not counted."""
    step()
    return median(timed(step, runtime) for _ in range(FEWEST + 1))
