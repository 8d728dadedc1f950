"""Find the settings of the greatest effort whose run fits into a time budget."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from gvbsm.config import Config, ConfigError
from gvbsm.engine.progress.spelling import spell_duration

MARGIN = 0.9  # share of the budget that a run may be predicted to take
HALVINGS = 7  # of the interval of efforts: it is found to a hundredth
GROWTH = 1.5  # of the time with the side, at the least; for networks it is about 2
SIDE_EFFORT = 0.9  # least effort at which a larger side is better than a smaller one


@dataclass(frozen=True)
class Choice:
    """Settings that fit into a budget.

    Attributes:
        config: The settings.
        effort: From 0, the cheapest run that is worth its time, to 1, the best.
        seconds: How long the run is predicted to take.
    """

    config: Config
    effort: float
    seconds: float


def choose(
    settings: Callable[[int, float], Config],
    sides: Sequence[int],
    budget: float,
    predict: Callable[[Config], float],
) -> Choice:
    """Choose side and effort: the largest side that leaves an effort of `SIDE_EFFORT`.

    Args:
        settings: The settings at a side in pixels and an effort.
        sides: Sides that may be chosen, in ascending order.
        budget: Time that the run may take, in seconds.
        predict: Predicts how long a run of these settings takes, in seconds.

    Raises:
        ConfigError: If the cheapest run takes longer, saying how long.
    """

    def seconds_at(side: int, effort: float) -> float:
        return predict(settings(side, effort))

    smallest = sides[0]
    seconds_of_smallest = seconds_at(smallest, SIDE_EFFORT)
    for side in reversed(sides[1:]):
        # The time grows about with the pixels: a side that is far too large is not measured.
        if seconds_of_smallest * (side / smallest) ** GROWTH > budget:
            continue
        effort, seconds = _greatest_effort(partial(seconds_at, side), budget)
        if effort >= SIDE_EFFORT:
            return Choice(settings(side, effort), effort, seconds)
    cheapest = settings(smallest, 0.0)
    least = predict(cheapest)
    if least > MARGIN * budget:
        fewer = ", or fewer --ipc" if cheapest.ipc > 1 else ""
        raise ConfigError(
            f"the cheapest run takes about {spell_duration(least)} here, too much for a budget of "
            f"{spell_duration(budget)}: give --budget {math.ceil(least / MARGIN / 60)}m{fewer}"
        )
    effort, seconds = _greatest_effort(partial(seconds_at, smallest), budget)
    return Choice(settings(smallest, effort), effort, seconds)


def _greatest_effort(seconds_at: Callable[[float], float], budget: float) -> tuple[float, float]:
    """Return the greatest effort whose run fits into the budget, and the seconds of that run."""
    low, high = 0.0, 1.0
    if (seconds := seconds_at(high)) <= MARGIN * budget:
        return high, seconds
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if seconds_at(middle) <= MARGIN * budget else (low, middle)
    return low, seconds_at(low)
