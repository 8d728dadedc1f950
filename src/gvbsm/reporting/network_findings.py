"""Findings on the accuracies of students and teachers: facts in, sentences out (see `findings`)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

from gvbsm.config.build import selection_of
from gvbsm.config.keys import value_at
from gvbsm.reporting.facts import RunFacts
from gvbsm.reporting.significance import chance_error, noise, standard_error
from gvbsm.reporting.wording import listed, method_words

# Limits from which there is a finding, in percentage points.
LARGE_SPREAD = 2.0  # standard deviation of the students
LATE_LOSS = 1.0  # best epoch minus last epoch
TEACHER_GAP = 10.0  # best teacher minus another one; test pictures minus distilled images


@dataclass(frozen=True)
class Finding:
    """A warning or a note on the results.

    Attributes:
        name: Kind of finding.
        level: A `warning` limits what may be concluded, a `note` does not.
        text: The finding; words between backticks are code.
        advice: What to do about it.
    """

    name: str
    level: Literal["warning", "note"]
    text: str
    advice: str


def _chance(facts: RunFacts) -> Iterator[Finding]:
    """Networks that do no better than guesses: within two standard errors of 1 / classes."""
    classes, test = len(facts.class_names), facts.test
    if not test:
        return
    counts = [float(count) for count in facts.test_of_class if count]
    counts = counts or [test / classes] * classes
    chance, error = 100 / classes, chance_error(counts)
    is_uneven = len(set(counts)) > 1
    guesses = []
    for row in facts.rows:
        accuracy = getattr(row.metrics, "balanced", None) if is_uneven else row.top1
        if accuracy is not None and accuracy.mean <= chance + 2 * error:
            guesses.append(f"{method_words(row.method)} ({row.student}) {accuracy.mean:.1f} %")
    if guesses:
        kind = "balanced accuracies" if is_uneven else "accuracies"
        yield Finding(
            "chance",
            "warning",
            f"These {kind} are no better than guesses ({chance:.1f} %; two "
            f"standard errors are {2 * error:.1f} points): {listed(guesses)}.",
            "Draw no conclusion from them. Check the classes of the pictures, train longer "
            "(`labels.epochs`, `squeeze.epochs`), or at a lower `evaluation.optimizer.lr`.",
        )


def _recognition(facts: RunFacts) -> Iterator[Finding]:
    """A teacher that does not see the classes of the distilled images."""
    seen = facts.recognition
    if seen is None or selection_of(facts.method) is not None:
        return
    tested = [teacher.top1 for teacher in facts.teachers if teacher.backbone == seen.teacher]
    if not tested:
        return
    gap = max(TEACHER_GAP, 2 * standard_error(seen.accuracy, seen.images))
    if tested[0] - seen.accuracy > gap:
        yield Finding(
            "unrecognized",
            "warning",
            f"The teacher {seen.teacher} classifies {seen.accuracy:.1f} % of {seen.images:,} "
            f"distilled images as their labels say, and {tested[0]:.1f} % of the test pictures.",
            "The images do not show their classes, or the teacher does not know classes with few "
            "training pictures. Raise `synthesis.iterations`, `synthesis.weight_cross_entropy` or "
            "`squeeze.epochs`.",
        )


def _spread(facts: RunFacts) -> Iterator[Finding]:
    spreads = [
        f"{row.student} ± {row.top1.std:.1f}"
        for row in facts.own_rows()
        if row.top1.std is not None and row.top1.std > LARGE_SPREAD
    ]
    if spreads:
        yield Finding(
            "spread",
            "warning",
            f"The students' accuracies differ widely: {listed(spreads)} points.",
            "Train more of them (`evaluation.seeds`), longer (`labels.epochs`), or at a lower "
            "`evaluation.optimizer.lr`.",
        )


def _late(facts: RunFacts) -> Iterator[Finding]:
    losses = [
        f"{row.student} {row.top1_best.mean:.1f} at best, {row.top1.mean:.1f} % at the end"
        for row in facts.own_rows()
        if row.top1_best.mean - row.top1.mean > LATE_LOSS
    ]
    if losses:
        is_constant = value_at(facts.config, "evaluation.optimizer.schedule") == "constant"
        schedule = "A cosine schedule (`evaluation.optimizer.schedule`) or fewer" * is_constant
        yield Finding(
            "late",
            "warning",
            f"The last epoch is well below the best one: {'; '.join(losses)}.",
            "Quote the last epoch, since the best one is chosen on the test pictures. "
            f"{schedule or 'Fewer'} `labels.epochs` may help.",
        )


def _teachers(facts: RunFacts) -> Iterator[Finding]:
    if not facts.teachers:
        return
    best = max(facts.teachers, key=lambda teacher: teacher.top1)
    weak = [teacher for teacher in facts.teachers if best.top1 - teacher.top1 > TEACHER_GAP]
    if weak:
        train = "longer (`squeeze.epochs`)"
        if not any(teacher.epochs for teacher in weak):  # published weights
            train = "on these pictures (`squeeze.pretrained` false)"
        yield Finding(
            "weak-teacher",
            "warning",
            f"Some teachers are much less accurate than {best.backbone} ({best.top1:.1f} %): "
            f"{listed(f'{teacher.backbone} {teacher.top1:.1f} %' for teacher in weak)}.",
            f"Train them {train}, or leave them out of `squeeze.backbones`.",
        )
    untrained = {teacher.backbone for teacher in facts.teachers if not teacher.epochs}
    for row in facts.own_rows():
        full = facts.row("teacher", row.student)
        if full and row.top1.mean - full.top1.mean > noise(row.top1, full.top1, facts.test):
            why, advice = "was trained too briefly", "Raise `squeeze.epochs`."
            if row.student in untrained:
                why = "has published weights, which do not fit these pictures"
                advice = "Train it on these pictures: set `squeeze.pretrained` to false."
            yield Finding(
                "short-teacher",
                "warning",
                f"{row.student} is better on the distilled set ({row.top1.mean:.1f} %) than as a "
                f"teacher on the whole set ({full.top1.mean:.1f} %). The teacher {why}: its row is "
                "no upper bound.",
                advice,
            )


NETWORK_CHECKS: tuple[Callable[[RunFacts], Iterator[Finding]], ...] = (
    _chance,
    _recognition,
    _spread,
    _late,
    _teachers,
)
