"""Test networks on the real test pictures, and record what the last test measured."""

from __future__ import annotations

from typing import Any

from torch import nn

from gvbsm.data.datasets import ImageData
from gvbsm.data.loading import plain_batches
from gvbsm.engine.accuracy import PredictionCounts, count_predictions
from gvbsm.engine.device import Runtime
from gvbsm.engine.processes import ALONE, Processes

CONFUSED_CLASSES = 200  # most classes for which the confusion matrix is kept
TOP5_CLASSES = 10  # fewest classes for which top-5 accuracy is kept


class Judge:
    """Test networks on the real test pictures; the counts of the last test are kept.

    Args:
        data: The real data.
        runtime: Device and precision.
        workers: Processes that decode pictures.
        team: Processes that share the test pictures.
    """

    def __init__(
        self, data: ImageData, runtime: Runtime, workers: int, team: Processes = ALONE
    ) -> None:
        self.data, self._runtime, self._workers, self.team = data, runtime, workers, team
        self._counts: PredictionCounts | None = None

    def __call__(self, net: nn.Module) -> float:
        """Return the top-1 accuracy of a network in percent."""
        data, runtime, team = self.data, self._runtime, self.team
        pictures = plain_batches(data, data.test, 256, runtime, self._workers, team)
        self._counts = count_predictions(net, pictures, runtime, team)
        return self._counts.top1()

    def record(self) -> dict[str, Any]:
        """Return what the last test measured; empty if there was none.

        `metrics` has, in percent, `top5` (for at least 10 classes), `balanced` (where the classes
        have different numbers of test pictures), `calibration_error` and `by_class` (the accuracy
        of each class; None without test pictures). `confusion`, for up to 200 classes, counts
        pictures with a row for each true class.
        """
        counts = self._counts
        if counts is None:
            return {}
        classes = len(self.data.class_names)
        metrics: dict[str, Any] = {
            "calibration_error": counts.calibration_error(),
            "by_class": counts.by_class(),
        }
        if classes >= TOP5_CLASSES:
            metrics["top5"] = counts.top5()
        if len(set(counts.confusion.sum(dim=1).tolist())) > 1:
            metrics["balanced"] = counts.balanced()
        confusion = {"confusion": counts.confusion.tolist()} if classes <= CONFUSED_CLASSES else {}
        return {"metrics": metrics, **confusion}
