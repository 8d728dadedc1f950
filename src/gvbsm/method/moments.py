"""Channel and patch moments of feature maps, their sums over a data set, and their EMA.

Shapes: feature maps (batch, channels, height, width). All variances are biased (divided by the
count), as BatchNorm normalizes with. A patch is a square of `n_p` x `n_p` pixels; there are
ceil(height / n_p) x ceil(width / n_p) of them, the last of a row or column may be partial, and each
is pooled over batch, channels and its pixels (section 3.3). `capture.py` has the sums.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class Moments(NamedTuple):
    """Mean and biased variance, of the same shape: (channels,) or (patch rows, patch columns)."""

    mean: Tensor
    variance: Tensor


class Sums(NamedTuple):
    """Count, sum and sum of squares, float64; those of disjoint parts of a data set add up."""

    n: Tensor
    total: Tensor
    squares: Tensor


class LayerSums(NamedTuple):
    """Sums over batch and pixels of one layer's input, and over channels too for the patches.

    Attributes:
        channel: Sum and sum of squares of each channel, (2, groups, channels).
        patch: Sum and sum of squares of each patch, (2, groups, patch rows, patch columns).
    """

    channel: Tensor
    patch: Tensor


def pool_patches(planes: Tensor, n_p: int) -> Tensor:
    """Sum of each patch: (..., height, width) -> (..., patch rows, patch columns).

    The authors' code resizes a map up to a multiple of `n_p` (bilinear), which smooths it and
    lowers the variance; here the last patch is partial instead, as the paper's ceil says. The two
    agree where `n_p` divides the sides (G_VBSM@1ed80b0, Branch_CIFAR_100/recover/utils.py).
    """
    below, beside = -planes.shape[-2] % n_p, -planes.shape[-1] % n_p
    padded = F.pad(planes, (0, beside, 0, below)) if below or beside else planes
    rows, columns = padded.shape[-2] // n_p, padded.shape[-1] // n_p
    return padded.reshape(*planes.shape[:-2], rows, n_p, columns, n_p).sum(dim=(-3, -1))


def counts(shape: Sequence[int], n_p: int) -> tuple[Tensor, Tensor]:
    """Count the activations of one picture in each channel and in each patch of a feature map.

    Args:
        shape: (channels, height, width) of the feature map.
        n_p: Side of a patch in pixels.

    Returns:
        float64 (channels,) and float64 (patch rows, patch columns).
    """
    channels, height, width = shape
    pixels = torch.ones(height, width, dtype=torch.float64)
    return pixels.sum().expand(channels), channels * pool_patches(pixels, n_p)


def finalize(sums: Sums) -> Moments:
    """Compute mean and biased variance from sums.

    E[x^2] - E[x]^2 is computed in float64 and clamped at 0: rounding could make it slightly
    negative for a constant channel.
    """
    mean = sums.total / sums.n
    return Moments(mean, (sums.squares / sums.n - mean.square()).clamp(min=0))


def add(previous: Sums | None, current: Sums) -> Sums:
    """Add the sums of two disjoint parts of a data set; None is an empty part."""
    if previous is None:
        return current
    return Sums(*(a + b for a, b in zip(previous, current, strict=True)))


def ema(previous: Tensor, current: Tensor, alpha: float) -> Tensor:
    """Blend a statistic with its history; the gradient is that of `current` alone (Eq. 6).

    The value is `alpha * previous + (1 - alpha) * current`: the paper's mu_total, in the form
    mu - stop_grad(mu - mu_total). The authors' code starts from 0, by a comparison of a float with
    `int` that never holds (G_VBSM@1ed80b0, Branch_CIFAR_100/recover/utils.py); pass zeros as the
    first `previous` to do the same.

    Args:
        previous: The value that the last call returned, any shape.
        current: This batch's statistic, same shape.
        alpha: Weight of the past, in [0, 1). 0 matches each batch on its own.

    Raises:
        ValueError: If alpha is outside [0, 1).
    """
    if not 0.0 <= alpha < 1.0:
        raise ValueError(f"`alpha` must be in [0, 1), got {alpha}")
    blend = alpha * previous.detach() + (1 - alpha) * current.detach()
    return blend + (current - current.detach())
