"""Normalize pixels channel by channel, and bring them back to levels of 0 to 255.

Shapes: C channels, H rows, W columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor


@dataclass(frozen=True)
class Normalization:
    """Normalization of pixels: subtract the mean, divide by the standard deviation.

    Attributes:
        mean: Mean of the training pixels scaled to [0, 1], one a channel.
        std: Their standard deviation, one a channel.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def normalize(self, images: Tensor) -> Tensor:
        """Turn uint8 images, shape (..., C, H, W), into float32 `(pixel / 255 - mean) / std`."""
        if images.dtype != torch.uint8:
            raise ValueError(f"`images` must be uint8, got {images.dtype}")
        mean, std = _per_channel(self.mean, images), _per_channel(self.std, images)
        return (images.float() / 255 - mean) / std

    def denormalize(
        self, images: Tensor, rounding: Literal["nearest", "truncate"] = "nearest"
    ) -> Tensor:
        """Turn normalized images, shape (..., C, H, W), back into uint8, rounded and clamped.

        The field's reference code truncates, which darkens by half a gray level:
        `rounding="truncate"` does the same, and does not invert `normalize`.
        """
        mean, std = _per_channel(self.mean, images), _per_channel(self.std, images)
        levels = (images.float() * std + mean) * 255
        levels = levels.round() if rounding == "nearest" else levels
        return levels.clamp(0, 255).to(torch.uint8)

    def bounds(self) -> tuple[Tensor, Tensor]:
        """The normalized values of black and of white, each of shape (1, C, 1, 1)."""
        mean, std = _per_channel(self.mean)[None], _per_channel(self.std)[None]
        return (0 - mean) / std, (1 - mean) / std


def _per_channel(values: Sequence[float], like: Tensor | None = None) -> Tensor:
    """One value a channel as float32 (C, 1, 1), on the device of `like`."""
    column = torch.tensor(values, dtype=torch.float32).view(-1, 1, 1)
    return column if like is None else column.to(like.device, non_blocking=True)
