"""Sums of a feature map in few passes over memory, with a custom backward pass."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from gvbsm.method.moments import LayerSums, pool_patches


def spread_patches(patches: Tensor, n_p: int, height: int, width: int) -> Tensor:
    """Copy each patch's value to all of its pixels: the adjoint of `pool_patches`."""
    spread = patches.repeat_interleave(n_p, dim=-2).repeat_interleave(n_p, dim=-1)
    return spread[..., :height, :width]


class Layout(NamedTuple):
    """Memory layout of a feature map, in whose order it is summed.

    torch sums a channels-last tensor over its batch 12 times slower than a view of it as
    (batch, height, width, channels).
    """

    channels_last: bool
    groups: int
    n_p: int
    dtype: torch.dtype  # of the sums

    def rows(self, x: Tensor) -> Tensor:
        """View as (groups, batch, channels, height, width); with channels last if so in memory."""
        ordered = (x.permute(0, 2, 3, 1) if self.channels_last else x).contiguous()
        return ordered.view(self.groups, -1, *ordered.shape[1:])

    def unrows(self, rows: Tensor) -> Tensor:
        """Undo `rows`."""
        ordered = rows.flatten(end_dim=1)
        return ordered.permute(0, 3, 1, 2) if self.channels_last else ordered

    def reduce(self, rows: Tensor) -> LayerSums:
        """Sum a feature map that `rows` has returned."""
        widens = self.dtype == torch.float64 and rows.dtype != torch.float64
        # A few pictures at a time, so that their float64 copy stays in the cache.
        chunks = torch.split(rows, 8, dim=1) if widens else (rows,)
        maps = sum(map(self._sums, chunks), start=torch.zeros((), device=rows.device))
        side = 2 if self.channels_last else 3
        planes = maps.sum(dim=4 if self.channels_last else 2)
        return LayerSums(maps.sum(dim=(side, side + 1)), pool_patches(planes, self.n_p))

    def _sums(self, rows: Tensor) -> Tensor:
        # Squares that are rounded to bf16 would lose the variance: widen first.
        wide = rows.to(self.dtype)
        return torch.stack([wide.sum(dim=1), wide.square().sum(dim=1)])

    def spread(self, sums: LayerSums, height: int, width: int) -> Tensor:
        """Add up the values of each activation's channel and patch: the adjoint of `reduce`.

        Returns (2, groups, channels, height, width), or with channels last.
        """
        plane = spread_patches(sums.patch, self.n_p, height, width)
        if self.channels_last:
            return sums.channel[:, :, None, None, :] + plane[..., None]
        return sums.channel[..., None, None] + plane[:, :, None]


def layout_of(x: Tensor, groups: int, n_p: int, exact: bool) -> Layout:
    """Return the memory layout of a feature map, and the dtype of its sums."""
    channels_last = not x.is_contiguous() and x.is_contiguous(memory_format=torch.channels_last)
    dtype = torch.float64 if exact or x.dtype == torch.float64 else torch.float32
    return Layout(channels_last, groups, n_p, dtype)


class _Observe(torch.autograd.Function):
    """Return a feature map and its sums; backward, add the gradients of both in two passes."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, layout: Layout) -> tuple[Tensor, Tensor, Tensor]:
        ctx.save_for_backward(x)
        ctx.layout = layout
        return x, *layout.reduce(layout.rows(x))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (x,) = ctx.saved_tensors
        layout: Layout = ctx.layout
        of_map, *of_sums = gradients
        total, squares = layout.spread(LayerSums(*of_sums), *x.shape[2:]).unsqueeze(2)
        # d(sum) / dx = 1 and d(sum of squares) / dx = 2 x.
        gradient = torch.addcmul(total, layout.rows(x).to(layout.dtype), squares, value=2)
        gradient += layout.rows(of_map)
        return layout.unrows(gradient.to(of_map.dtype)), None


def observe(x: Tensor, groups: int, n_p: int, exact: bool = False) -> tuple[Tensor, LayerSums]:
    """Return a feature map and its sums.

    Args:
        x: (groups * batch, channels, height, width), contiguous or channels-last.
        groups: Number of groups; the images of each are summed separately.
        n_p: Side of a patch in pixels.
        exact: Sum in float64 (for statistics of a whole data set), else in float32.

    Returns:
        A copy that shares the memory of `x` and must replace it in the graph, so that the gradients
        of map and sums are added, and the sums.
    """
    copied, channel, patch = _Observe.apply(x, layout_of(x, groups, n_p, exact))
    return copied, LayerSums(channel, patch)
