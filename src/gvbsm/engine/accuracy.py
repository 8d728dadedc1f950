"""Confusion matrix and top-1 accuracy of a classifier."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from gvbsm.engine.device import Runtime
from gvbsm.engine.out_of_memory import InParts
from gvbsm.engine.processes import ALONE, Processes


def confusion_matrix(
    model: nn.Module,
    batches: Iterator[tuple[Tensor, Tensor]],
    runtime: Runtime,
    team: Processes = ALONE,
) -> Tensor:
    """Count pictures by true class (row) and predicted class (column).

    Args:
        model: A network; it is left in eval mode.
        batches: Normalized pictures and labels, at least one batch, on the device.
        runtime: Device and precision.
        team: Processes that share the pictures: `batches` are those of this process.

    Returns:
        int64 (classes, classes), on the CPU.
    """
    classifier = InParts(model.eval())
    total: Tensor | None = None
    with torch.inference_mode(), runtime.autocast():
        for pictures, labels in batches:
            logits = classifier(pictures)
            classes = logits.shape[1]
            if total is None:
                total = labels.new_zeros(classes**2)
            total.index_add_(0, labels * classes + logits.argmax(dim=1), torch.ones_like(labels))
    sizes = team.gather(0 if total is None else len(total))
    if total is None:  # fewer pictures than processes
        total = torch.zeros(max(sizes), dtype=torch.int64)
    classes = math.isqrt(len(total))
    return team.sum(total).view(classes, classes).cpu()


def diagonal_percent(confusion: Tensor) -> float:
    """Top-1 accuracy in percent, from a confusion matrix (classes, classes)."""
    return 100.0 * int(confusion.trace()) / int(confusion.sum())


def accuracy(
    model: nn.Module,
    batches: Iterator[tuple[Tensor, Tensor]],
    runtime: Runtime,
    team: Processes = ALONE,
) -> float:
    """Top-1 accuracy in percent over (normalized pictures, labels), as `confusion_matrix`."""
    return diagonal_percent(confusion_matrix(model, batches, runtime, team))
