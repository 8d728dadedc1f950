"""Settings of an optimizer and of its learning-rate schedule."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from gvbsm.config.fields import setting


@dataclass(frozen=True)
class OptimizerConfig:
    """An optimizer and its learning-rate schedule.

    Args:
        name: sgd (with momentum), adam, adamw, or muon (orthogonal updates of kernels and matrices,
            adamw for the classifier and all other parameters; not for synthesis).
        lr: Learning rate at the start.
        momentum: Momentum of sgd and muon.
        betas: The two decay rates of adam and adamw.
        weight_decay: Weight decay of tensors with more than one dimension.
        schedule: constant, cosine (over all steps), or ssrs (cosine for 5/6 of the steps, then a
            sixth of the rate reached, falling linearly to 0).
        zeta: Factor by which the cosine is stretched: with 1 the rate ends at 0, with 2 at half of
            lr.
        warmup: Share of the steps in which the rate rises linearly to lr, before the schedule
            starts.
    """

    name: Literal["sgd", "adam", "adamw", "muon"] = "sgd"
    lr: float = setting(0.05, limit="positive")
    momentum: float = setting(0.9, limit="[0, 1)")
    betas: tuple[float, float] = setting((0.9, 0.999), limit="[0, 1)")
    weight_decay: float = setting(0.0, limit="not negative")
    schedule: Literal["constant", "cosine", "ssrs"] = "cosine"
    zeta: float = 1.0
    warmup: float = setting(0.0, limit="[0, 1)")
