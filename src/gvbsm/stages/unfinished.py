"""A stack's work in hand: its pixels and all that a stopped descent needs to go on to the same end.

The pixels, the optimiser's moments, the averages of statistics, the film and the traces go into
one checkpoint, and come back from it bit for bit.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from gvbsm.data.views import resize
from gvbsm.engine.fit import with_prefix, without_prefix
from gvbsm.engine.optimizers import pack_optimizer, unpack_optimizer
from gvbsm.files.checkpoint import Checkpoint
from gvbsm.method.matching import Average, State
from gvbsm.stages.group_files import Trace


@dataclass
class Work:
    """Stacked groups of images on their way.

    Attributes:
        images: The pixels, normalized float (groups * batch, channels, height, width), a leaf.
        solver: Their optimiser.
        state: The EMA of the statistics.
        film: Frames so far, uint8 (filmed, frames, channels, height, width).
        traces: Each group's trace.
        average: An EMA copy of the images, for flatness, or None.
        step: Iterations done.
    """

    images: Tensor
    solver: torch.optim.Optimizer
    state: State
    film: Tensor
    traces: list[Trace]
    average: Tensor | None = None
    step: int = 0

    def begin_stage(self, start: Tensor, residual: float, side: int) -> None:
        """Bring the images to a side, mix the start in, forget the moments (FADRM, NeurIPS 2025).

        They become (1 - residual) x + residual start, both at that side. So does the EMA copy, an
        average of such images.

        Args:
            start: Where the pixels started, of any side, on any device.
            residual: Its share.
            side: Side of the stage's images.
        """
        images, *averages = (
            resize(each, side) for each in (self.images.detach(), *self._averages())
        )
        if residual:
            real = resize(start.to(images.device), side)
            images, *averages = (each.lerp(real, residual) for each in (images, *averages))
        self._go_on_with(images, *averages)
        self.solver.state.clear()

    def _go_on_with(self, images: Tensor, average: Tensor | None = None) -> None:
        """Take other pixels for the images, in the optimiser too, and for their EMA copy."""
        self.images, self.average = images.requires_grad_(), average
        self.solver.param_groups[0]["params"] = [self.images]

    def follow(self, decay: float) -> None:
        """Let the EMA copy, if there is one, follow the images: it keeps `decay` of itself."""
        for average in self._averages():
            average.lerp_(self.images.detach(), 1 - decay)

    def _averages(self) -> list[Tensor]:
        return [] if self.average is None else [self.average]

    def keep(self, checkpoint: Checkpoint) -> None:
        """Write a checkpoint."""
        average = {
            f"{key}|{name}": value
            for key, part in self.state.items()
            for name, value in part._asdict().items()
        }
        tensors = {
            "images": self.images,
            **with_prefix("optimizer", pack_optimizer(self.solver)),
            **with_prefix("ema", average),
            "film": self.film,
        }
        if self.average is not None:
            tensors["average"] = self.average
        checkpoint.save(tensors, {"step": self.step, "traces": self.traces})

    def resume(self, checkpoint: Checkpoint) -> None:
        """Go on from a checkpoint, if there is one."""
        if (found := checkpoint.load()) is None:
            return
        tensors, saved = found
        device = self.images.device
        averages = (tensors["average"].to(device) for _ in self._averages())
        self._go_on_with(tensors["images"].to(device), *averages)
        self.film.copy_(tensors["film"])
        unpack_optimizer(self.solver, without_prefix("optimizer", tensors))
        average = without_prefix("ema", tensors)
        for key in self.state:
            fields = (average[f"{key}|{name}"].to(device) for name in Average._fields)
            self.state[key] = Average(*fields)
        self.step, self.traces = saved["step"], saved["traces"]
