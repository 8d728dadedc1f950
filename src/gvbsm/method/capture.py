"""Sums over the inputs of a network's layers, computed during the forward pass.

All moments of a layer follow from two sums over the batch: of its input and of its input's square.
So each activation is read once in the forward pass, and once in the backward pass, where the
gradient of the sums is added to the layer's own (`fast/sweeps.py`). Hooks compute the sums layer by
layer here; `fast/compiled.py` computes them in one graph.

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
    """Calls a network, and also returns the sums of its layers' inputs."""

    def __call__(
        self, x: Tensor, paths: Collection[str], groups: int = 1
    ) -> tuple[Tensor, dict[str, LayerSums]]:
        """Run a forward pass.

        Args:
            x: Pictures, (groups * batch, channels, height, width).
            paths: Module paths of the layers to sum.
            groups: Groups of images in the batch, in order and of equal size.

        Returns:
            Logits, and the sums by module path.

        Raises:
            RuntimeError: If a layer is called twice: one statistic cannot describe two inputs.
        """
        ...


class HookedObserver:
    """Computes the sums layer by layer, with hooks that exist only during a call.

    Args:
        model: The network. None of its layers may change its input in place.
        paths: Module paths of layers with one input.
        n_p: Side of a patch in pixels.
        exact: Sum in float64 (for statistics of a whole data set), else in float32.

    Raises:
        ValueError: If a path is not in the model.
    """

    def __init__(
        self, model: nn.Module, paths: Iterable[str], n_p: int, exact: bool = False
    ) -> None:
        self._model, self._n_p, self._exact = model, n_p, exact
        self._layers = layers_at(model, paths)

    def __call__(
        self, x: Tensor, paths: Collection[str], groups: int = 1
    ) -> tuple[Tensor, dict[str, LayerSums]]:
        """Run a forward pass; see `Observer`."""
        sums: dict[str, LayerSums] = {}
        # id of an input -> the input (kept alive, so that its id stays unique), its copy, its sums
        summed: dict[int, tuple[Tensor, Tensor, LayerSums]] = {}

        def before(path: str) -> Callable[..., Tensor]:
            def record(_module: nn.Module, arguments: tuple[Tensor, ...]) -> Tensor:
                if path in sums:
                    raise RuntimeError(f"layer `{path}` is called twice in one forward pass")
                # Two layers may have the same input (a block and its shortcut): sum it once.
                if id(arguments[0]) not in summed:
                    copied, layer_sums = observe(arguments[0], groups, self._n_p, self._exact)
                    summed[id(arguments[0])] = (arguments[0], copied, layer_sums)
                _, copied, sums[path] = summed[id(arguments[0])]
                return copied

            return record

        layers = {path: layer for path, layer in self._layers.items() if path in paths}
        with hooked(layers, before):
            logits: Tensor = self._model(x)
        return logits, sums
