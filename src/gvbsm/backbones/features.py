"""Features of images: the inputs of a trained network's last linear layer."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn

from gvbsm.engine.device import Runtime


class Features(NamedTuple):
    """Features and logits of images, float32, on the CPU.

    Attributes:
        features: Inputs of the network's last linear layer, (images, features).
        logits: Outputs of the network, (images, classes).
    """

    features: Tensor
    logits: Tensor


def find_classifier(model: nn.Module) -> nn.Linear:
    """Return the last linear layer of a network, in order of definition.

    Raises:
        ValueError: If it has none (SqueezeNet and some of timm's networks end in a convolution).
    """
    linear = [module for module in model.modules() if isinstance(module, nn.Linear)]
    if not linear:
        raise ValueError(
            f"{type(model).__name__} has no nn.Linear, whose input would be the features; "
            "choose another backbone"
        )
    return linear[-1]


@contextmanager
def _classifier_inputs(model: nn.Module) -> Iterator[list[Tensor]]:
    """Collect the inputs of the last linear layer inside the block."""
    inputs: list[Tensor] = []
    hook = find_classifier(model).register_forward_pre_hook(
        lambda _, arguments: inputs.append(arguments[0])
    )
    try:
        yield inputs
    finally:
        hook.remove()


def _check_vectors(model: nn.Module, inputs: Sequence[Tensor]) -> None:
    if [tensor.ndim for tensor in inputs] != [2]:
        shapes = [tuple(tensor.shape) for tensor in inputs]
        raise ValueError(
            f"the last nn.Linear of {type(model).__name__} has inputs of shapes {shapes}, "
            "not one vector an image; choose another backbone"
        )


def check_features(model: nn.Module, image_shape: Sequence[int]) -> None:
    """Check that a network has features, by one picture of zeros; it may be on the meta device.

    Args:
        model: A network in eval mode.
        image_shape: (channels, height, width) of a picture.

    Raises:
        ValueError: As `feature_batches`.
    """
    weight = next(model.parameters())
    picture = torch.zeros(1, *image_shape, device=weight.device, dtype=weight.dtype)
    with torch.no_grad(), _classifier_inputs(model) as inputs:
        model(picture)
    _check_vectors(model, inputs)


def feature_batches(
    model: nn.Module, batches: Iterable[Tensor], runtime: Runtime
) -> Iterator[Features]:
    """Yield features and logits batch by batch.

    Args:
        model: A network in eval mode, on the device of `runtime`.
        batches: Normalized images, each (batch, channels, height, width), on that device.
        runtime: Device and precision.

    Raises:
        ValueError: If the network has no linear layer, or the last one takes more than one vector
            an image.
    """
    with _classifier_inputs(model) as inputs:
        for images in batches:
            inputs.clear()
            with torch.no_grad(), runtime.autocast():
                logits = model(images)
            _check_vectors(model, inputs)
            yield Features(inputs[0].float().cpu(), logits.float().cpu())


def teacher_features(model: nn.Module, batches: Iterable[Tensor], runtime: Runtime) -> Features:
    """Return features and logits of all images; arguments and errors as in `feature_batches`."""
    by_batch = list(feature_batches(model, batches, runtime))
    return Features(*(torch.cat(tensors) for tensors in zip(*by_batch, strict=True)))
