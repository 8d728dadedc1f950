"""Test networks on the real test pictures, and record what the last test measured."""

from __future__ import annotations

from statistics import fmean
from typing import Any

from torch import nn

from gvbsm.data.corrupted.copies import Copies
from gvbsm.data.datasets import ImageData
from gvbsm.data.loading import plain_batches
from gvbsm.data.pictures import Split
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
        copies: Corrupted test pictures; None are none.
    """

    def __init__(
        self,
        data: ImageData,
        runtime: Runtime,
        workers: int,
        team: Processes = ALONE,
        copies: Copies | None = None,
    ) -> None:
        self.data, self._runtime, self._workers, self.team = data, runtime, workers, team
        self._counts: PredictionCounts | None = None
        self._copies, self._corruptions = copies, dict[str, Any]()

    def __call__(self, net: nn.Module) -> float:
        """Return the top-1 accuracy of a network in percent."""
        self._counts = self._count(net, self.data.test)
        return self._counts.top1()

    def test_corrupted(self, net: nn.Module) -> None:
        """Test a network on the corrupted copies, if there are any, for `record`."""
        if (copies := self._copies) is None:
            return
        kinds = {}
        for kind in self._runtime.track(copies.kinds, "corruptions", "kind"):
            splits = copies.splits(kind, self.data)
            kinds[kind] = [self._count(net, split).top1() for split in splits]
        self._corruptions = {
            "source": copies.source(),
            "pictures": len(copies.index),
            "severities": list(copies.severities),
            "clean": self._count(net, self.data.test.select(copies.index)).top1(),
            "kinds": kinds,
        }

    def _count(self, net: nn.Module, split: Split) -> PredictionCounts:
        data, runtime, team = self.data, self._runtime, self.team
        pictures = plain_batches(data, split, 256, runtime, self._workers, team)
        return count_predictions(net, pictures, runtime, team)

    def record(self) -> dict[str, Any]:
        """Return what the last test measured; empty if there was none.

        `metrics` has, in percent, `top5` (for at least 10 classes), `balanced` (where the classes
        have different numbers of test pictures), `calibration_error` and `by_class` (the accuracy
        of each class; None without test pictures), and after `test_corrupted` the mean accuracy
        `corrupted` over kinds and severities. `confusion`, for up to 200 classes, counts pictures
        with a row for each true class. `corruptions` has the accuracy of each kind and severity.
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
        entries: dict[str, Any] = {"metrics": metrics}
        if classes <= CONFUSED_CLASSES:
            entries["confusion"] = counts.confusion.tolist()
        if self._corruptions:
            metrics["corrupted"] = fmean(map(fmean, self._corruptions["kinds"].values()))
            entries["corruptions"] = self._corruptions
        return entries
