"""Sums of what the layers of a network see, taken during the forward pass.

All moments of a layer follow from two sums over the batch, of its input and of its square. So an
activation is read once on the way forward, and once on the way back, where the gradient of the
sums is added to that of the layer (`fast/sweeps.py`). Here the sums are taken layer by layer;
`fast/compiled.py` takes them in one graph.

Shapes: feature maps (groups * batch, channels, height, width); the images of each group are summed
separately.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from typing import Protocol

from torch import Tensor, nn

from gvbsm.method.fast.sweeps import observe
from gvbsm.method.layers import hooked, layers_at
from gvbsm.method.moments import LayerSums


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
