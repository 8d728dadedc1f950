"""Features of images: the inputs of a trained network's last linear layer."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
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
    classifier = find_classifier(model)
    inputs: list[Tensor] = []
    hook = classifier.register_forward_pre_hook(lambda _, arguments: inputs.append(arguments[0]))
    try:
        for images in batches:
            inputs.clear()
            with torch.no_grad(), runtime.autocast():
                logits = model(images)
            if [tensor.ndim for tensor in inputs] != [2]:
                shapes = [tuple(tensor.shape) for tensor in inputs]
                raise ValueError(
                    f"the last nn.Linear of {type(model).__name__} has inputs of shapes {shapes}, "
                    "not one vector an image; choose another backbone"
                )
            yield Features(inputs[0].float().cpu(), logits.float().cpu())
    finally:
        hook.remove()


def teacher_features(model: nn.Module, batches: Iterable[Tensor], runtime: Runtime) -> Features:
    """Return features and logits of all images; arguments and errors as in `feature_batches`."""
    by_batch = list(feature_batches(model, batches, runtime))
    return Features(*(torch.cat(tensors) for tensors in zip(*by_batch, strict=True)))
