"""What a trained network makes of images just before it classifies them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn

from gvbsm.engine.device import Runtime


class Features(NamedTuple):
    """Features and logits of some images, float32, on the CPU.

    Attributes:
        features: Input of the network's classifier, (images, features).
        logits: Its output, (images, classes).
    """

    features: Tensor
    logits: Tensor


def find_classifier(model: nn.Module) -> nn.Linear:
    """The last linear layer of a network, in the order of definition, found by its type.

    Raises:
        ValueError: If it has none (SqueezeNet and some of timm's networks end in a convolution).
    """
    linear = [module for module in model.modules() if isinstance(module, nn.Linear)]
    if not linear:
        raise ValueError(
            f"{type(model).__name__} has no nn.Linear, whose input would be the features; "
            "take another backbone"
        )
    return linear[-1]


def feature_batches(
    model: nn.Module, batches: Iterable[Tensor], runtime: Runtime
) -> Iterator[Features]:
    """Features and logits, a batch at a time.

    Args:
        model: A network in eval mode, on the device of `runtime`.
        batches: Normalized images, each (batch, channels, height, width), on that device.
        runtime: Device and precision.

    Raises:
        ValueError: If the network has no linear classifier over one vector an image.
    """
    classifier = find_classifier(model)
    seen: list[Tensor] = []
    hook = classifier.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[0]))
    try:
        for images in batches:
            seen.clear()
            with torch.no_grad(), runtime.autocast():
                logits = model(images)
            if [found.ndim for found in seen] != [2]:
                shapes = [tuple(found.shape) for found in seen]
                raise ValueError(
                    f"the last nn.Linear of {type(model).__name__} saw inputs of shapes {shapes}, "
                    "not one vector an image; take another backbone"
                )
            yield Features(seen[0].float().cpu(), logits.float().cpu())
    finally:
        hook.remove()


def teacher_features(model: nn.Module, batches: Iterable[Tensor], runtime: Runtime) -> Features:
    """Features and logits of all images together; arguments and errors as in `feature_batches`."""
    found = list(feature_batches(model, batches, runtime))
    return Features(*(torch.cat(part) for part in zip(*found, strict=True)))
