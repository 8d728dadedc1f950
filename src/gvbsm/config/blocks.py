"""What several sections of the settings hold."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal


class ConfigError(ValueError):
    """A fault in the settings, told in one line (or one line a fault)."""


Parallel = Literal["networks", "pictures"]
LATER = {"later": True}  # metadata of a field, see `later`


def later(default: Any) -> Any:
    """A field that came later: recipes tell it where it is not `default` (`recipes.told`).

    So what was made before there was such a setting is not made again.
    """
    return field(default=default, metadata=LATER)


@dataclass(frozen=True)
class ViewConfig:
    """How one picture becomes a view of it.

    Args:
        crop: none, pad (shifted crop over a border, see border), or resized (RandomResizedCrop).
        padding: Border in pixels for crop=pad.
        scale: Smallest and largest share of the area for crop=resized.
        ratio: Smallest and largest width/height for crop=resized.
        flip: Mirror left-right with probability 1/2.
        roll: Largest cyclic shift in pixels along each axis, before the crop; 0 is off.
        cutmix: Parameter of CutMix's Beta distribution; 0 is off.
        shuffle: Cells along a side into which a view is cut; their places are drawn anew (RDED's
            patch shuffle), before views are mixed. 0 and 1 are off.
        mixup: Parameter of Mixup's Beta distribution; 0 is off. Beside cutmix each of the two has
            probability 1/2.
        border: Border for crop=pad: mean (colour), or black, which is around finished pictures
            alone, as the authors' code has it; images in synthesis keep the mean colour.
        per_sample: One draw for each synthetic image (true), or one for a batch of synthesis and
            one for an epoch of labels (false). Real pictures always have one each.
    """

    crop: Literal["none", "pad", "resized"] = "resized"
    padding: int = 4
    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (0.75, 4 / 3)
    flip: bool = True
    roll: int = 0
    cutmix: float = 0.0
    per_sample: bool = True
    shuffle: int = later(0)
    mixup: float = later(0.0)
    border: Literal["mean", "black"] = later("mean")


@dataclass(frozen=True)
class OptimizerConfig:
    """An optimiser and its learning-rate schedule.

    Args:
        name: sgd (with momentum), adam, adamw, or muon (orthogonal updates of kernels and matrices,
            adamw for the rest, the classifier among it), which synthesis does not have.
        lr: Learning rate at the start.
        momentum: Momentum of sgd and muon.
        betas: The two decay rates of adam and adamw.
        weight_decay: Weight decay, on tensors with more than one dimension alone.
        schedule: constant, cosine (over all steps), or ssrs (as cosine, but after 5/6 of the steps
            a sixth of the rate reached there, and from there linearly to 0).
        zeta: Stretches the cosine: only 1/zeta of its half period is run through, so that 1 ends at
            a rate of 0, 2 at half of lr.
        warmup: Share of the steps over which the rate first rises linearly to lr; the schedule is
            that of the steps after it.
    """

    name: Literal["sgd", "adam", "adamw", "muon"] = "sgd"
    lr: float = 0.05
    momentum: float = 0.9
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.0
    schedule: Literal["constant", "cosine", "ssrs"] = "cosine"
    zeta: float = later(1.0)
    warmup: float = later(0.0)
