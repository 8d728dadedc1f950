"""The sums of a feature map in few sweeps over memory, with a backward pass of its own."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from gvbsm.method.moments import LayerSums, pool_patches


def spread_patches(patches: Tensor, n_p: int, height: int, width: int) -> Tensor:
    """Bring each patch's number to all of its pixels, the adjoint of `pool_patches`."""
    spread = patches.repeat_interleave(n_p, dim=-2).repeat_interleave(n_p, dim=-1)
    return spread[..., :height, :width]


class Layout(NamedTuple):
    """How a feature map is swept: in the order in which it lies in memory.

    torch sums a channels-last tensor over its batch 12 times slower than the same numbers seen as
    (batch, height, width, channels).
    """

    last: bool  # channels-last
    groups: int
    n_p: int
    dtype: torch.dtype  # of the sums

    def rows(self, x: Tensor) -> Tensor:
        """(groups, batch, channels, height, width), or channels at the end as in memory."""
        ordered = (x.permute(0, 2, 3, 1) if self.last else x).contiguous()
        return ordered.view(self.groups, -1, *ordered.shape[1:])

    def unrows(self, rows: Tensor) -> Tensor:
        """The inverse of `rows`."""
        ordered = rows.flatten(end_dim=1)
        return ordered.permute(0, 3, 1, 2) if self.last else ordered

    def reduce(self, rows: Tensor) -> LayerSums:
        """The sums of a map in memory's order."""
        exact = self.dtype == torch.float64 != rows.dtype
        # A few pictures at a time, so that their float64 copy stays in the cache.
        parts = torch.split(rows, 8, dim=1) if exact else (rows,)
        maps = sum(map(self._sums, parts), start=torch.zeros((), device=rows.device))
        side = 2 if self.last else 3
        planes = maps.sum(dim=4 if self.last else 2)
        return LayerSums(maps.sum(dim=(side, side + 1)), pool_patches(planes, self.n_p))

    def _sums(self, rows: Tensor) -> Tensor:
        # Products of bf16 numbers, rounded to bf16, would lose the variance: widen first.
        wide = rows.to(self.dtype)
        return torch.stack([wide.sum(dim=1), wide.square().sum(dim=1)])

    def spread(self, sums: LayerSums, height: int, width: int) -> Tensor:
        """What each number of a picture owes to its channel and to its patch: `reduce`'s adjoint.

        (2, groups, channels, height, width), or channels at the end.
        """
        plane = spread_patches(sums.patch, self.n_p, height, width)
        if self.last:
            return sums.channel[:, :, None, None, :] + plane[..., None]
        return sums.channel[..., None, None] + plane[:, :, None]


def layout_of(x: Tensor, groups: int, n_p: int, exact: bool) -> Layout:
    """How a feature map lies in memory, and how its sums are taken."""
    last = not x.is_contiguous() and x.is_contiguous(memory_format=torch.channels_last)
    dtype = torch.float64 if exact or x.dtype == torch.float64 else torch.float32
    return Layout(last, groups, n_p, dtype)


class _Observe(torch.autograd.Function):
    """Hand a map on and return its sums; on the way back both gradients meet in two sweeps."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, layout: Layout) -> tuple[Tensor, Tensor, Tensor]:
        ctx.save_for_backward(x)
        ctx.layout = layout
        return x, *layout.reduce(layout.rows(x))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (x,) = ctx.saved_tensors
        layout: Layout = ctx.layout
        own, *sums = gradients
        total, squares = layout.spread(LayerSums(*sums), *x.shape[2:]).unsqueeze(2)
        # d(sum) / dx = 1 and d(sum of squares) / dx = 2 x.
        joined = torch.addcmul(total, layout.rows(x).to(layout.dtype), squares, value=2)
        joined += layout.rows(own)
        return layout.unrows(joined.to(own.dtype)), None


def observe(x: Tensor, groups: int, n_p: int, exact: bool = False) -> tuple[Tensor, LayerSums]:
    """Hand a feature map on and take its sums.

    Args:
        x: (groups * batch, channels, height, width), contiguous or channels-last.
        groups: Groups whose images are summed on their own.
        n_p: Side of a patch in pixels.
        exact: Add in float64 (for statistics of a whole data set), else in float32.

    Returns:
        The same map, to be used in place of `x` so that both gradients meet, and the sums.
    """
    passed, channel, patch = _Observe.apply(x, layout_of(x, groups, n_p, exact))
    return passed, LayerSums(channel, patch)
