"""The sums of `capture.py`, with the network and all its sums compiled into one graph.

The compiler fuses the sums with the operations that compute the feature maps.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Iterable

import torch
from torch import Tensor, nn

from gvbsm.engine.forms.compiled import CompiledFunction
from gvbsm.method.fast.sweeps import layout_of
from gvbsm.method.layers import layers_at
from gvbsm.method.moments import LayerSums


class CompiledObserver:
    """Computes a network and its layers' sums in one graph, compiled for each batch size.

    Compiling a network of the paper takes 10 to 80 seconds on two CPU cores, once: later processes
    load it from torch's cache. A network that cannot be compiled runs without compilation.

    Args:
        model: The network; a copy of it is compiled.
        paths: Module paths of layers with one input.
        n_p: Side of a patch in pixels.
        on_failure: Called with the error's text if the network cannot be compiled.

    Raises:
        ValueError: If a path is not in the model.
    """

    def __init__(
        self,
        model: nn.Module,
        paths: Iterable[str],
        n_p: int,
        on_failure: Callable[[str], None] = lambda _text: None,
    ) -> None:
        self._model = copy.deepcopy(model).to(memory_format=torch.channels_last)
        self._n_p, self._groups, self._on_failure = n_p, 1, on_failure
        self._sums: dict[str, LayerSums] = {}
        self._run = CompiledFunction(self._forward, self._failed)
        for path, layer in layers_at(self._model, paths).items():
            layer.register_forward_pre_hook(self._before(path))

    def __call__(
        self, x: Tensor, paths: Collection[str], groups: int = 1
    ) -> tuple[Tensor, dict[str, LayerSums]]:
        """Run a forward pass; see `capture.Observer`."""
        self._groups = groups
        try:
            logits, sums = self._run(x)
        finally:
            self._sums.clear()  # left by a pass that failed
        return logits, {path: sums[path] for path in paths}

    def _failed(self, text: str) -> None:
        self._sums.clear()
        self._on_failure(text)

    def _before(self, path: str) -> Callable[..., None]:
        def record(_module: nn.Module, arguments: tuple[Tensor, ...]) -> None:
            if path in self._sums:
                raise RuntimeError(f"layer `{path}` is called twice in one forward pass")
            layout = layout_of(arguments[0], self._groups, self._n_p, exact=False)
            self._sums[path] = layout.reduce(layout.rows(arguments[0]))

        return record

    def _forward(self, x: Tensor) -> tuple[Tensor, dict[str, LayerSums]]:
        logits: Tensor = self._model(x.contiguous(memory_format=torch.channels_last))
        sums = dict(self._sums)
        self._sums.clear()  # or the changed state would make torch compile again
        return logits, sums
