"""Decide whether two accuracies differ, by deviations over students and over test pictures."""

from __future__ import annotations

import math
from collections.abc import Sequence

from gvbsm.files.schema.measures import Score


def standard_error(top1: float, pictures: int) -> float:
    """Standard error of an accuracy, in percentage points; never 0 (rule of succession).

    Args:
        top1: Accuracy in percent.
        pictures: Number of test pictures.
    """
    chance = (top1 / 100 * pictures + 1) / (pictures + 2)
    return 100 * math.sqrt(chance * (1 - chance) / pictures)


def chance_error(pictures: Sequence[float]) -> float:
    """Standard error of the balanced accuracy of guesses, in percentage points.

    It is the binomial standard error of the accuracy where all classes have as many pictures.

    Args:
        pictures: Number of test pictures of each class, above 0.
    """
    chance = 1 / len(pictures)
    variance = chance * (1 - chance) * sum(1 / count for count in pictures)
    return 100 * math.sqrt(variance) / len(pictures)


def noise(first: Score, second: Score, test: int | None) -> float:
    """The largest difference that may be chance: two standard deviations, in percentage points.

    Args:
        first: One accuracy.
        second: The other one.
        test: Number of test pictures; None if it is unknown.

    Returns:
        Twice the larger of the pooled deviation over students and the standard error over test
        pictures; 0 if both are unknown.
    """
    spreads = [score.std for score in (first, second) if score.std is not None]
    deviations = [math.sqrt(sum(std**2 for std in spreads) / len(spreads))] if spreads else []
    if test:
        deviations.append(standard_error((first.mean + second.mean) / 2, test))
    return 2 * max(deviations, default=0.0)
