"""Schemas of what tests of networks measured: accuracies in percent, of one student or several."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field, model_validator

from gvbsm.files.schema.base import MOST_CLASSES, Manifest, Percent, Positive, Text


class Score(Manifest):
    """Top-1 accuracies of several students, in percent; a single one has no deviation."""

    mean: Percent
    std: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None
    values: Annotated[list[Percent], Field(min_length=1)]

    @property
    def n(self) -> int:
        """Number of students."""
        return len(self.values)

    @model_validator(mode="after")
    def _agree(self) -> Self:
        if self.std is None and len(self.values) > 1:
            raise ValueError("std should be a number beside several values")
        return self


ByClass = Annotated[list[Percent | None], Field(max_length=MOST_CLASSES)]


class StudentMetrics(Manifest):
    """What the last test of a student measured beside top-1, in percent."""

    calibration_error: Percent
    by_class: ByClass
    top5: Percent | None = None
    balanced: Percent | None = None
    corrupted: Percent | None = None


class RowMetrics(Manifest):
    """Metrics of several students beside top-1, in percent; `by_class` is their mean."""

    calibration_error: Score
    by_class: ByClass
    top5: Score | None = None
    balanced: Score | None = None
    corrupted: Score | None = None


class StudentCorruptions(Manifest):
    """Top-1 accuracies on corrupted test pictures, in percent; of each kind one a severity."""

    source: Text
    pictures: Positive
    severities: list[Positive]
    clean: Percent
    kinds: dict[Text, list[Percent]]


class RowCorruptions(Manifest):
    """Top-1 accuracies of several students on corrupted test pictures, in percent.

    `clean` is of the same pictures as they are; `kinds` has the mean over the severities, and
    `by_severity` the mean over the students.
    """

    source: Text
    pictures: Positive
    severities: list[Positive]
    clean: Score
    kinds: dict[Text, Score]
    by_severity: dict[Text, list[Percent]]
