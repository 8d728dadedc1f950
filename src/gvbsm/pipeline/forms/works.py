"""The kinds of work whose forms are raced, as functions that compute one batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gvbsm.backbones.folding import fold_batchnorm
from gvbsm.engine.device import Runtime
from gvbsm.engine.forms import Kind
from gvbsm.engine.forms.compiled import CompiledNetwork
from gvbsm.engine.forms.race import Step, Work, noise
from gvbsm.method.capture import HookedObserver, Observer
from gvbsm.method.fast.compiled import CompiledObserver
from gvbsm.method.layers import matched_layers

N_P = 4  # side of a patch whose statistics are taken; the time hardly depends on it


def prepare(network: nn.Module, kind: Kind, shape: Sequence[int]) -> tuple[nn.Module, Work]:
    """Return a network as a kind of work calls it, and that work.

    Args:
        network: A new network; changed in place.
        kind: The kind of work.
        shape: (channels, height, width) of a picture.
    """
    if kind == "training":
        return network.train(), training
    _record_moments(network, shape)
    network.eval().requires_grad_(False)
    if kind == "pixels":
        return network, hooked_pixels
    return fold_batchnorm(network, shape), _inference


def _record_moments(network: nn.Module, shape: Sequence[int]) -> None:
    """Give BatchNorm the moments of noise: with those of a new network its maps would explode."""
    layers = [layer for layer in network.modules() if isinstance(layer, nn.BatchNorm2d)]
    momenta = [layer.momentum for layer in layers]
    for layer in layers:
        layer.momentum = 1.0
    with torch.no_grad():
        network.train()(noise(shape))
    for layer, momentum in zip(layers, momenta, strict=True):
        layer.momentum = momentum


def training(network: nn.Module, runtime: Runtime) -> Step:
    """Forward and backward pass of a training step."""

    def step(pictures: Tensor) -> Tensor:
        network.zero_grad()
        with runtime.autocast():
            logits = network(pictures)
        _cross_entropy(logits).backward()  # type: ignore[no-untyped-call]
        gradients = [weight.grad for weight in network.parameters() if weight.grad is not None]
        return torch.cat([gradient.flatten() for gradient in gradients])

    return step


def compiled_training(
    network: nn.Module, runtime: Runtime, on_failure: Callable[[str], None]
) -> Step:
    """The same, compiled; `on_failure` is called if it cannot be compiled."""
    return training(CompiledNetwork(network, on_failure), runtime)


def hooked_pixels(network: nn.Module, runtime: Runtime) -> Step:
    """Statistics of all layers by hooks, and the gradient of the pixels."""
    paths = _paths(network)
    return partial(_pixel_gradient, HookedObserver(network, paths, N_P), paths, runtime)


def compiled_pixels(
    network: nn.Module, runtime: Runtime, on_failure: Callable[[str], None]
) -> Step:
    """The same, compiled; `on_failure` is called if it cannot be compiled."""
    paths = _paths(network)
    observer = CompiledObserver(network, paths, N_P, on_failure)
    return partial(_pixel_gradient, observer, paths, runtime)


def _paths(network: nn.Module) -> set[str]:
    """Paths of the modules whose statistics are matched."""
    layers = matched_layers(network)
    return {*layers.batchnorm, *layers.conv}


def _pixel_gradient(
    observer: Observer, paths: set[str], runtime: Runtime, pictures: Tensor
) -> Tensor:
    """Take the gradient of a loss of the logits, and of the sums of all layers, by the pixels."""
    pixels = pictures.clone().requires_grad_()
    with runtime.autocast():
        logits, sums = observer(pixels, paths)
    # The sums take part with weight 0, so that their gradients are computed too.
    total = sum((part.sum() for layer in sums.values() for part in layer), torch.zeros(()))
    (gradient,) = torch.autograd.grad(_cross_entropy(logits) + 0 * total, pixels)
    return gradient


def _inference(network: nn.Module, runtime: Runtime) -> Step:
    """Forward pass without gradients."""

    def step(pictures: Tensor) -> Tensor:
        with torch.no_grad(), runtime.autocast():
            logits: Tensor = network(pictures)
        return logits

    return step


def _cross_entropy(logits: Tensor) -> Tensor:
    wide = logits if logits.dtype == torch.float64 else logits.float()
    labels = torch.arange(len(wide), device=wide.device) % wide.shape[1]
    return F.cross_entropy(wide, labels)
