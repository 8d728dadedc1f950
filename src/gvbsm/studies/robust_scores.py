"""Label-robust and augmentation-robust scores of DD-Ranking (arXiv 2505.13300), from a run's rows.

They ask what distilled images are worth without what soft labels and augmentation add. Accuracies
are in percent in the rows and enter as shares, so that a score lies between 0 and 1. (ddranking
0.2.0 puts percent into the same formula, and its scores leave this range.)
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from gvbsm.config.build import images_of

EQUAL = 0.5  # weight w of both terms of a score, as on DD-Ranking's leaderboard
SCORES_HEAD = ("score of DD-Ranking", "images", "student", "0 to 1")
SCORES_NOTE = (
    "0.27 is the score of images that are no better than random pictures and, with hard labels, as "
    "good as the whole set. Label-robust: accuracy above random pictures with soft labels, and "
    "below the whole set with hard labels. Augmentation-robust: accuracy above random pictures, "
    "with and without augmentation."
)


class RobustScore(NamedTuple):
    """One score of the images of one source, with one student.

    Attributes:
        name: label-robust or augmentation-robust.
        images: The source of the images: gvbsm, random, herding, ...
        student: Name of the student's network.
        value: The score, from 0 to 1.
        deviation: Its standard deviation over students; None if an accuracy has none.
    """

    name: str
    images: str
    student: str
    value: float
    deviation: float | None

    def cells(self) -> tuple[str, str, str, str]:
        """Return the score as a line under `SCORES_HEAD`."""
        spread = "" if self.deviation is None else f" ± {self.deviation:.3f}"
        return self.name, self.images, self.student, f"{self.value:.3f}{spread}"


class _Difference(NamedTuple):
    """A term of a score: the accuracy of one method above that of another one."""

    better: str
    worse: str


def robust_scores(rows: Sequence[Mapping[str, Any]], w: float = EQUAL) -> list[RobustScore]:
    """Return the scores for which the rows of `results.json` suffice.

    A score is (e^alpha - e^-1) / (e - e^-1), where alpha is the mean of two differences of
    accuracies, the first with the weight w:

    - label-robust: the images with soft labels above random pictures with soft labels; the images
      with hard labels above the whole set with hard labels, which is below 0. The rows are gvbsm,
      random-soft, gvbsm-hard, and full or the teacher of the student's network. A selection of real
      pictures has this score too: herding from herding-soft and herding-hard.
    - augmentation-robust: the images above random pictures, with augmentation and without. The rows
      are gvbsm, random-soft, gvbsm-unaugmented and random-unaugmented.

    Args:
        rows: Rows with `method`, `student` and `top1` (`mean` and `std`), in percent.
        w: Weight of the first difference, from 0 to 1.
    """
    scores = []
    for student in dict.fromkeys(row["student"] for row in rows):
        top1 = {row["method"]: row["top1"] for row in rows if row["student"] == student}
        for images in dict.fromkeys(map(images_of, top1)):
            for name, first, second in _terms(images, top1):
                if {*first, *second} <= {*top1}:
                    score = _score(_above(first, top1), _above(second, top1), w)
                    scores.append(RobustScore(name, images, student, *score))
    return scores


def _terms(images: str, top1: Mapping[str, Any]) -> Iterator[tuple[str, _Difference, _Difference]]:
    """Yield the name of each score of a source of images, and its two differences."""
    soft = images if images in top1 else f"{images}-soft"
    over_random = _Difference(soft, "random-soft")
    whole = "full" if "full" in top1 else "teacher"
    yield "label-robust", over_random, _Difference(f"{images}-hard", whole)
    if images != "random":
        unaugmented = _Difference(f"{images}-unaugmented", "random-unaugmented")
        yield "augmentation-robust", over_random, unaugmented


def _above(term: _Difference, top1: Mapping[str, Any]) -> tuple[float, float | None]:
    """Return a difference as a share from -1 to 1, and its variance; None if it is not known."""
    better, worse = top1[term.better], top1[term.worse]
    difference = (better["mean"] - worse["mean"]) / 100
    if term.better == term.worse:
        return difference, 0.0
    if better["std"] is None or (worse["std"] is None and term.worse != "teacher"):
        return difference, None
    return difference, (better["std"] ** 2 + (worse["std"] or 0.0) ** 2) / 100**2


def _score(
    first: tuple[float, float | None], second: tuple[float, float | None], w: float
) -> tuple[float, float | None]:
    """Return the score of two differences and its standard deviation, to first order."""
    alpha = w * first[0] + (1 - w) * second[0]
    span = math.e - math.exp(-1)
    value = (math.exp(alpha) - math.exp(-1)) / span
    if first[1] is None or second[1] is None:
        return value, None
    deviation = math.sqrt(w**2 * first[1] + (1 - w) ** 2 * second[1])
    return value, math.exp(alpha) / span * deviation
