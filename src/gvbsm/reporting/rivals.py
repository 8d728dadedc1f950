"""Words for baselines that reach the accuracy of the distilled images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from gvbsm.config.build import selection_of
from gvbsm.files.schema.runs import ResultRow
from gvbsm.reporting.facts import RunFacts
from gvbsm.reporting.wording import listed, method_words, real_pictures
from gvbsm.store.image_set import CURRICULUM

NEARLY = 2.0  # points behind their teacher: students have learned nearly what it knows


class RivalWords(NamedTuple):
    """The words for baselines that reach the accuracy of the distilled images.

    Attributes:
        subject: The baselines and a verb, as the beginning of a sentence.
        meaning: What follows from it.
        advice: What to do.
    """

    subject: str
    meaning: str
    advice: str


def rival_kind(method: str) -> str:
    """Return the kind of a baseline: the report has one warning for all baselines of a kind.

    It is `soft` or `hard`, by the labels, for selections of real pictures, and else the name.
    """
    return method if selection_of(method) == CURRICULUM else method.rpartition("-")[2]


def is_augmented(method: str) -> bool:
    """Whether students of a method are trained on views, as those of other methods are."""
    return not method.endswith("-unaugmented")


def behind_teacher(rows: Sequence[ResultRow], facts: RunFacts) -> str | None:
    """How far students are behind the teacher of their build, if it is `NEARLY` nothing.

    Returns:
        The largest gap in words; None if it is larger, or if a teacher is not known.
    """
    teachers = [facts.row("teacher", row.student) for row in rows]
    known = [teacher.top1.mean for teacher in teachers if teacher is not None]
    if len(known) < len(rows):
        return None
    gap = max(0.0, *(top1 - row.top1.mean for top1, row in zip(known, rows, strict=True)))
    if gap > NEARLY:
        return None
    return f"{gap:.1f} points behind the teacher's {max(known):.1f} %"


def rival_words(methods: Sequence[str], ipc: int, behind: str | None = None) -> RivalWords:
    """The words for rivals of one kind of labels.

    Args:
        methods: Their names, such as `random-soft` and `herding-soft`.
        ipc: Images per class of the distilled set.
        behind: How far rivals with soft labels are behind their teacher ("0.9 points behind the
            teacher's 99.5 %"), if that is nearly nothing.
    """
    kind = rival_kind(methods[0])
    is_completed = selection_of(kind) == CURRICULUM
    if kind in ("soft", "hard") or is_completed:
        sources = [method.rpartition("-")[0] for method in methods]
        labels = "plain hard labels" if kind.endswith("hard") else "the same soft labels"
        subject = f"{listed([real_pictures(source) for source in sources])} with {labels} do"
    elif kind == "sre2l":
        subject = f"{method_words(kind)} does"
    else:
        subject = f"the set `{kind}` does"
    others = _COMPLETED if is_completed else _OF_ANOTHER_METHOD
    meaning, advice = _RIVALS.get(kind, others)
    if kind == "soft" and behind is not None:
        meaning = f"They are {behind}: images can add little here. {meaning}"
        advice = "If you may pass on real pictures, they serve as well."
    if kind == "soft" and ipc > 1:
        advice = f"Compare at fewer images per class, where the images matter more. {advice}"
    return RivalWords(f"{subject[0].upper()}{subject[1:]}", meaning, advice)


_RIVALS = {
    "soft": (
        "Here the distilled images bring no more than real pictures.",
        "Raise `synthesis.iterations`. If you may pass on real pictures, they serve as well.",
    ),
    "hard": (
        "Distillation gains nothing here.",
        "Check the teachers' accuracy first, then raise `synthesis.iterations` and "
        "`labels.epochs`.",
    ),
    "sre2l": (
        "The additions of G-VBSM make no difference here.",
        "Take more kinds of teachers (`squeeze.backbones`) or more `synthesis.iterations`, and "
        "more students (`evaluation.seeds`) to see small differences.",
    ),
}
_COMPLETED = (
    "Some of the distilled images and selected real pictures are worth as much as all of them.",
    "If you may pass on real pictures, take that set.",
)
_OF_ANOTHER_METHOD = (  # one of `baselines.sets`
    "The distilled images have no lead over it here.",
    "Raise `synthesis.iterations`, or train more students (`evaluation.seeds`) to see small "
    "differences.",
)
