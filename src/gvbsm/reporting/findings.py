"""What a reader of the results should know, in plain words: the verdict, and warnings.

Every function is pure: from the facts to sentences. Accuracies and differences are in percent
points. Two results count as different where they lie more than two standard deviations apart: of
the students (pooled), or of the test pictures as a sample, whichever is larger.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from gvbsm.config import WHOLE_SET, BaselinesConfig, Config
from gvbsm.config.fields import dotted_names_of
from gvbsm.config.keys import value_at
from gvbsm.reporting.facts import Facts, Row, preset_name
from gvbsm.reporting.figures.style import byte_count
from gvbsm.reporting.significance import noise, standard_error
from gvbsm.reporting.wording import file_words, listed, method_words, percent, real_pictures

FEW_TEST_PICTURES = 2000
TOLD_RIVALS = 3  # in the verdict
LARGE_SPREAD = 2.0  # points, of the own students
LATE_LOSS = 1.0  # points between the best and the last epoch
TEACHER_GAP = 10.0  # points between the best and another teacher
LABELS_TO_IMAGES = 2.0  # bytes of labels for one of images
DD_SHARE = 0.01  # of its largest gradient: less is no action
DD_RARE = 0.2  # of the logged steps
REDUCIBLE = dotted_names_of(Config(), "reducible")


@dataclass(frozen=True)
class Finding:
    """Something to know about the results.

    Attributes:
        name: What kind of finding.
        level: `warning` bears on what may be concluded, `note` does not.
        text: What is found; words between backticks are code.
        advice: What to do about it.
    """

    name: str
    level: Literal["warning", "note"]
    text: str
    advice: str


def verdict(facts: Facts) -> list[str]:
    """The outcome in one or two sentences, for the first student that has been tested."""
    if not (own := facts.own_rows()):
        return [f"{method_words(facts.method)} itself has not been evaluated yet."]
    row = own[0]
    kind = "distilled images" if facts.method in ("gvbsm", "sre2l") else "selected real pictures"
    text = f"Trained on {facts.images:,} {kind}, {row.student} reaches {percent(row.last)}"
    whole = f"all {facts.train:,} pictures" if facts.train else "the whole set"
    if (full := facts.row("full", row.student)) is not None:
        text += f"; trained on {whole}, {percent(full.last)}"
    elif (teacher := facts.row("teacher", row.student)) is not None:
        text += f"; as a teacher, on {whole}, {percent(teacher.last)}"
    sentences = [f"{text}."]
    rivals = [
        found
        for found in facts.rows
        if found.student == row.student and found.method not in (facts.method, *WHOLE_SET)
    ]
    if rivals:
        best = sorted(rivals, key=lambda found: -found.last.mean)[:TOLD_RIVALS]
        told = listed([f"{percent(r.last)} ({method_words(r.method)})" for r in best])
        which = f"the best of {len(rivals)} baselines" if len(rivals) > len(best) else "baselines"
        sentences.append(f"With as many images, {which} reach {told}.")
    return sentences


def find_all(facts: Facts) -> list[Finding]:
    """All findings, warnings first."""
    found = [finding for check in CHECKS for finding in check(facts)]
    return sorted(found, key=lambda finding: finding.level == "note")


def _rivals(facts: Facts) -> Iterator[Finding]:
    """Baselines that do as well as the run's own method, or better, by the kind of their labels."""
    if facts.method != "gvbsm":
        return
    found: dict[str, list[tuple[Row, Row, float]]] = {}
    for other in facts.rows:
        own = facts.row(facts.method, other.student)
        if own is None or other.method in (facts.method, *WHOLE_SET):
            continue
        limit = noise(own.last, other.last, facts.test) or 0.0
        if own.last.mean - other.last.mean <= limit:
            kind = other.method.rpartition("-")[2]
            found.setdefault(kind, []).append((own, other, limit))
    for kind, pairs in found.items():
        yield _rival(kind, pairs)


def _rival(kind: str, pairs: Sequence[tuple[Row, Row, float]]) -> Finding:
    """One finding of all baselines of a kind: soft, hard, or a method's own name."""
    sources = list(dict.fromkeys(other.method.rpartition("-")[0] for _, other, _ in pairs))
    if kind in ("soft", "hard"):
        who = f"{listed([real_pictures(source) for source in sources])} with "
        who += "the same soft labels do" if kind == "soft" else "plain hard labels do"
    else:
        who = f"{method_words(kind)} does"
    gaps = {own.last.mean - other.last.mean < -limit for own, other, limit in pairs}
    how = "as well or better" if len(gaps) > 1 else "better" if True in gaps else "as well"
    cases = [
        f"{own.student} {percent(other.last)}"
        f"{f' ({other.method})' if len(sources) > 1 else ''} against {percent(own.last)}, where "
        f"two standard deviations are {limit:.1f} points"
        for own, other, limit in pairs
    ]
    meaning, advice = _MEANING.get(kind, _MEANING["sre2l"])
    text = f"{who[0].upper()}{who[1:]} {how}: {'; '.join(cases)}. {meaning}"
    return Finding(f"rival-{kind}", "warning", text, advice)


_MEANING = {
    "soft": (
        "Here the soft labels, not the images, make most of the accuracy.",
        "Compare at fewer images per class, where the images matter more, or raise "
        "`synthesis.iterations`; if real pictures may be passed on, they serve as well.",
    ),
    "hard": (
        "Distilling does not pay here.",
        "Look at the teachers' accuracy first, then at `synthesis.iterations` and `labels.epochs`.",
    ),
    "sre2l": (
        "What G-VBSM adds to it does not show here.",
        "Take more kinds of teachers (`squeeze.backbones`) or more `synthesis.iterations`, and "
        "more students (`evaluation.seeds`) to see small differences.",
    ),
}


def _students(facts: Facts) -> Iterator[Finding]:
    """Too few students: none yet, fewer than asked for, or one alone."""
    wanted, seeds = (
        value_at(facts.config, "evaluation.students"),
        facts.config["evaluation"]["seeds"],
    )
    rows = {row.student: row for row in facts.own_rows()}
    short = [
        f"{student} {rows[student].last.n if student in rows else 0} of {seeds}"
        for student in wanted
        if student not in rows or rows[student].last.n < seeds
    ]
    if short:
        yield Finding(
            "unfinished",
            "warning",
            f"Not all students are trained: {listed(short)}.",
            "Run the same command again: it goes on where it stopped.",
        )
    single = [row for row in facts.rows if row.last.n == 1 and row.method != "teacher"]
    if single:
        names = dict.fromkeys(f"{method_words(row.method)} ({row.student})" for row in single)
        yield Finding(
            "single",
            "warning",
            f"One student alone (n = 1), so that the spread is not known: {listed(list(names))}.",
            "Raise `evaluation.seeds`; the paper has 3.",
        )


def _spread(facts: Facts) -> Iterator[Finding]:
    wide = [
        f"{row.student} ± {row.last.std:.1f}"
        for row in facts.own_rows()
        if row.last.n > 1 and row.last.std > LARGE_SPREAD
    ]
    if wide:
        yield Finding(
            "spread",
            "warning",
            f"The students differ widely: {listed(wide)} points.",
            "Train more of them (`evaluation.seeds`), longer (`labels.epochs`), or at a lower "
            "`evaluation.optimizer.lr`.",
        )


def _late(facts: Facts) -> Iterator[Finding]:
    late = [
        f"{row.student} {row.best.mean:.1f} at best, {row.last.mean:.1f} % at the end"
        for row in facts.own_rows()
        if row.best.mean - row.last.mean > LATE_LOSS
    ]
    if late:
        yield Finding(
            "late",
            "warning",
            f"The last epoch is well below the best one: {'; '.join(late)}.",
            "Quote the last epoch: the best is picked on the test pictures. A cosine schedule "
            "(`evaluation.optimizer.schedule`) or fewer `labels.epochs` may close the gap.",
        )


def _densification(facts: Facts) -> Iterator[Finding]:
    """Whether L_DD had a gradient at all, and for how long."""
    rows = [row for trace in facts.traces for row in trace]
    if (
        facts.method != "gvbsm"
        or not rows
        or not value_at(facts.config, "synthesis.weight_densification")
    ):
        return
    largest = max(row["densification_gradient"] for row in rows)
    if largest == 0:
        why = "one image of a class has none to differ from" if facts.ipc == 1 else "it was flat"
        yield Finding(
            "densification",
            "note" if facts.ipc == 1 else "warning",
            f"L_DD never acted: its gradient was 0 at every logged step ({why}).",
            "Use more images per class, or set `synthesis.weight_densification` to 0."
            if facts.ipc == 1
            else "Try `synthesis.densification` scaled, or a higher `synthesis.tau`.",
        )
        return
    active = sum(row["densification_gradient"] > DD_SHARE * largest for row in rows) / len(rows)
    if active < DD_RARE:
        yield Finding(
            "densification-rare",
            "note",
            f"L_DD hardly acted: at {1 - active:.0%} of the logged steps its gradient was below "
            f"{DD_SHARE:.0%} of its peak.",
            "That is its form in the paper; `synthesis.densification` scaled keeps it at work.",
        )


def _teachers(facts: Facts) -> Iterator[Finding]:
    if not facts.teachers:
        return
    best = max(facts.teachers, key=lambda teacher: teacher.top1)
    weak = [
        f"{teacher.backbone} {teacher.top1:.1f} %"
        for teacher in facts.teachers
        if best.top1 - teacher.top1 > TEACHER_GAP
    ]
    if weak:
        yield Finding(
            "weak-teacher",
            "warning",
            f"Not all teachers are good: {listed(weak)}, while {best.backbone} has "
            f"{best.top1:.1f} %.",
            "Train them longer (`squeeze.epochs`), or leave them out of `squeeze.backbones`.",
        )
    for row in facts.own_rows():
        full = facts.row("teacher", row.student)
        if full and row.last.mean - full.last.mean > (noise(row.last, full.last, facts.test) or 0):
            yield Finding(
                "short-teacher",
                "warning",
                f"{row.student} is better on the distilled set ({row.last.mean:.1f} %) than on the "
                f"whole one ({full.last.mean:.1f} %): as a teacher it was not trained to its end, "
                "and its row is no upper bound.",
                "Raise `squeeze.epochs`.",
            )


def _reduced(facts: Facts) -> Iterator[Finding]:
    """Settings below those of the data set's preset, or of the one beyond the paper."""
    if facts.origin.is_beyond_the_paper:
        base, name = facts.preset, facts.origin.preset
    else:
        base, name = facts.full, preset_name(facts.config)
    if base is None:
        return
    pairs: list[tuple[str, Any, Any]] = [
        (key, value_at(facts.config, key), value_at(base, key)) for key in REDUCIBLE
    ]
    both = facts.config["squeeze"], base["squeeze"]
    mine, full = (len(squeeze["backbones"]) for squeeze in both)
    pairs.append(("number of `squeeze.backbones`", mine, full))
    for teacher in sorted({key for squeeze in both for key in squeeze.get("settings_of", {})}):
        if all(teacher in squeeze["backbones"] for squeeze in both):
            mine, full = (_teacher_epochs(squeeze, teacher) for squeeze in both)
            pairs.append((f"`squeeze.epochs` of {teacher}", mine, full))
    lower = [
        f"{key if ' ' in key else f'`{key}`'} {mine:,} of {full:,}"
        for key, mine, full in pairs
        if mine < full
    ]
    if lower:
        yield Finding(
            "reduced",
            "warning",
            f"Settings are below those of the preset {name}: {listed(lower)}.",
            "Do not compare with published figures; leave these options out for a full run.",
        )


def _teacher_epochs(squeeze: Mapping[str, Any], backbone: str) -> int:
    """The epochs of one teacher; a table holds what the user wrote, perhaps as text."""
    return int(squeeze["settings_of"].get(backbone, {}).get("epochs", squeeze["epochs"]))


def _labels(facts: Facts) -> Iterator[Finding]:
    images, labels = facts.set_bytes["images"], facts.set_bytes["labels"]
    if not images or labels < LABELS_TO_IMAGES * images:
        return
    text = (
        f"The soft labels take {labels / images:,.0f} times the room of the images "
        f"({byte_count(labels)} against {byte_count(images)})"
    )
    channels, size = facts.shape
    real = facts.train * channels * size**2 if facts.train and channels else None
    if real is not None and labels + images > real:
        text += f", and with them more than all real training pixels ({byte_count(real)})"
    smaller = "`labels.storage.pruning` 10 and `labels.storage.bits` 8 keep a fraction of them"
    if value_at(facts.config, "labels.batchnorm") == "batch":  # pruning is refused with it
        smaller = "`labels.storage.bits` 8 keeps less of them"
    yield Finding(
        "labels",
        "note",
        f"{text}.",
        f"Count them when you say how small the set is. {smaller} at nearly the same accuracy; "
        "`gvbsm labels --compress` converts what is there.",
    )


def _missing(facts: Facts) -> Iterator[Finding]:
    if facts.method != "gvbsm":
        return
    there = {row.method for row in facts.rows}
    wanted = dict.fromkeys((*BaselinesConfig().methods, *facts.config["baselines"]["methods"]))
    absent = [method_words(method) for method in wanted if method not in there]
    if absent:
        yield Finding(
            "missing",
            "warning",
            f"Without a row for comparison: {listed(absent)}.",
            "Run the same command with these in `baselines.methods`; what is made already stays.",
        )


def _test_pictures(facts: Facts) -> Iterator[Finding]:
    if not facts.test or facts.test >= FEW_TEST_PICTURES or not facts.own_rows():
        return
    error = standard_error(facts.own_rows()[0].last.mean, facts.test)
    yield Finding(
        "test-pictures",
        "warning",
        f"There are {facts.test:,} test pictures: one of them is {100 / facts.test:.1f} points, "
        f"and the standard error of an accuracy about {error:.1f} points.",
        f"Make nothing of differences below {2 * error:.1f} points.",
    )


def _skipped(facts: Facts) -> Iterator[Finding]:
    if count := len(facts.skipped):
        root = value_at(facts.config, "data.root")
        first = ", ".join(file_words(name, root) for name in facts.skipped[:3])
        more = f" and {count - 3} more" if count > 3 else ""
        yield Finding(
            "skipped",
            "warning",
            f"{count} real picture{'' if count == 1 else 's'} cannot be read and were left out: "
            f"{first}{more}.",
            "All are named in `results.json`. Repair them and run again, if they are many.",
        )


def _notes(facts: Facts) -> Iterator[Finding]:
    for note in facts.notes:
        yield Finding(
            "notes",
            "warning",
            f"In reading the data: {note}.",
            "If that is not what you mean, mend the data and run in an empty work directory.",
        )


def _versions(facts: Facts) -> Iterator[Finding]:
    if len(facts.writers) > 1:
        yield Finding(
            "versions",
            "warning",
            f"The files were written by several versions of gvbsm: {listed(facts.writers)}.",
            "For figures to be quoted, run again in an empty work directory.",
        )


CHECKS: tuple[Callable[[Facts], Iterator[Finding]], ...] = (
    _rivals,
    _missing,
    _students,
    _spread,
    _late,
    _test_pictures,
    _skipped,
    _notes,
    _reduced,
    _teachers,
    _versions,
    _densification,
    _labels,
)
