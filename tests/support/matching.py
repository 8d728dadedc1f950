"""Noise pictures in float64, and what a teacher's matched layers see of them."""

import torch

from support.toy import IMAGE

BATCH = 5
# Which share of the convolutions is kept, by step; the first layer is missing at first.
KEPT = (slice(1, None, 2), slice(None), slice(0, None, 3), slice(0, 0))


def in_float64(target):
    """So that rounding is out of the way; pictures in float32 are taken, too."""
    target.model.double()
    target.model.register_forward_pre_hook(lambda _module, arguments: arguments[0].double())
    return target


def pictures(groups, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(groups * BATCH, *IMAGE, generator=generator, dtype=torch.float64)


def seen_by(target, images, groups, kept):
    """Sums of the matched layers without the convolutions that are dropped."""
    return target.observe(images, {*target.batchnorm, *kept}, groups)[1]
