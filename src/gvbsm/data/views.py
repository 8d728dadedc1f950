"""Augment pictures by crop, flip and roll: draw the parameters first, apply them afterwards.

Shapes: images (batch, channels, height, width). A view is a crop (a box that is resized to the
picture's size), a mirror flag and a cyclic shift. Applying a view is differentiable with respect to
the pixels and never writes into its input.

All pictures are normalized, so the 0 that usually fills the border of a padded crop is the mean
color.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from gvbsm.config import ConfigError, ViewConfig


class Views(NamedTuple):
    """Parameters of one view a picture; all tensors have the pictures' count as first size.

    Attributes:
        boxes: Crop as (top, left, height, width), int64 (count, 4); may exceed the picture.
        flips: Whether the view is mirrored left-right, bool (count,).
        rolls: Cyclic shift down and right in pixels before the crop, int64 (count, 2).
    """

    boxes: Tensor
    flips: Tensor
    rolls: Tensor

    def select(self, index: Tensor) -> Views:
        """Return the views of the pictures at `index`, int64 (n,)."""
        return Views(self.boxes[index], self.flips[index], self.rolls[index])


def check_cells(views: ViewConfig, size: int) -> None:
    """Check that images can be cut into the tiles, and views into the cells, of the settings.

    Raises:
        ConfigError: If they cannot.
    """
    for key in ("shuffle", "tiles"):
        if (cells := getattr(views, key)) > 1 and size % cells:
            raise ConfigError(
                f"labels.views.{key} must divide the images' side of {size} pixels, got {cells}"
            )


def sample_views(
    count: int, height: int, width: int, generator: Generator, config: ViewConfig
) -> Views:
    """Draw the views of `count` pictures of `height` x `width` pixels.

    The paper augments with RandomResizedCrop (tables 7-9); the authors' code for small images
    crops after padding by 4 and rolls by up to 32 pixels, with one draw for the whole batch
    (G_VBSM@1ed80b0, Branch_CIFAR_100/recover/data_synthesis_*.py): `per_sample=False` does so.

    Args:
        count: Number of pictures.
        height: Height of a picture in pixels.
        width: Width of a picture in pixels.
        generator: Source of randomness, on the CPU.
        config: Crop, flip and roll; its settings of mixing and of the border are not read.
    """
    draws = count if config.per_sample else 1
    if config.crop == "resized":
        rows, columns = height // config.tiles, width // config.tiles
        boxes = _resized_boxes(draws, rows, columns, config, generator)
        if config.tiles > 1:
            tile = torch.randint(config.tiles, (draws, 2), generator=generator)
            boxes[:, :2] += tile * torch.tensor([rows, columns])
    else:
        reach = config.padding if config.crop == "pad" else 0
        corners = torch.randint(-reach, reach + 1, (draws, 2), generator=generator)
        boxes = torch.cat([corners, torch.tensor([[height, width]]).expand(draws, 2)], dim=1)
    flips = torch.rand(draws, generator=generator) < (0.5 if config.flip else 0.0)
    rolls = torch.randint(0, config.roll + 1, (draws, 2), generator=generator)
    if not config.per_sample:
        boxes, rolls, flips = boxes.expand(count, 4), rolls.expand(count, 2), flips.expand(count)
    return Views(boxes, flips, rolls)


def _resized_boxes(
    count: int, height: int, width: int, config: ViewConfig, generator: Generator
) -> Tensor:
    """Draw the boxes of RandomResizedCrop as torchvision does, int64 (count, 4).

    The area is uniform in `scale`, the aspect ratio log-uniform in `ratio`. The first of
    ten tries that fits into the picture is taken, else the largest centered box within `ratio`.
    """
    tries, ratio = 10, config.ratio
    area = torch.empty(count, tries).uniform_(*config.scale, generator=generator) * height * width
    logs = (math.log(ratio[0]), math.log(ratio[1]))
    aspect = torch.empty(count, tries).uniform_(*logs, generator=generator).exp()
    w = (area * aspect).sqrt().round().long()
    h = (area / aspect).sqrt().round().long()
    fits = (w > 0) & (w <= width) & (h > 0) & (h <= height)
    first = fits.long().argmax(dim=1, keepdim=True)  # the first try that fits, if one does
    w, h = w.gather(1, first).squeeze(1), h.gather(1, first).squeeze(1)
    fallback_w, fallback_h = _fallback_size(height, width, ratio)
    fitted = fits.any(dim=1)
    w = torch.where(fitted, w, torch.full_like(w, fallback_w))
    h = torch.where(fitted, h, torch.full_like(h, fallback_h))
    place = torch.rand(count, 2, generator=generator)
    top = torch.where(fitted, (place[:, 0] * (height - h + 1)).long(), (height - h) // 2)
    left = torch.where(fitted, (place[:, 1] * (width - w + 1)).long(), (width - w) // 2)
    return torch.stack([top, left, h, w], dim=1)


def _fallback_size(height: int, width: int, ratio: tuple[float, float]) -> tuple[int, int]:
    if width / height < ratio[0]:
        return width, round(width / ratio[0])
    if width / height > ratio[1]:
        return round(height * ratio[1]), height
    return width, height


def apply_views(images: Tensor, views: Views, outside: Tensor | None = None) -> Tensor:
    """Roll, crop, bring back to size (bilinear) and mirror each picture; differentiable.

    The authors roll after the crop. Here the roll comes first, so that the border of a padded crop
    stays at the border.

    Args:
        images: Normalized pictures, float (batch, channels, height, width).
        views: The views of the batch. If they are on the CPU, they are moved to the device here:
            whether there is anything to roll is then known without a device synchronization.
        outside: Value of the pixels outside of the picture, broadcast to the images; None is 0.

    Returns:
        The views, float (batch, channels, height, width).
    """
    if outside is not None:  # shift, so that the padding value is 0
        return apply_views(images - outside, views) + outside
    batch, _, height, width = images.shape
    boxes = views.boxes.to(images.device, non_blocking=True)
    # Positions are rounded. Without this mask a pixel beside the crop has a weight of 1e-7 and so
    # a gradient, which Adam scales up to a full step.
    rolled = _roll(images, views.rolls).masked_fill(~_inside(boxes, height, width), 0.0)
    flips = views.flips.to(images.device, non_blocking=True)
    top, left, h, w = boxes.to(images.dtype).unsqueeze(2).unbind(dim=1)  # (batch, 1) each
    rows = top + _source(torch.arange(height, device=images.device), height, h)  # (batch, height)
    columns = left + _source(torch.arange(width, device=images.device), width, w)  # (batch, width)
    columns = torch.where(flips[:, None], columns.flip(1), columns)
    grid = torch.stack(
        [
            ((2 * columns + 1) / width - 1)[:, None, :].expand(batch, height, width),
            ((2 * rows + 1) / height - 1)[:, :, None].expand(batch, height, width),
        ],
        dim=3,
    )  # (batch, height, width, 2), x before y
    return F.grid_sample(rolled, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


def _inside(boxes: Tensor, height: int, width: int) -> Tensor:
    """Mark the pixels inside of each picture's crop, bool (batch, 1, height, width)."""
    top, left, h, w = boxes.view(-1, 4, 1).unbind(dim=1)  # (batch, 1) each
    rows = torch.arange(height, device=boxes.device)
    columns = torch.arange(width, device=boxes.device)
    rows_in = (rows >= top) & (rows < top + h)
    columns_in = (columns >= left) & (columns < left + w)
    return rows_in[:, None, :, None] & columns_in[:, None, None, :]


def _source(index: Tensor, size: int, extent: Tensor) -> Tensor:
    """Map pixel `index` of `size` to its position in a crop of `extent` pixels: (batch, size).

    Clamped to the crop's own pixel centers, so that a resized crop does not look beyond its edge.
    """
    position = (index + 0.5) * (extent / size) - 0.5
    return torch.minimum(position.clamp(min=0), extent - 1)


def _roll(images: Tensor, rolls: Tensor) -> Tensor:
    if not bool(rolls.any()):
        return images
    rolls = rolls.to(images.device, non_blocking=True)
    batch, _, height, width = images.shape
    rows = (torch.arange(height, device=images.device) - rolls[:, :1]) % height  # (batch, height)
    columns = (torch.arange(width, device=images.device) - rolls[:, 1:]) % width
    which = torch.arange(batch, device=images.device)
    # Advanced indices at both ends put channels last: (batch, height, width, channels).
    return images[which[:, None, None], :, rows[:, :, None], columns[:, None, :]].permute(
        0, 3, 1, 2
    )


def resize(images: Tensor, side: int) -> Tensor:
    """Resize pictures, bilinear and, where they shrink, antialiased.

    Args:
        images: Float (batch, channels, height, width).
        side: Height and width of the result.

    Returns:
        Float (batch, channels, side, side); the same tensor if it has this side.
    """
    if tuple(images.shape[2:]) == (side, side):
        return images
    return F.interpolate(images, (side, side), mode="bilinear", antialias=True)
