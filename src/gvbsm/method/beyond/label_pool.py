"""Label pool: store labels of a few epochs, and draw each epoch from them (LPLD, NeurIPS 2024)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from gvbsm.engine.device import Runtime


def pooled_epochs(epochs: int, pruning: float, runtime: Runtime) -> tuple[int, ...]:
    """Draw the epochs whose views and labels are stored; all if `pruning` is 1.

    LPLD (docs/labels.md) keeps random (epoch, batch) records. Here labels belong to images and not
    to batches, so whole epochs are kept, and training redraws their batches (`redraw`). Each image
    then keeps the same number of views. A smaller pool is a subset of a larger one.

    Args:
        epochs: Epochs of the training.
        pruning: One in `pruning` epochs is kept, and at least one.
        runtime: Holds the seed.
    """
    kept = min(epochs, max(1, round(epochs / pruning)))
    drawn = torch.randperm(epochs, generator=runtime.generator("pool"))
    return tuple(sorted(drawn[:kept].tolist()))


def redraw(epoch: int, pool: Sequence[int], count: int, runtime: Runtime) -> tuple[int, Tensor]:
    """Draw a stored epoch for an epoch of training, and a new order of its images.

    Each epoch of the pool is used once, in random order, before any is used again.

    Args:
        epoch: Number of the epoch of training, from 0.
        pool: The stored epochs.
        count: Images of the set.
        runtime: Holds the seed.

    Returns:
        One of `pool`, and int64 (images,).
    """
    cycle, position = divmod(epoch, len(pool))
    drawn = torch.randperm(len(pool), generator=runtime.generator("pool", cycle))
    order = torch.randperm(count, generator=runtime.generator("pool", "order", epoch))
    return pool[int(drawn[position])], order
