"""The figures of each study of a sweep, with captions."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from gvbsm.config import WHOLE_SET
from gvbsm.config.paths import data_title
from gvbsm.engine.progress.spelling import spell_count, spell_range
from gvbsm.pipeline.tables import images_per_class
from gvbsm.reporting.figures.captions import CaptionedFigure
from gvbsm.reporting.figures.matrix import StudentMatrix, draw_matrices
from gvbsm.reporting.figures.pareto import SET_BYTES, pareto_figure
from gvbsm.reporting.figures.reading import (
    StudyResults,
    fitting,
    read_studies,
    set_bytes,
    study_sets,
)
from gvbsm.reporting.figures.studies import (
    CostPoint,
    draw_against_bytes,
    draw_against_time,
    draw_points,
    draw_scaling,
)
from gvbsm.reporting.figures.study_images import START, study_images
from gvbsm.reporting.wording import listed

LOG_FROM = 5.0  # largest over smallest value from which an axis is logarithmic
MATRIX_FROM = 3  # students from which a study has a figure of points against students
COSTS_DIFFER = 1.1  # largest over smallest cost from which there is a figure of costs


def study_figures(directory: Path) -> Iterator[CaptionedFigure]:
    """Draw all studies with results in a folder.

    Raises:
        ArtifactError: If a file is damaged.
    """
    for study in read_studies(directory):
        with fitting(directory / f"{study.name}.json"):
            yield from list(_study(directory, study))


def _study(directory: Path, study: StudyResults) -> Iterator[CaptionedFigure]:
    if (figure := _images(directory, study)) is not None:
        yield figure
    numbers = _numbers(study)
    if numbers:
        yield _scaling(study, numbers)
    else:
        yield _points(study)
        if (figure := _matrix(study)) is not None:
            yield figure
        if (figure := _iteration_costs(study)) is not None:
            yield figure
        if (figure := _label_bytes(study)) is not None:
            yield figure
    if study.axes == ["ipc"]:
        yield _storage(study)
    name, title = f"study-{study.name}-pareto", f"{study.heading}: accuracy for time and storage"
    if (front := pareto_figure(name, title, study_sets(study), _where(study))) is not None:
        yield front


def _images(directory: Path, study: StudyResults) -> CaptionedFigure | None:
    """Figure 1: the images of the points side by side."""
    if (found := study_images(directory, study)) is None:
        return None
    classes, columns = found.grid.rows, spell_count(len(found.points), "set")
    start = (
        f"On the left is the {START} of all of them." if found.has_start else "Their starts differ."
    )
    shared = "".join(
        f" {listed(points)} have the same images." for points in found.points if len(points) > 1
    )
    return CaptionedFigure(
        f"study-{study.name}-images",
        f"{study.heading}: the images",
        f"The first image of {spell_count(len(classes), 'class')} after the last iteration at each "
        f"point of the study{_where(study)}. {start}{shared}",
        f"Images of {columns} for {spell_count(len(classes), 'class')}",
        found.grid,
    )


def _numbers(study: StudyResults) -> dict[str, float]:
    """The value of each point on the study's axis; empty unless it has one axis, of numbers."""
    values = {point["name"]: list(point["axes"].values()) for point in study.points}
    is_numeric = all(
        len(axes) == 1 and isinstance(axes[0], (int, float)) and not isinstance(axes[0], bool)
        for axes in values.values()
    )
    return {name: axes[0] for name, axes in values.items()} if is_numeric else {}


def _scaling(study: StudyResults, numbers: Mapping[str, float]) -> CaptionedFigure:
    rows = [{**row, "value": numbers.get(row["point"])} for row in study.rows]
    low, high = min(numbers.values()), max(numbers.values())
    published = [
        column._replace(top1={numbers[point]: top1 for point, top1 in column.top1.items()})
        for column in study.all_published
    ]
    label = "images per class" if study.axes == ["ipc"] else study.axes[0]
    scale: Literal["linear", "log"] = "log" if low > 0 and high > LOG_FROM * low else "linear"
    return CaptionedFigure(
        f"study-{study.name}",
        study.heading,
        f"Accuracy on the real test pictures against {label}{_where(study)}. "
        f"{_marks(study)}{_level(study)}{_beside(study)}",
        f"Accuracy against {label}",
        draw_scaling(rows, "value", label, scale, published),
    )


def _points(study: StudyResults) -> CaptionedFigure:
    names = [point["name"] for point in study.points]
    return CaptionedFigure(
        f"study-{study.name}",
        study.heading,
        f"Accuracy on the real test pictures at each point of the study{_where(study)}. Small "
        f"marks are single students. {_marks(study)}{_level(study)} The axes do not start at 0."
        f"{_beside(study)}",
        f"Accuracies at {spell_count(len(names), 'point')}",
        draw_points(study.rows, names, study.all_published),
    )


def _matrix(study: StudyResults) -> CaptionedFigure | None:
    """Points against students, if there are several students."""
    rows = study.own_rows
    points = list(dict.fromkeys(row["point"] for row in rows))
    students = list(dict.fromkeys(row["student"] for row in rows))
    if len(students) < MATRIX_FROM:
        return None
    accuracy = {(row["point"], row["student"]): row["top1"]["mean"] for row in rows}
    random = {
        (row["point"], row["student"]): row["top1"]["mean"]
        for row in study.rows
        if row["method"] == "random-soft"
    }
    leads = {}
    for (point, student), top1 in accuracy.items():
        beside = random.get((point, student), random.get((None, student)))
        if beside is not None:
            leads[point, student] = top1 - beside
    matrices, below = [StudentMatrix("top-1, %", accuracy)], ""
    if leads:
        matrices.append(StudentMatrix("above random pictures, points", leads, is_difference=True))
        below = (
            "; below, how far it is above that on random pictures with soft labels of the same "
            "teachers"
        )
    return CaptionedFigure(
        f"study-{study.name}-matrix",
        f"{study.heading}: points against students",
        "Accuracy on the real test pictures, a row for each point of the study and a column for "
        f"each student{_where(study)}{below}. Means of {_students(study)}.",
        f"Accuracies of {spell_count(len(students), 'student')} "
        f"at {spell_count(len(points), 'point')}",
        draw_matrices(matrices, points, students),
    )


def _iteration_costs(study: StudyResults) -> CaptionedFigure | None:
    """Figure 5: accuracy against the time of an iteration, if points differ in it."""
    timed = [row for row in study.own_rows if row["seconds_per_iteration"]]
    seconds = [row["seconds_per_iteration"] for row in timed]
    if len(set(seconds)) < 2 or max(seconds) < COSTS_DIFFER * min(seconds):
        return None
    students = _by_student(timed, lambda row: 1000 * row["seconds_per_iteration"])
    return CaptionedFigure(
        f"study-{study.name}-cost",
        f"{study.heading}: accuracy against time",
        "Accuracy on the real test pictures against the time of one iteration of the synthesis for "
        f"one batch of images, on the machine of the sweep{_where(study)}. Upper left is better. "
        f"Numbers refer to the list of points below. {_marks(study)}",
        "Accuracy against the time of an iteration",
        draw_against_time(students),
    )


def _label_bytes(study: StudyResults) -> CaptionedFigure | None:
    """Accuracy against bytes on disk, if points differ in the bytes of their labels."""
    stored = [row for row in study.rows if set_bytes(row) is not None]
    rows = [row for row in study.own_rows if row in stored]
    labels = [row["label_bytes"] for row in rows]
    if len(set(labels)) < 2 or max(labels) < COSTS_DIFFER * min(labels):
        return None
    random = [row for row in stored if row["method"] == "random-soft" and row["point"] is not None]
    beside = " Marks without a number are random pictures with labels kept alike." if random else ""
    return CaptionedFigure(
        f"study-{study.name}-bytes",
        f"{study.heading}: accuracy against storage",
        "Accuracy on the real test pictures against the bytes of a set's pixels and soft labels on "
        f"disk{_where(study)}. Upper left is better. Numbers refer to the list of points below."
        f"{beside} Steps connect the points that no smaller one beats, by their means. "
        f"{_marks(study)}",
        "Accuracy against stored bytes",
        draw_against_bytes(_by_student(rows, set_bytes), _by_student(random, set_bytes)),
    )


def _by_student(
    rows: Sequence[Mapping[str, Any]], cost: Callable[[Mapping[str, Any]], Any]
) -> dict[str, list[CostPoint]]:
    """Points with the cost of their rows, for each student."""
    students: dict[str, list[CostPoint]] = {}
    for row in rows:
        point = CostPoint(row["point"], cost(row), row["top1"])
        students.setdefault(row["student"], []).append(point)
    return students


def _storage(study: StudyResults) -> CaptionedFigure:
    rows = [
        {**row, "bytes": None if row["point"] is None else set_bytes(row)} for row in study.rows
    ]
    return CaptionedFigure(
        f"study-{study.name}-bytes",
        "Accuracy against storage",
        "Accuracy on the real test pictures against the bytes of a set's pixels and soft labels on "
        f"disk{_where(study)}. Soft labels take most of the space; hard labels (hollow "
        f"marks) take none. {_marks(study)}",
        "Accuracy against stored bytes",
        draw_scaling(rows, "bytes", SET_BYTES, "bytes"),
    )


def _where(study: StudyResults) -> str:
    """Data set, and images per class if all points have as many, for a caption."""
    configs = [point["config"] for point in study.points]
    images = {images_per_class(config) for config in configs}
    data = listed(dict.fromkeys(map(data_title, configs)))
    return f" ({data}{f', {images.pop()}' if len(images) == 1 else ''})"


def _students(study: StudyResults) -> str:
    """How many students a mean is of: `3 students`, or `1 to 3 students`."""
    numbers = {len(row["top1"]["values"]) for row in study.rows if row["method"] not in WHOLE_SET}
    return f"{spell_range(numbers)} {'student' if numbers == {1} else 'students'}"


def _marks(study: StudyResults) -> str:
    hard = any(row["method"].endswith("-hard") for row in study.rows)
    hollow = "; hollow marks: trained with hard labels" if hard else ""
    return f"Means of {_students(study)}, bars of one sample standard deviation{hollow}."


def _level(study: StudyResults) -> str:
    same = dict.fromkeys(row["method"] for row in study.rows if row["point"] is None)
    return f" Straight lines are the same at all points: {listed(same)}." if same else ""


def _beside(study: StudyResults) -> str:
    if not study.all_published:
        return ""
    words = f" The last panel shows the paper's accuracies ({study.source})"
    if not study.other_published:
        return f"{words}, of the same data set, student and images per class."
    return (
        f"{words}; its legend names data set, student and images per class. Where these are not "
        "the measured ones, compare the order of the points, not the accuracies."
    )
