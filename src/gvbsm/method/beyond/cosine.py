"""Cosine loss: students learn the direction of refined soft labels (GIFT, ICLR 2025)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

SMOOTHING = 0.1  # share of a hard label that the other classes divide
HARD_SHARE = 0.1  # length of the hard label beside a soft label of length 1


def smoothed_labels(labels: Tensor, partners: Tensor, kept: Tensor, classes: int) -> Tensor:
    """Return hard labels as smoothed probabilities, of the type of `kept`, (batch, classes).

    An image that is not mixed has 1 - `SMOOTHING` at its class, and the other classes divide
    `SMOOTHING` equally.

    Args:
        labels: Classes of the images, int64 (batch,).
        partners: Classes of the images that are mixed in, int64 (batch,).
        kept: Share of each image that the mix keeps, float (batch,); 1 ignores the partner.
        classes: Number of classes.
    """
    shares = kept.new_zeros(len(kept), classes)
    shares.scatter_add_(1, labels[:, None], kept[:, None])
    shares.scatter_add_(1, partners[:, None], 1 - kept[:, None])
    return (1 - SMOOTHING) * shares + SMOOTHING * (1 - shares) / max(1, classes - 1)


def cosine_loss(student: Tensor, teacher: Tensor, hard: Tensor) -> Tensor:
    """1 - mean over the batch of cos(student, t / |t| + `HARD_SHARE` s / |s|); a scalar.

    GIFT (arXiv 2405.14736; LINs-lab/GIFT@ec9503e, validate/losses_benchmark.py): t are the soft
    logits of a view and s is its smoothed hard label. The loss is from 0 to 2. The lengths of the
    student's and the teacher's logits do not change it, so that a temperature has no effect.

    Args:
        student: Logits (batch, classes).
        teacher: The ensemble's logits (batch, classes).
        hard: Hard labels from `smoothed_labels`, (batch, classes).
    """
    refined = F.normalize(teacher, dim=1) + HARD_SHARE * F.normalize(hard, dim=1)
    return 1 - torch.cosine_similarity(student, refined, dim=1).mean()
