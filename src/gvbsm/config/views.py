"""Settings of an augmentation: how one picture becomes a view of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from gvbsm.config.fields import setting


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
        border: Border for crop=pad: mean (color), or black, which is around finished pictures
            alone, as the authors' code has it; images in synthesis keep the mean color.
        per_sample: One draw for each synthetic image (true), or one for a batch of synthesis and
            one for an epoch of labels (false). Real pictures always have one each.
    """

    crop: Literal["none", "pad", "resized"] = "resized"
    padding: int = setting(4, limit="not negative")
    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (0.75, 4 / 3)
    flip: bool = True
    roll: int = setting(0, limit="not negative")
    cutmix: float = setting(0.0, limit="not negative")
    per_sample: bool = True
    shuffle: int = setting(0, limit="not negative")
    mixup: float = setting(0.0, limit="not negative")
    border: Literal["mean", "black"] = "mean"
