"""Hard phase: students learn from hard labels between two phases of soft ones (HALD, ICML 2026)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from gvbsm.config import EvaluationConfig


def hard_epochs(epochs: int, config: EvaluationConfig) -> range:
    """Return the epochs with hard labels, in the middle of the training; none if it is off.

    Of the other epochs the first half, rounded down, stands before them (HALD's setting S6,
    Jiacheng8/HALD@1179ff5, validate/train_fkd.py).

    Args:
        epochs: Epochs of the training.
        config: `hard_phase.share` and `loss` are read: with loss=hard there are no soft labels.
    """
    count = 0 if config.loss == "hard" else round(config.hard_phase.share * epochs)
    first = (epochs - count) // 2 if count else 0
    return range(first, first + count)


def soft_number(epoch: int, hard: range) -> int:
    """Return the number of an epoch with soft labels among those with soft labels, from 0.

    Args:
        epoch: Number of the epoch of training, from 0; not in `hard`.
        hard: The epochs with hard labels.
    """
    return epoch if epoch < hard.start else epoch - len(hard)


def smoothed_loss(
    student: Tensor, labels: Tensor, partners: Tensor, kept: Tensor, smoothing: float
) -> Tensor:
    """Cross-entropy with the smoothed hard labels of mixed images; a scalar.

    The label is (1 - smoothing) times the shares of the two classes, plus smoothing / classes of
    each class (HALD's hard phase; it takes 0.8).

    Args:
        student: Logits (batch, classes).
        labels: Classes of the images, int64 (batch,).
        partners: Classes of the images that are mixed in, int64 (batch,).
        kept: Share of each image that the mix keeps, float (batch,).
        smoothing: From 0 to below 1.
    """
    image_loss, partner_loss = (
        F.cross_entropy(student, classes, reduction="none", label_smoothing=smoothing)
        for classes in (labels, partners)
    )
    return (kept * image_loss + (1 - kept) * partner_loss).mean()
