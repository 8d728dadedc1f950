"""Settings of an augmentation: how one picture becomes a view of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from gvbsm.config.fields import setting


@dataclass(frozen=True)
class ViewConfig:
    """Augmentation: how a picture becomes a view.

    Args:
        crop: none, pad (random shift over a border), or resized (RandomResizedCrop).
        padding: Width of the border in pixels for crop=pad.
        scale: Smallest and largest share of the area for crop=resized.
        ratio: Smallest and largest width/height for crop=resized.
        tiles: With crop=resized, number of tiles along a side of an image; each crop lies in one
            tile, and scale is the share of the tile's area (OGM). 1 crops the whole image.
        flip: Flip left-right with probability 1/2.
        roll: Largest cyclic shift in pixels along each axis, before the crop; 0 is off.
        cutmix: Parameter of CutMix's Beta distribution; 0 is off.
        shuffle: Number of cells along a side of a view, whose positions are permuted before mixing
            (RDED's patch shuffle); 0 and 1 are off.
        mixup: Parameter of Mixup's Beta distribution; 0 is off. With cutmix, each is applied with
            probability 1/2.
        border: Border for crop=pad: the mean color (mean), or black around finished pictures
            (black, the authors' code); images in synthesis keep the mean color.
        per_sample: Draw a view for each distilled image (true), or one for each batch of synthesis
            and each epoch of labels (false); for real pictures always one each.
    """

    crop: Literal["none", "pad", "resized"] = "resized"
    padding: int = setting(4, limit="not negative")
    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (0.75, 4 / 3)
    tiles: int = setting(1, limit="positive")
    flip: bool = True
    roll: int = setting(0, limit="not negative")
    cutmix: float = setting(0.0, limit="not negative")
    per_sample: bool = True
    shuffle: int = setting(0, limit="not negative")
    mixup: float = setting(0.0, limit="not negative")
    border: Literal["mean", "black"] = "mean"
