"""Accuracy, confusion and calibration of a classifier on labeled pictures."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gvbsm.engine.device import Runtime
from gvbsm.engine.out_of_memory import InParts
from gvbsm.engine.processes import ALONE, Processes

TOP = 5  # largest logits of top-5 accuracy
BINS = 15  # of confidence, as in Guo et al. 2017


@dataclass(frozen=True)
class PredictionCounts:
    """Counts of a classifier's predictions, from which its accuracies follow. All on the CPU.

    Attributes:
        confusion: Pictures by true class (row) and predicted class (column), int64 (classes,
            classes).
        within_top: Pictures whose class has one of the `TOP` largest logits.
        confidence: For each of `BINS` intervals of the largest probability, of equal width from 0
            to 1, the sum of these probabilities, float64 (BINS,).
        confident: Pictures in each of these intervals, int64 (BINS,).
        right: Those of them that are classified correctly, int64 (BINS,).
    """

    confusion: Tensor
    within_top: int
    confidence: Tensor
    confident: Tensor
    right: Tensor

    @property
    def pictures(self) -> int:
        """Number of pictures."""
        return int(self.confusion.sum())

    def top1(self) -> float:
        """Return the top-1 accuracy in percent."""
        return 100.0 * int(self.confusion.trace()) / self.pictures

    def top5(self) -> float:
        """Return the top-5 accuracy in percent."""
        return 100.0 * self.within_top / self.pictures

    def by_class(self) -> list[float | None]:
        """Return the accuracy of each class in percent; None where it has no pictures."""
        pairs = zip(self.confusion.diag().tolist(), self.confusion.sum(1).tolist(), strict=True)
        return [100.0 * right / pictures if pictures else None for right, pictures in pairs]

    def balanced(self) -> float:
        """Return the balanced accuracy in percent: the mean over the classes with pictures."""
        accuracies = [accuracy for accuracy in self.by_class() if accuracy is not None]
        return math.fsum(accuracies) / len(accuracies)

    def calibration_error(self) -> float:
        """Return the expected calibration error in percent (Guo et al. 2017, Eq. 3)."""
        gaps = (self.right.double() - self.confidence).abs()
        return 100.0 * float(gaps.sum()) / self.pictures


def count_predictions(
    model: nn.Module,
    batches: Iterator[tuple[Tensor, Tensor]],
    runtime: Runtime,
    team: Processes = ALONE,
) -> PredictionCounts:
    """Classify labeled pictures, and count the predictions.

    Args:
        model: A network; it is left in eval mode.
        batches: Normalized pictures and labels, at least one batch, on the device.
        runtime: Device and precision.
        team: Processes that share the pictures: `batches` are those of this process.
    """
    classifier = InParts(model.eval())
    counts: Tensor | None = None  # confusion, within_top, confident, right
    confidence = torch.zeros(BINS, dtype=torch.float64, device=runtime.device)
    with torch.inference_mode(), runtime.autocast():
        for pictures, labels in batches:
            logits = classifier(pictures)
            places, largest = _places(logits, labels)
            if counts is None:
                counts = labels.new_zeros(logits.shape[1] ** 2 + 1 + 2 * BINS)
            counts.index_add_(0, places, torch.ones_like(places))
            confidence.index_add_(0, _bins(largest), largest)
    sizes = team.gather(0 if counts is None else len(counts))
    if counts is None:  # fewer pictures than processes
        counts = torch.zeros(max(sizes), dtype=torch.int64)
    counts, confidence = team.sum(counts).cpu(), team.sum(confidence).cpu()
    squares = len(counts) - 1 - 2 * BINS
    confusion, within_top, confident, right = torch.split(counts, [squares, 1, BINS, BINS])
    classes = math.isqrt(squares)
    return PredictionCounts(
        confusion.view(classes, classes), int(within_top), confidence, confident, right
    )


def _places(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return which counts the pictures of a batch raise, and their largest probabilities."""
    classes = logits.shape[1]
    predicted = logits.argmax(dim=1)
    largest = torch.softmax(logits.double(), dim=1).amax(dim=1)
    top = logits.topk(min(TOP, classes)).indices
    after = classes**2 + 1 + _bins(largest)
    places = (
        labels * classes + predicted,
        torch.full_like(labels, classes**2)[(top == labels[:, None]).any(dim=1)],
        after,
        (after + BINS)[predicted == labels],
    )
    return torch.cat(places), largest


def _bins(probabilities: Tensor) -> Tensor:
    """Return the interval of each probability; one on a border belongs to the lower interval."""
    return (probabilities * BINS).ceil().long().clamp(1, BINS) - 1


def accuracy(
    model: nn.Module,
    batches: Iterator[tuple[Tensor, Tensor]],
    runtime: Runtime,
    team: Processes = ALONE,
) -> float:
    """Return the top-1 accuracy in percent; arguments as of `count_predictions`."""
    return count_predictions(model, batches, runtime, team).top1()
