"""What the teachers' ensemble says of a batch of views.

Labels that are stored and labels that are made during training are both asked for here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from gvbsm.config import LabelsConfig
from gvbsm.engine.device import RunError, Runtime
from gvbsm.method.losses import ensemble_logits


def settle_teachers(labels: LabelsConfig, backbones: tuple[str, ...]) -> LabelsConfig:
    """The settings in which weights, where there are any, have all teachers' names beside them.

    Args:
        labels: The settings.
        backbones: The teachers that label if `labels.backbones` names none.
    """
    return replace(labels, backbones=labels.backbones or backbones) if labels.weights else labels


def label_batch(
    pictures: Tensor, teachers: Sequence[nn.Module], config: LabelsConfig, runtime: Runtime
) -> Tensor:
    """The ensemble's logits of a batch, float16 (batch, classes), as they are stored.

    With `config.batchnorm` batch the teachers' BatchNorm normalizes by the moments of this batch. A
    batch of one view has none (torch refuses it where a map is 1 x 1), so that it is normalized by
    those recorded: training leaves such a batch out, but a store holds a label of every view.

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


@contextmanager
def batch_moments(networks: Sequence[nn.Module]) -> Iterator[None]:
    """Have the BatchNorm of networks in eval mode normalize by what it sees, for the block.

    Nothing else is in training mode (dropout stays off), and no running moment is changed.

    Args:
        networks: They must be given a batch as a whole.

    Raises:
        RunError: If memory runs out in the block.
    """
    layers = [m for net in networks for m in net.modules() if isinstance(m, _BatchNorm)]
    before = [(layer.training, layer.track_running_stats) for layer in layers]
    try:
        for layer in layers:
            # Without the second, torch would take the batch into the running moments.
            layer.training, layer.track_running_stats = True, False
        yield
    except torch.OutOfMemoryError:
        raise RunError(
            "out of memory, and labels.batchnorm=batch needs all views of a batch at once: lower "
            "both --labels.batch_size and --evaluation.batch_size, or use another device"
        ) from None
    finally:
        for layer, (training, tracking) in zip(layers, before, strict=True):
            layer.training, layer.track_running_stats = training, tracking
