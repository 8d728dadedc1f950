"""Whether two accuracies differ: standard deviations over students and over test pictures."""

from __future__ import annotations

import math

from gvbsm.reporting.facts import Score


def standard_error(top1: float, pictures: int) -> float:
    """Of an accuracy in percent on so many test pictures, in points; never 0 (Laplace's rule)."""
    chance = (top1 / 100 * pictures + 1) / (pictures + 2)
    return 100 * math.sqrt(chance * (1 - chance) / pictures)


def noise(first: Score, second: Score, test: int | None) -> float | None:
    """Two standard deviations of a difference that means nothing, in points; None if unknown."""
    spreads = [score.std for score in (first, second) if score.n > 1]
    found = [math.sqrt(sum(std**2 for std in spreads) / len(spreads))] if spreads else []
    if test:
        found.append(standard_error((first.mean + second.mean) / 2, test))
    return 2 * max(found) if found else None
