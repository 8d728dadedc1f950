"""Flatness: the logits of the images stay near those of an EMA copy of them (EDC, NeurIPS 2024)."""

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
        average: z_ema, of their EMA copy, same shape, without gradient.
        tau: Temperature, above 0.
    """
    ours = F.log_softmax(logits / tau, dim=1)
    theirs = F.log_softmax(average / tau, dim=1)
    return F.kl_div(theirs, ours, reduction="none", log_target=True).sum(dim=1)


class Flatness(Extra):
    """The term `flatness`, and the EMA copy of the images, `State.copies["flatness"]`.

    Args:
        config: `weight_flatness`, `flatness_decay` and `flatness_tau` are read.
        runtime: The precision of the second forward pass.
    """

    name = "flatness"

    def __init__(self, config: SynthesisConfig, runtime: Runtime) -> None:
        self._config, self._runtime = config, runtime
        self.weight = config.weight_flatness

    def before(self, state: State, teachers: Sequence[Teacher]) -> Sequence[Teacher]:
        """Start the copy at the first images."""
        if self.name not in state.copies:
            state.copies[self.name] = state.images.detach().clone()
        return teachers

    def term(self, state: State, views: Views, teacher: Teacher, logits: Tensor) -> Tensor:
        """The flatness of each image, float (groups * batch,)."""
        with torch.no_grad(), self._runtime.autocast():
            past = teacher.model(apply_views(state.copies[self.name], views))
        return flatness(logits.float(), past.float(), self._config.flatness_tau)

    def after(self, state: State) -> None:
        """Let the copy follow the images: it keeps `flatness_decay` of itself."""
        decay = self._config.flatness_decay
        state.copies[self.name].lerp_(state.images.detach(), 1 - decay)
