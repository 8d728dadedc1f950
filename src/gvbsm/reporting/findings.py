"""The verdict on a run, and warnings and notes on its results, as sentences.

All functions are pure: facts in, sentences out. Accuracies are in percent, differences in
percentage points. Two accuracies differ if more than two standard deviations lie between them. The
deviation is the larger of that over students (pooled) and that over samples of test pictures.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from gvbsm.config import BASELINE_GROUPS, WHOLE_SET, BaselinesConfig, Config
from gvbsm.config.build import images_of, selection_of
from gvbsm.config.fields import dotted_names_of
from gvbsm.config.keys import value_at
from gvbsm.data.class_sizes import few_pictures, uneven_classes
from gvbsm.engine.progress.spelling import spell_count
from gvbsm.files.schema.runs import ResultRow
from gvbsm.files.sizes import byte_count
from gvbsm.pipeline.budget.pictures import PRESET as OWN_PICTURES
from gvbsm.reporting.facts import RunFacts, preset_name
from gvbsm.reporting.network_findings import NETWORK_CHECKS, Finding
from gvbsm.reporting.rivals import behind_teacher, is_augmented, rival_kind, rival_words
from gvbsm.reporting.significance import noise, standard_error
from gvbsm.reporting.wording import file_words, listed, method_words, percent

# Limits from which there is a finding; accuracies in percentage points.
FEW_TEST_PICTURES = 2000
LABELS_TO_IMAGES = 2.0  # bytes of the labels over bytes of the images
DD_SHARE = 0.01  # of the largest gradient of L_DD: below, it counts as inactive
DD_RARE = 0.2  # share of logged steps at which L_DD is active

RIVALS_NAMED = 3  # baselines that the verdict names
UNFINISHED_ADVICE = "Run the same command again: it continues where it stopped."
REDUCIBLE = dotted_names_of(Config(), "reducible")


def verdict(facts: RunFacts) -> list[str]:
    """The accuracy of the first student and of baselines, in one or two sentences."""
    if not (own_rows := facts.own_rows()):
        return [f"{method_words(facts.method)} has not been evaluated yet."]
    row = own_rows[0]
    kind = "distilled images" if selection_of(facts.method) is None else "selected real pictures"
    text = f"Trained on {facts.images:,} {kind}, {row.student} reaches {percent(row.top1)}"
    random = facts.row("random-soft", row.student)
    if random is not None and facts.method != "random-soft":
        text += (
            "; on as many random real pictures with soft labels of the same teachers, "
            f"{percent(random.top1)}"
        )
    real = f"all {facts.train:,} pictures" if facts.train else "the whole set"
    if (full := facts.row("full", row.student)) is not None:
        text += f"; on {real}, {percent(full.top1)}"
    elif (teacher := facts.row("teacher", row.student)) is not None:
        is_trained = all(item.epochs for item in facts.teachers if item.backbone == row.student)
        where = f"teacher, on {real}" if is_trained else "pretrained teacher"
        text += f"; as a {where}, {percent(teacher.top1)}"
    sentences = [f"{text}."]
    baselines = [
        other
        for other in facts.rows
        if other.student == row.student
        and other.method not in (facts.method, "random-soft", *WHOLE_SET)
        and is_augmented(other.method)
    ]
    if baselines:
        best = sorted(baselines, key=lambda other: -other.top1.mean)[:RIVALS_NAMED]
        accuracies = listed(
            f"{percent(other.top1)} ({method_words(other.method)})" for other in best
        )
        other = "other " if random is not None else ""
        which = f"{other}baselines reach"
        if len(baselines) > len(best):
            which = f"the best of {len(baselines)} {which}"
        elif len(baselines) == 1:
            which = f"{'another' if other else 'a'} baseline reaches"
        sentences.append(f"With as many images, {which} {accuracies}.")
    return sentences


def find_all(facts: RunFacts) -> list[Finding]:
    """All findings, warnings first."""
    findings = [finding for check in CHECKS for finding in check(facts)]
    return sorted(findings, key=lambda finding: finding.level == "note")


def _rivals(facts: RunFacts) -> Iterator[Finding]:
    """Baselines that are as good as G-VBSM or better; one finding for each kind of labels."""
    if facts.method != "gvbsm":
        return
    kinds: dict[str, list[tuple[ResultRow, ResultRow, float]]] = {}
    for baseline in facts.rows:
        own = facts.row(facts.method, baseline.student)
        is_other = images_of(baseline.method) != facts.method and is_augmented(baseline.method)
        if own is None or not is_other or baseline.method in WHOLE_SET:
            continue
        limit = noise(own.top1, baseline.top1, facts.test)
        if own.top1.mean - baseline.top1.mean <= limit:
            kinds.setdefault(rival_kind(baseline.method), []).append((own, baseline, limit))
    for kind, pairs in kinds.items():
        yield _rival(kind, pairs, facts)


def _rival(
    kind: str, pairs: Sequence[tuple[ResultRow, ResultRow, float]], facts: RunFacts
) -> Finding:
    """One finding on all baselines of a kind.

    `pairs` holds the run's own row, the baseline's, and two standard deviations in points.
    """
    methods = list(dict.fromkeys(baseline.method for _, baseline, _ in pairs))
    behind = behind_teacher([baseline for _, baseline, _ in pairs], facts)
    words = rival_words(methods, max(facts.counts), behind)
    is_better = {own.top1.mean - baseline.top1.mean < -limit for own, baseline, limit in pairs}
    how = (
        "as well or better" if len(is_better) > 1 else "better" if True in is_better else "as well"
    )
    cases = [
        f"{own.student} {percent(baseline.top1)}"
        f"{f' ({baseline.method})' if len(methods) > 1 else ''} against {percent(own.top1)}, where "
        f"two standard deviations are {limit:.1f} points"
        for own, baseline, limit in pairs
    ]
    text = f"{words.subject} {how}: {'; '.join(cases)}. {words.meaning}"
    return Finding(f"rival-{kind}", "warning", text, words.advice)


def _images_alone(facts: RunFacts) -> Iterator[Finding]:
    """The distilled images against random real pictures, both with hard labels."""
    for own in facts.own_rows():
        distilled, random = (
            facts.row(method, own.student) for method in ("gvbsm-hard", "random-hard")
        )
        if distilled is None or random is None or facts.method != "gvbsm":
            continue
        gap = distilled.top1.mean - random.top1.mean
        is_better = gap > noise(distilled.top1, random.top1, facts.test)
        yield Finding(
            "images-alone",
            "note",
            f"With hard labels the distilled images teach {own.student} {percent(distilled.top1)}, "
            f"as many random real pictures {percent(random.top1)}: without soft labels they teach "
            f"{'more' if is_better else 'no more'} than these.",
            "Quote both beside the accuracy with soft labels.",
        )


def _students(facts: RunFacts) -> Iterator[Finding]:
    """Students that are not trained yet, and rows of one student only."""
    seeds = value_at(facts.config, "evaluation.seeds")
    rows = {row.student: row for row in facts.own_rows()}
    missing = [
        f"{student} {rows[student].top1.n if student in rows else 0} of {seeds}"
        for student in value_at(facts.config, "evaluation.students")
        if student not in rows or rows[student].top1.n < seeds
    ]
    if missing:
        yield Finding(
            "unfinished",
            "warning",
            f"Not all students are trained: {listed(missing)}.",
            UNFINISHED_ADVICE,
        )
    single = [row for row in facts.rows if row.top1.n == 1 and row.method != "teacher"]
    if single:
        names = dict.fromkeys(f"{method_words(row.method)} ({row.student})" for row in single)
        yield Finding(
            "single",
            "warning",
            f"Only one student (n = 1), so the spread is unknown: {listed(names)}.",
            "Raise `evaluation.seeds`; the paper has 3.",
        )


def _densification(facts: RunFacts) -> Iterator[Finding]:
    """L_DD without a gradient, at all logged steps or at most of them."""
    rows = [row for trace in facts.traces for row in trace]
    if (
        facts.method != "gvbsm"
        or not rows
        or not value_at(facts.config, "synthesis.weight_densification")
    ):
        return
    is_exact = value_at(facts.config, "synthesis.densification") == "exact"
    largest = max(row["densification_gradient"] for row in rows)
    if largest == 0:
        is_single = max(facts.counts) == 1
        why = "it compares images of one class, and there is only one" if is_single else "flat loss"
        other_form = "`synthesis.densification` scaled, or " if is_exact else ""
        yield Finding(
            "densification",
            "note" if is_single else "warning",
            f"L_DD had no effect: its gradient was 0 at every logged step ({why}).",
            "Use more images per class, or set `synthesis.weight_densification` to 0."
            if is_single
            else f"Try {other_form}a higher `synthesis.tau`.",
        )
        return
    active = sum(row["densification_gradient"] > DD_SHARE * largest for row in rows) / len(rows)
    if active < DD_RARE:
        yield Finding(
            "densification-rare",
            "note",
            f"L_DD had little effect: at {1 - active:.0%} of the logged steps its gradient was "
            f"below {DD_SHARE:.0%} of its peak.",
            "That is the paper's form. `synthesis.densification` scaled keeps it active longer."
            if is_exact
            else "A higher `synthesis.tau` may keep it active longer.",
        )


def _reduced(facts: RunFacts) -> Iterator[Finding]:
    """Settings below those of the run's preset, unless they were chosen for the user's time."""
    if _is_of_own_pictures(facts):
        return
    if facts.origin.is_beyond_the_paper:
        base, name = facts.preset, facts.origin.preset
    else:
        base, name = facts.full, preset_name(facts.config)
    if base is None:
        return
    values: list[tuple[str, Any, Any]] = [
        (key, value_at(facts.config, key), value_at(base, key)) for key in REDUCIBLE
    ]
    sections = facts.config["squeeze"], base["squeeze"]
    used, preset = (len(squeeze["backbones"]) for squeeze in sections)
    values.append(("number of `squeeze.backbones`", used, preset))
    for teacher in sorted({key for squeeze in sections for key in squeeze.get("settings_of", {})}):
        if all(teacher in squeeze["backbones"] for squeeze in sections):
            used, preset = (_teacher_epochs(squeeze, teacher) for squeeze in sections)
            values.append((f"`squeeze.epochs` of {teacher}", used, preset))
    lower = [
        f"{key if ' ' in key else f'`{key}`'} {used:,} of {preset:,}"
        for key, used, preset in values
        if used < preset
    ]
    if lower:
        yield Finding(
            "reduced",
            "warning",
            f"Settings are below those of the preset {name}: {listed(lower)}.",
            "Do not compare with published accuracies. Leave these options out for a full run.",
        )


def _is_of_own_pictures(facts: RunFacts) -> bool:
    """Whether the settings are fitted into a time budget, so that no preset has the full ones."""
    return str(facts.origin.preset).split("+")[0] == OWN_PICTURES


def _teacher_epochs(squeeze: Mapping[str, Any], backbone: str) -> int:
    """The epochs of one teacher; `settings_of` may hold them as text, as the user wrote them."""
    return int(squeeze["settings_of"].get(backbone, {}).get("epochs", squeeze["epochs"]))


def _labels(facts: RunFacts) -> Iterator[Finding]:
    images, labels = facts.set_bytes["images"], facts.set_bytes["labels"]
    if not images or labels < LABELS_TO_IMAGES * images:
        return
    text = (
        f"The soft labels take {labels / images:,.0f} times the space of the images "
        f"({byte_count(labels)} against {byte_count(images)})"
    )
    channels, size = facts.shape
    real = facts.train * channels * size**2 if facts.train and channels else None
    if real is not None and labels + images > real:
        text += f"; with the images they take more than all training pixels ({byte_count(real)})"
    advice = f"Include them in the size of the set. {_smaller_labels(facts.config['labels'])}"
    yield Finding("labels", "note", f"{text}.", advice.rstrip())


def _smaller_labels(labels: Mapping[str, Any]) -> str:
    """Which settings of the storage would make the labels smaller; empty if all are used."""
    storage, more = labels["storage"], []
    if storage["bits"] > 8:
        more.append(
            "`labels.storage.bits` 8 stores half of the bytes of each logit, at no loss on the "
            "digits"
        )
    if labels["batchnorm"] != "batch" and storage["pruning"] < 10:  # pruning is refused with batch
        more.append(
            "`labels.storage.pruning` 10 stores a tenth of the labels, at a loss of less than 1 "
            "point on the digits and of 5 on CIFAR-10"
        )
    if not more:
        return ""
    return f"{'; '.join(more)}. `gvbsm labels --compress` converts existing labels."


def _missing(facts: RunFacts) -> Iterator[Finding]:
    if facts.method != "gvbsm":
        return
    evaluated = {row.method for row in facts.rows}
    is_own = _is_of_own_pictures(facts)
    expected = BASELINE_GROUPS["light"] if is_own else BaselinesConfig().methods
    baselines = dict.fromkeys((*expected, *facts.config["baselines"]["methods"]))
    missing = [method_words(method) for method in baselines if method not in evaluated]
    if missing:
        yield Finding(
            "missing",
            "warning",
            f"These baselines have not been evaluated: {listed(missing)}.",
            "Run the same command with them in `baselines.methods`; finished work is kept.",
        )


def _test_pictures(facts: RunFacts) -> Iterator[Finding]:
    if not facts.test or facts.test >= FEW_TEST_PICTURES or not facts.own_rows():
        return
    error = standard_error(facts.own_rows()[0].top1.mean, facts.test)
    yield Finding(
        "test-pictures",
        "warning",
        f"There are only {facts.test:,} test pictures: one is {100 / facts.test:.1f} points, "
        f"and the standard error of an accuracy is about {error:.1f} points.",
        f"Draw no conclusion from differences below {2 * error:.1f} points.",
    )


def _class_sizes(facts: RunFacts) -> Iterator[Finding]:
    """Classes with fewer training pictures than images, and very uneven ones."""
    counts = {name.replace("`", "'"): count for name, count in facts.train_of_class.items()}
    if not counts:
        return
    if text := few_pictures(counts, facts.counts):
        yield Finding(
            "few-pictures",
            "warning",
            f"{text}.",
            "These classes have no more variety than their pictures. Take a lower `ipc`, or add "
            "pictures.",
        )
    if text := uneven_classes(counts):
        yield Finding(
            "uneven",
            "warning",
            f"{text[0].upper()}{text[1:]}.",
            "Teachers know small classes less well. Read the accuracy of each class; `ipc_of` "
            "gives single classes another number of images.",
        )


def _skipped(facts: RunFacts) -> Iterator[Finding]:
    if count := len(facts.skipped):
        root = value_at(facts.config, "data.root")
        first = ", ".join(file_words(name, root) for name in facts.skipped[:3])
        more = f" and {count - 3} more" if count > 3 else ""
        yield Finding(
            "skipped",
            "warning",
            f"{spell_count(count, 'real picture')} cannot be read and were left out: "
            f"{first}{more}.",
            "`results.json` names all of them. If they are many, repair them and run again.",
        )


def _notes(facts: RunFacts) -> Iterator[Finding]:
    for note in facts.notes:
        yield Finding(
            "notes",
            "warning",
            f"Reading the data: {note}.",
            "If this is not intended, correct the data and run in an empty work directory.",
        )


def _versions(facts: RunFacts) -> Iterator[Finding]:
    if len(facts.writers) > 1:
        yield Finding(
            "versions",
            "warning",
            f"Several versions of gvbsm wrote these files: {listed(facts.writers)}.",
            "Before you quote results, run again in an empty work directory.",
        )


CHECKS: tuple[Callable[[RunFacts], Iterator[Finding]], ...] = (
    _rivals,
    _images_alone,
    _missing,
    _students,
    *NETWORK_CHECKS,
    _test_pictures,
    _class_sizes,
    _skipped,
    _notes,
    _reduced,
    _versions,
    _densification,
    _labels,
)
