"""Soft labels of a batch of views by the ensemble of teachers (Eq. 8).

They are the same whether they are stored beforehand or computed during training.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext

import torch
from torch import Tensor, nn

from gvbsm.config import LabelsConfig
from gvbsm.engine.batchnorm import batch_moments
from gvbsm.engine.device import Runtime
from gvbsm.method.losses import ensemble_logits


def label_batch(
    pictures: Tensor, teachers: Sequence[nn.Module], config: LabelsConfig, runtime: Runtime
) -> Tensor:
    """Return the ensemble's logits of a batch, float16 (batch, classes), as they are stored.

    If `config.batchnorm` is batch, the teachers' BatchNorm normalizes by the moments of this batch;
    a batch of one view has none, and is normalized by the recorded moments.

    Args:
        pictures: Views, normalized float (batch, channels, height, width).
        teachers: Networks in eval mode, in the order of `config.backbones` if they have weights.
        config: Weights, logit normalization, temperature and mode of BatchNorm.
        runtime: Device and precision.

    Raises:
        RunError: If memory runs out for a batch that must not be split.
    """
    weights = None
    if config.weights:
        weights = [config.weights.get(name, 1.0) for name in config.backbones or ()]
        pairs = [pair for pair in zip(teachers, weights, strict=True) if pair[1]]
        teachers, weights = [teacher for teacher, _ in pairs], [weight for _, weight in pairs]
    by_batch = config.batchnorm == "batch" and len(pictures) > 1
    mode = batch_moments(teachers) if by_batch else nullcontext()
    with torch.no_grad(), runtime.autocast(), mode:
        logits = [teacher(pictures).float() for teacher in teachers]
    mean = ensemble_logits(logits, config.logit_normalization, weights)
    return (mean / config.temperature).half()
