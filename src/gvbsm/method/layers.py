"""The matched layers of a network, and the shapes of their inputs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class MatchedLayers:
    """Layers whose inputs are compared with the statistics of the real data.

    Attributes:
        batchnorm: Module path -> BatchNorm layer with running statistics, for L_BN.
        conv: Module path -> convolution, for L_Conv; the input of the first is the image.
    """

    batchnorm: dict[str, nn.Module]
    conv: dict[str, nn.Module]


def matched_layers(model: nn.Module) -> MatchedLayers:
    """Find the matched layers of any network, by type.

    Args:
        model: A network.

    Returns:
        All `BatchNorm2d` layers with running statistics and all `Conv2d` layers, in the order of
        their definition. Either may be empty.
    """
    batchnorm: dict[str, nn.Module] = {}
    conv: dict[str, nn.Module] = {}
    for path, module in model.named_modules():
        if isinstance(module, nn.BatchNorm2d) and module.running_mean is not None:
            batchnorm[path] = module
        elif isinstance(module, nn.Conv2d):
            conv[path] = module
    return MatchedLayers(batchnorm, conv)


def layers_at(model: nn.Module, paths: Iterable[str]) -> dict[str, nn.Module]:
    """Return the layers at these module paths, by path.

    Raises:
        ValueError: If a path is not in the model.
    """
    modules = dict(model.named_modules(remove_duplicate=False))
    paths = list(paths)
    unknown = [path for path in paths if path not in modules]
    if unknown:
        raise ValueError(f"no such layers in {type(model).__name__}: {', '.join(unknown)}")
    return {path: modules[path] for path in paths}


@contextmanager
def hooked(
    layers: dict[str, nn.Module], before: Callable[[str], Callable[..., Any]]
) -> Iterator[None]:
    """Register `before(path)` as a pre-hook of each layer, inside the block."""
    with ExitStack() as hooks:
        for path, layer in layers.items():
            hooks.callback(layer.register_forward_pre_hook(before(path)).remove)
        yield


def input_shapes(
    model: nn.Module, paths: Iterable[str], image_shape: Sequence[int]
) -> dict[str, tuple[int, ...]]:
    """Return (channels, height, width) of each layer's input for a picture of `image_shape`."""
    shapes: dict[str, tuple[int, ...]] = {}

    def before(path: str) -> Callable[..., None]:
        def record(_module: nn.Module, arguments: tuple[Tensor, ...]) -> None:
            shapes[path] = tuple(arguments[0].shape[1:])

        return record

    weight = next(model.parameters())
    picture = torch.zeros(1, *image_shape, device=weight.device, dtype=weight.dtype)
    with torch.no_grad(), hooked(layers_at(model, paths), before):
        model(picture)
    return shapes
