"""Sums of what the layers of a network see, taken during the forward pass.

All moments of a layer follow from two sums over the batch, of its input and of its square. So an
activation is read once on the way forward, and once on the way back, where the sums' gradient
joins the layer's own. Without a compiler that is done layer by layer; with one, the network and its
sums become one graph, in which they are taken along in sweeps that are made anyway.

Shapes: feature maps (groups * batch, channels, height, width); the images of each group are summed
on their own.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from gvbsm.method.moments import pool_patches, spread_patches

log = logging.getLogger("gvbsm")

# Left to itself, torch chooses how maps lie after the order of their sums has been chosen; the sums
# then take longer than the network. Channels-last throughout measured fastest.
KEEP_LAYOUT: dict[str, Any] = {"layout_optimization": False}


class LayerSums(NamedTuple):
    """Sums over batch and pixels of one layer's input, and over channels too for the patches.

    Attributes:
        channel: Sum and sum of squares of each channel, (2, groups, channels).
        patch: The same of each patch, (2, groups, patch rows, patch columns).
    """

    channel: Tensor
    patch: Tensor


class _Layout(NamedTuple):
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


def _layout(x: Tensor, groups: int, n_p: int, exact: bool) -> _Layout:
    last = not x.is_contiguous() and x.is_contiguous(memory_format=torch.channels_last)
    dtype = torch.float64 if exact or x.dtype == torch.float64 else torch.float32
    return _Layout(last, groups, n_p, dtype)


class _Observe(torch.autograd.Function):
    """Hand a map on and return its sums; on the way back both gradients meet in two sweeps."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, layout: _Layout) -> tuple[Tensor, Tensor, Tensor]:
        ctx.save_for_backward(x)
        ctx.layout = layout
        return x, *layout.reduce(layout.rows(x))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (x,) = ctx.saved_tensors
        layout: _Layout = ctx.layout
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
    passed, channel, patch = _Observe.apply(x, _layout(x, groups, n_p, exact))
    return passed, LayerSums(channel, patch)


class Observer(Protocol):
    """A network that also tells what its layers saw."""

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


class _Hooked:
    """Layer by layer, as the network runs."""

    def __init__(self, model: nn.Module, n_p: int, exact: bool) -> None:
        self._model, self._n_p, self._exact = model, n_p, exact
        self._wanted: Collection[str] = ()
        self._groups = 1
        self._sums: dict[str, LayerSums] = {}
        # id of a map -> the map (held, so that its id stays its own), what goes on, its sums
        self._seen: dict[int, tuple[Tensor, Tensor, LayerSums]] = {}

    def __call__(
        self, x: Tensor, wanted: Collection[str], groups: int = 1
    ) -> tuple[Tensor, dict[str, LayerSums]]:
        self._wanted, self._groups = wanted, groups
        try:
            logits: Tensor = self._model(x)
            return logits, self._sums
        finally:
            self._wanted, self._sums = (), {}
            self._seen.clear()

    def see(self, path: str, x: Tensor) -> Tensor | None:
        if path not in self._wanted:
            return None
        if path in self._sums:
            raise RuntimeError(f"layer `{path}` is called twice in one forward pass")
        # Two layers may see the same map (a block and its shortcut): one sweep serves both.
        if id(x) not in self._seen:
            self._seen[id(x)] = (x, *observe(x, self._groups, self._n_p, self._exact))
        _, passed, self._sums[path] = self._seen[id(x)]
        return passed


@contextmanager
def observing(
    model: nn.Module, paths: Iterable[str], n_p: int, exact: bool = False
) -> Iterator[Observer]:
    """Watch the layers at `paths`, as long as the context lasts.

    Args:
        model: The network. None of its layers may change its input in place.
        paths: Module paths of layers with one input.
        n_p: Side of a patch in pixels.
        exact: Add in float64.

    Yields:
        The observer, to be called in place of the network.

    Raises:
        ValueError: If a path is not in the model.
    """
    observer = _Hooked(model, n_p, exact)

    def before(path: str) -> Callable[..., Tensor | None]:
        return lambda _module, arguments: observer.see(path, arguments[0])

    with _hooked(model, paths, before):
        yield observer


def input_shapes(
    model: nn.Module, paths: Iterable[str], image_shape: Sequence[int]
) -> dict[str, tuple[int, ...]]:
    """(channels, height, width) of what each layer sees of a picture of `image_shape`."""
    shapes: dict[str, tuple[int, ...]] = {}

    def before(path: str) -> Callable[..., None]:
        def note(_module: nn.Module, arguments: tuple[Tensor, ...]) -> None:
            shapes[path] = tuple(arguments[0].shape[1:])

        return note

    weight = next(model.parameters())
    picture = torch.zeros(1, *image_shape, device=weight.device, dtype=weight.dtype)
    with torch.no_grad(), _hooked(model, paths, before):
        model(picture)
    return shapes


def compile_observer(model: nn.Module, paths: Iterable[str], n_p: int) -> Observer:
    """One graph of the network and of all its layers' sums, compiled for each batch size it meets.

    Compiling takes 10 to 80 seconds on two CPU cores for a network of the paper, once; later
    processes find it in torch's cache.

    Args:
        model: The network; a copy of it is compiled.
        paths: Module paths of layers with one input.
        n_p: Side of a patch in pixels.

    Raises:
        ValueError: If a path is not in the model.
    """
    watched = copy.deepcopy(model).to(memory_format=torch.channels_last)
    found: dict[str, LayerSums] = {}
    groups_of = [1]

    def before(path: str) -> Callable[..., None]:
        def note(_module: nn.Module, arguments: tuple[Tensor, ...]) -> None:
            if path in found:
                raise RuntimeError(f"layer `{path}` is called twice in one forward pass")
            layout = _layout(arguments[0], groups_of[0], n_p, exact=False)
            found[path] = layout.reduce(layout.rows(arguments[0]))

        return note

    for path, layer in _layers(watched, paths).items():
        layer.register_forward_pre_hook(before(path))

    def forward(x: Tensor) -> tuple[Tensor, dict[str, LayerSums]]:
        logits: Tensor = watched(x.contiguous(memory_format=torch.channels_last))
        sums = dict(found)
        found.clear()  # each pass begins alike, or torch would compile again
        return logits, sums

    # torch tells everybody without a GPU that no CUDA was found.
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)
    # The limit is for one piece of code, and this one serves all networks and batch sizes.
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, 64)
    run: Callable[[Tensor], tuple[Tensor, dict[str, LayerSums]]] | None = None

    def observer(
        x: Tensor, wanted: Collection[str], groups: int = 1
    ) -> tuple[Tensor, dict[str, LayerSums]]:
        nonlocal run
        groups_of[0] = groups
        try:
            run = run or torch.compile(forward, dynamic=False, options=KEEP_LAYOUT)
            logits, sums = run(x)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # whatever a missing or broken compiler leads to
            if run is forward:
                raise
            first = (str(error).splitlines() or [type(error).__name__])[0]
            log.warning("%s cannot be compiled, which is slower: %s", type(model).__name__, first)
            run = forward
            found.clear()
            logits, sums = forward(x)
        finally:
            found.clear()  # what a pass that failed has left
        return logits, {path: sums[path] for path in wanted}

    return observer


@contextmanager
def _hooked(
    model: nn.Module, paths: Iterable[str], before: Callable[[str], Callable[..., Any]]
) -> Iterator[None]:
    with ExitStack() as hooks:
        for path, layer in _layers(model, paths).items():
            hooks.callback(layer.register_forward_pre_hook(before(path)).remove)
        yield


def _layers(model: nn.Module, paths: Iterable[str]) -> dict[str, nn.Module]:
    modules = dict(model.named_modules(remove_duplicate=False))
    paths = list(paths)
    unknown = [path for path in paths if path not in modules]
    if unknown:
        raise ValueError(f"no such layers in {type(model).__name__}: {', '.join(unknown)}")
    return {path: modules[path] for path in paths}


def first_broken_layer(model: nn.Module, pictures: Tensor) -> str | None:
    """Module path of the first layer whose output is not finite; None if all outputs are.

    Args:
        model: A network.
        pictures: Normalized pictures, (batch, channels, height, width).
    """
    broken: list[str] = []

    def look(path: str, _module: nn.Module, _inputs: Any, output: Any) -> None:
        if not broken and isinstance(output, Tensor) and not bool(torch.isfinite(output).all()):
            broken.append(path)

    with ExitStack() as hooks, torch.no_grad():
        for path, module in model.named_modules():
            if path and not any(module.children()):
                hooks.enter_context(module.register_forward_hook(partial(look, path)))
        model(pictures)
    return broken[0] if broken else None
