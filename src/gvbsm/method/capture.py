"""Sums of what the layers of a network see, taken during the forward pass.

All moments of a layer follow from two sums over the batch, of its input and of its square. So an
activation is read once on the way forward, and once on the way back, where the sums' gradient
joins the layer's own. Here that is done layer by layer; `compiled.py` does it in one graph.

Shapes: feature maps (groups * batch, channels, height, width); the images of each group are summed
on their own.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from gvbsm.method.layers import hooked, layers_at
from gvbsm.method.moments import pool_patches, spread_patches


class LayerSums(NamedTuple):
    """Sums over batch and pixels of one layer's input, and over channels too for the patches.

    Attributes:
        channel: Sum and sum of squares of each channel, (2, groups, channels).
        patch: The same of each patch, (2, groups, patch rows, patch columns).
    """

    channel: Tensor
    patch: Tensor


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


class Observer(Protocol):
    """A network that also returns the sums of what its layers saw."""

    def __call__(
        self, x: Tensor, wanted: Collection[str], groups: int = 1
    ) -> tuple[Tensor, dict[str, LayerSums]]:
        """A forward pass.

        Args:
            x: Pictures, (groups * batch, channels, height, width).
            wanted: Paths of the layers whose sums are needed.
            groups: Groups of images in the batch, in order and of equal size.

        Returns:
            Logits, and module path -> sums.

        Raises:
            RuntimeError: If a layer is called twice: one statistic cannot describe two inputs.
        """
        ...


class HookedObserver:
    """Takes the sums layer by layer, by hooks that are there during a call alone.

    Args:
        model: The network. None of its layers may change its input in place.
        paths: Module paths of layers with one input.
        n_p: Side of a patch in pixels.
        exact: Add in float64 (for statistics of a whole data set), else in float32.

    Raises:
        ValueError: If a path is not in the model.
    """

    def __init__(
        self, model: nn.Module, paths: Iterable[str], n_p: int, exact: bool = False
    ) -> None:
        self._model, self._n_p, self._exact = model, n_p, exact
        self._layers = layers_at(model, paths)

    def __call__(
        self, x: Tensor, wanted: Collection[str], groups: int = 1
    ) -> tuple[Tensor, dict[str, LayerSums]]:
        """A forward pass; see `Observer`."""
        sums: dict[str, LayerSums] = {}
        # id of a map -> the map (held, so that its id stays its own), what goes on, its sums
        swept: dict[int, tuple[Tensor, Tensor, LayerSums]] = {}

        def before(path: str) -> Callable[..., Tensor]:
            def sweep(_module: nn.Module, arguments: tuple[Tensor, ...]) -> Tensor:
                if path in sums:
                    raise RuntimeError(f"layer `{path}` is called twice in one forward pass")
                # Two layers may see the same map (a block and its shortcut): one sweep serves both.
                if id(arguments[0]) not in swept:
                    passed, layer_sums = observe(arguments[0], groups, self._n_p, self._exact)
                    swept[id(arguments[0])] = (arguments[0], passed, layer_sums)
                _, passed, sums[path] = swept[id(arguments[0])]
                return passed

            return sweep

        layers = {path: layer for path, layer in self._layers.items() if path in wanted}
        with hooked(layers, before):
            logits: Tensor = self._model(x)
        return logits, sums
