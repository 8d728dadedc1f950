"""Flatness: keep the images' logits near those of their moving average (EDC, NeurIPS 2024)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from gvbsm.config import SynthesisConfig
from gvbsm.data.views import Views, apply_views
from gvbsm.engine.device import Runtime
from gvbsm.method.matching import Teacher
from gvbsm.method.synthesis import Extra, State


def flatness(logits: Tensor, average: Tensor, tau: float) -> Tensor:
    """KL(softmax(z / tau) || softmax(z_ema / tau)) of each image, float (batch,).

    EDC's flatness regularization (NeurIPS 2024, section 3.3.1).

    Args:
        logits: z, of the images, (batch, classes).
        average: z_ema, of the images' moving average, same shape, without gradient.
        tau: Temperature, above 0.
    """
    of_images = F.log_softmax(logits / tau, dim=1)
    of_average = F.log_softmax(average / tau, dim=1)
    return F.kl_div(of_average, of_images, reduction="none", log_target=True).sum(dim=1)


class Flatness(Extra):
    """Adds the term `flatness`; the images' moving average is `State.copies["flatness"]`.

    Args:
        config: `weight_flatness`, `flatness_decay` and `flatness_tau` are read.
        runtime: The precision of the second forward pass.
    """

    name = "flatness"

    def __init__(self, config: SynthesisConfig, runtime: Runtime) -> None:
        self._config, self._runtime = config, runtime
        self.weight = config.weight_flatness

    def before(self, state: State, teachers: Sequence[Teacher]) -> Sequence[Teacher]:
        """Start the moving average at the initial images."""
        if self.name not in state.copies:
            state.copies[self.name] = state.images.detach().clone()
        return teachers

    def term(self, state: State, views: Views, teacher: Teacher, logits: Tensor) -> Tensor:
        """Return the flatness of each image, float (groups * batch,)."""
        with torch.no_grad(), self._runtime.of(teacher.name, "pixels").autocast():
            average = teacher.model(apply_views(state.copies[self.name], views))
        return flatness(logits.float(), average.float(), self._config.flatness_tau)

    def after(self, state: State) -> None:
        """Update the moving average with decay `flatness_decay`."""
        decay = self._config.flatness_decay
        state.copies[self.name].lerp_(state.images.detach(), 1 - decay)
