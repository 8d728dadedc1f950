"""A pool of labels: few epochs are labeled, from which training draws anew (LPLD, NeurIPS 2024)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from gvbsm.engine.device import Runtime


def pooled_epochs(epochs: int, pruning: float, runtime: Runtime) -> tuple[int, ...]:
    """The epochs whose views and labels are kept, of a store that is pruned; all if it is not.

    LPLD (docs/labels.md) keeps random (epoch, batch) records. Labels belong to images here, not to
    batches, so whole epochs are kept, whose batches are drawn anew in training (`redraw`): so each
    image keeps as many views as any other. A smaller pool is part of a larger one.

    Args:
        epochs: Epochs of the training.
        pruning: One epoch of so many is kept, of all at least one.
        runtime: Holds the seed.
    """
    kept = min(epochs, max(1, round(epochs / pruning)))
    drawn = torch.randperm(epochs, generator=runtime.generator("pool"))
    return tuple(sorted(drawn[:kept].tolist()))


def redraw(epoch: int, pool: Sequence[int], count: int, runtime: Runtime) -> tuple[int, Tensor]:
    """The pool's epoch that an epoch of training takes, and the new order of its images.

    All of the pool are taken once, in random order, before any is taken again.

    Args:
        epoch: Number of the epoch of training, from 0.
        pool: The epochs that are kept.
        count: Images of the set.
        runtime: Holds the seed.

    Returns:
        One of `pool`, and int64 (images,).
    """
    turn, place = divmod(epoch, len(pool))
    drawn = torch.randperm(len(pool), generator=runtime.generator("pool", turn))
    order = torch.randperm(count, generator=runtime.generator("pool", "order", epoch))
    return pool[int(drawn[place])], order
