"""CutMix, Mixup and patch shuffle: draw the parameters first, apply them to views afterwards.

Shapes: views (batch, channels, height, width). A mix names each view's partner and the box that is
pasted from the partner's view (CutMix) or the partner's share of every pixel (Mixup). No function
writes into its inputs, and all are differentiable with respect to the pixels.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Generator, Tensor

SHARES = 255  # levels of a partner's share in Mixup


class Mixes(NamedTuple):
    """CutMix's parameters.

    Attributes:
        partners: Index of the picture whose view is pasted, int64 (count,).
        boxes: Pasted region as (top, left, height, width), int64 (count, 4); area 0 is no mix.
    """

    partners: Tensor
    boxes: Tensor

    def select(self, index: Tensor) -> Mixes:
        """Return the mixes of the pictures at `index`, int64 (n,)."""
        return Mixes(self.partners[index], self.boxes[index])


def sample_mixes(
    count: int, height: int, width: int, cutmix: float, generator: Generator, *, per_sample: bool
) -> Mixes:
    """Draw CutMix's partners and boxes for the `count` pictures of an epoch.

    A partner is drawn from the whole set and a box for each picture, so that a view belongs to
    (epoch, image) and not to a batch. The authors' code draws one box for each batch
    (G_VBSM@1ed80b0, Branch_full_ImageNet_1k/relabel/utils_fkd.py): `per_sample=False` gives all
    pictures one box. As there, the kept share is drawn from Beta(cutmix, cutmix), the center
    uniformly, and the box is clipped at the border.

    Args:
        count: Number of pictures.
        height: Height of a view in pixels.
        width: Width of a view in pixels.
        cutmix: Parameter of the Beta distribution; 0 mixes nothing.
        generator: Source of randomness, on the CPU.
        per_sample: False gives all pictures the same box.
    """
    partners = torch.randperm(count, generator=generator)
    if cutmix == 0:
        return Mixes(partners, torch.zeros(count, 4, dtype=torch.long))
    draws = count if per_sample else 1
    cut = (1 - _beta(draws, cutmix, generator)).sqrt()
    position = torch.rand(draws, 2, generator=generator)
    limits = torch.tensor([height, width])
    center = (position * limits).long()
    half = (cut[:, None] * limits).long() // 2
    low = (center - half).clamp(min=0)
    high = torch.minimum(center + half, limits)
    boxes = torch.cat([low, high - low], dim=1).expand(count, 4)
    return Mixes(partners, boxes)


def _beta(count: int, parameter: float, generator: Generator) -> Tensor:
    """Draw from Beta(parameter, parameter), float64 (count,).

    A draw is made from two of Gamma(a, 1), the only such sampler of torch that takes a generator.
    float32 would underflow for small a.
    """
    shape = torch.full((count, 2), parameter, dtype=torch.float64)
    gamma = torch._standard_gamma(shape, generator=generator)
    return gamma[:, 0] / gamma.sum(dim=1)


def sample_shares(
    count: int, mixup: float, generator: Generator, *, half: bool, per_sample: bool
) -> Tensor:
    """Draw the partners' shares in Mixup as multiples of 1 / `SHARES`, which can be stored exactly.

    Args:
        count: Number of pictures.
        mixup: Parameter of the Beta distribution, above 0.
        generator: Source of randomness, on the CPU.
        half: Apply Mixup to each picture with probability 1/2 only; the others have -1.
        per_sample: False gives all pictures the same draw.

    Returns:
        int64 (count,), from -1 to `SHARES`.
    """
    draws = count if per_sample else 1
    shares = (_beta(draws, mixup, generator) * SHARES).round().long()
    if half:
        is_mixed = torch.rand(draws, generator=generator) < 0.5
        shares = torch.where(is_mixed, shares, torch.full_like(shares, -1))
    return shares.expand(count)


def sample_cells(count: int, side: int, generator: Generator, *, per_sample: bool) -> Tensor:
    """Draw a permutation of the `side` x `side` cells of each view, row by row.

    Args:
        count: Number of pictures.
        side: Cells along a side.
        generator: Source of randomness, on the CPU.
        per_sample: False gives all pictures the same order.

    Returns:
        Permutations, int64 (count, side^2).
    """
    # The order of uniform draws is a uniform permutation; in float64 no two are equal.
    draws = count if per_sample else 1
    keys = torch.rand(draws, side**2, generator=generator, dtype=torch.float64)
    return keys.argsort(dim=1).expand(count, side**2)


def apply_mixes(views: Tensor, partner_views: Tensor, boxes: Tensor) -> Tensor:
    """Paste the partner's region into each view (CutMix); return a new tensor.

    Args:
        views: Float (batch, channels, height, width).
        partner_views: The partners' views, same shape.
        boxes: Pasted regions (top, left, height, width), int64 (batch, 4), on any device.
    """
    boxes = boxes.to(views.device, non_blocking=True)
    _, _, height, width = views.shape
    top, left, h, w = boxes.unsqueeze(2).unbind(dim=1)  # (batch, 1) each
    row = torch.arange(height, device=views.device)
    column = torch.arange(width, device=views.device)
    inside_rows = (row >= top) & (row < top + h)  # (batch, height)
    inside_columns = (column >= left) & (column < left + w)  # (batch, width)
    inside = inside_rows[:, None, :, None] & inside_columns[:, None, None, :]
    return torch.where(inside, partner_views, views)


def apply_cells(views: Tensor, cells: Tensor) -> Tensor:
    """Permute the cells of each view (RDED's patch shuffle); differentiable.

    Args:
        views: Float (batch, channels, height, width); n divides height and width.
        cells: The cell that comes to each place, row by row, int64 (batch, n^2), on any device.
    """
    cells = cells.to(views.device, non_blocking=True)
    batch, channels, height, width = views.shape
    n = math.isqrt(cells.shape[1])
    cut = views.view(batch, channels, n, height // n, n, width // n).permute(0, 2, 4, 1, 3, 5)
    which = torch.arange(batch, device=views.device)[:, None]
    moved = cut.flatten(1, 2)[which, cells]
    placed = moved.view(batch, n, n, channels, height // n, width // n)
    return placed.permute(0, 3, 1, 4, 2, 5).reshape(views.shape)


def apply_shares(views: Tensor, partner_views: Tensor, shares: Tensor) -> Tensor:
    """Blend each view with its partner's (Mixup); return a new tensor.

    Args:
        views: Float (batch, channels, height, width).
        partner_views: The partners' views, same shape.
        shares: The partners' shares in `SHARES`-ths, int64 (batch,), on any device; 0 or less is
            no blend.
    """
    weights = shares.to(views.device, non_blocking=True).clamp(min=0).to(views.dtype) / SHARES
    return torch.lerp(views, partner_views, weights[:, None, None, None])


def kept_share(boxes: Tensor, height: int, width: int) -> Tensor:
    """Return the share of each picture that CutMix keeps (its true lambda), float (batch,)."""
    return 1 - (boxes[:, 2] * boxes[:, 3]).float() / (height * width)
