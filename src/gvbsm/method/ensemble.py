"""What the teachers' ensemble says of a batch of views.

Labels that are stored and labels that are made during training are both asked for here.
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
    """The ensemble's logits of a batch, float16 (batch, classes), as they are stored.

    With `config.batchnorm` batch the teachers' BatchNorm normalizes by the moments of this batch. A
    batch of one view has none, so that it is normalized by the recorded ones.

    Args:
        pictures: Views, normalized float (batch, channels, height, width).
        teachers: Networks in eval mode, in the order of `config.backbones` if they have weights.
        config: How their logits become one.
        runtime: Device and precision.

    Raises:
        RunError: If there is no memory for a batch that must not be cut.
    """
    weights = None
    if config.weights:
        weights = [config.weights.get(name, 1.0) for name in config.backbones or ()]
        asked = [pair for pair in zip(teachers, weights, strict=True) if pair[1]]
        teachers, weights = [pair[0] for pair in asked], [pair[1] for pair in asked]
    whole = config.batchnorm == "batch" and len(pictures) > 1
    with torch.no_grad(), runtime.autocast(), batch_moments(teachers) if whole else nullcontext():
        logits = [teacher(pictures).float() for teacher in teachers]
    together = ensemble_logits(logits, config.logit_normalization, weights)
    return (together / config.temperature).half()
