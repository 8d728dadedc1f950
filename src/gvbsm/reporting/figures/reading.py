"""Read the files of a work directory or a sweep as plain data for the figures."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from gvbsm.backbones import build_backbone
from gvbsm.config import WHOLE_SET
from gvbsm.config.build import selection_of
from gvbsm.config.provenance import Origin
from gvbsm.engine.seeds import seeded
from gvbsm.files.artifacts import ArtifactError, read_json
from gvbsm.files.manifest import named
from gvbsm.files.network_names import file_stem
from gvbsm.files.schema import (
    AnalysisHeader,
    Results,
    StudentHistory,
    StudentRecipe,
    StudyFile,
    checked,
    checked_header,
    checked_json,
)
from gvbsm.files.tensors import load_tensors
from gvbsm.method.layers import matched_layers
from gvbsm.method.statistics import Statistics as ConvStatistics
from gvbsm.reporting.figures.curves import TrainingCurve
from gvbsm.reporting.figures.layers import LayerStatistics
from gvbsm.reporting.figures.pareto import MeasuredSet
from gvbsm.store.statistics_codec import load_statistics
from gvbsm.store.teachers import buildable
from gvbsm.store.workdir import Workspace
from gvbsm.studies.published import (
    PublishedColumn,
    PublishedFigure,
    done_figures,
    published_columns,
    split_published,
)
from gvbsm.studies.table import Gain, gains


@contextmanager
def fitting(path: Path) -> Iterator[None]:
    """Raise an `ArtifactError` if a file lacks an entry or has one of another form."""
    try:
        yield
    except (KeyError, IndexError, TypeError, ValueError, RuntimeError) as error:
        raise ArtifactError(
            f"{path} does not have the content that this version expects ({error!r}); move it away "
            "to compute it again"
        ) from None


class Student(NamedTuple):
    """The training of one student.

    Attributes:
        method: Method of its training images.
        name: Its architecture.
        history: Losses and tests.
        confusion: Test pictures by true and predicted class, (classes, classes), or None.
        seed_index: Number of the student among those of its method and architecture, from 0.
    """

    method: str
    name: str
    history: TrainingCurve
    confusion: Tensor | None
    seed_index: int


def read_rows(workspace: Workspace) -> list[dict[str, Any]]:
    """The rows of the results; empty if there are no results."""
    if not workspace.results.is_file():
        return []
    return list(checked_json(Results, workspace.results)["rows"])


def read_students(workspace: Workspace, rows: Sequence[Mapping[str, Any]]) -> list[Student]:
    """All students in the results, the run's own method first.

    Students of earlier runs with other settings are left out.
    """
    counted = {(row["method"], row["student"]): row["top1"]["values"] for row in rows}
    config = checked_json(Results, workspace.results).get("config") or {}
    seeds = config.get("evaluation", {}).get("seeds", math.inf)
    directory, students = workspace.directory, []
    own_paths = named(directory, "evaluation/*.json")
    for path in [*own_paths, *named(directory, "baselines/*/evaluation/*.json")]:
        with fitting(path):
            student = _student(path)
            values = counted.get((student.method, student.name), ())
            if student.seed_index < seeds and student.history.top1[-1] in values:
                students.append(student)
    return sorted(students, key=lambda student: student.method != rows[0]["method"])


def _student(path: Path) -> Student:
    content = checked(StudentHistory, read_json(path), path)
    trained = checked(StudentRecipe, content.recipe, path)
    file = file_stem(trained.student)
    return Student(
        path.stem.removesuffix(f"-{file}-{trained.seed_index}"),
        trained.student,
        TrainingCurve(content.epochs, content.top1, content.losses, _kind_of_loss(content.recipe)),
        None if content.confusion is None else torch.tensor(content.confusion),
        trained.seed_index,
    )


def _kind_of_loss(recipe: Mapping[str, Any]) -> str:
    """The setting `evaluation.loss` of a student's recipe; empty if it has none."""
    evaluation = recipe.get("evaluation")
    return str(evaluation.get("loss", "")) if isinstance(evaluation, Mapping) else ""


def read_teachers(workspace: Workspace) -> dict[str, TrainingCurve]:
    """The training of the teachers by backbone, without pretrained ones."""
    histories = {}
    for path in workspace.teachers():
        header = checked_header(path)
        with fitting(path):
            tests = header["history"]
            history = TrainingCurve(tests["epochs"], tests["top1"], tests["losses"])
            if history.losses:
                histories[str(header["backbone"])] = history
    return histories


def read_layers(workspace: Workspace) -> dict[str, list[LayerStatistics]]:
    """The layers of each teacher with recorded statistics, in the order of the network."""
    teachers = {}
    for path in buildable(workspace.teachers()):
        recorded = workspace.directory / "statistics" / path.name
        if recorded.is_file():
            tensors, header = load_tensors(path, "teacher")
            conv = load_statistics(recorded)
            with fitting(path):
                teachers[str(header["backbone"])] = _layers(header, tensors, conv)
    return teachers


def _layers(
    header: Mapping[str, Any], tensors: Mapping[str, Tensor], conv: ConvStatistics
) -> list[LayerStatistics]:
    """Statistics of the BatchNorm layers and the convolutions, in the order of the network."""
    with seeded(0, "unused"):  # only the order of the network's layers is used
        model = build_backbone(
            header["backbone"], len(header["class_names"]), header["image_size"], header["channels"]
        )
    matched = matched_layers(model)
    layers = []
    for path, _ in model.named_modules():
        if path in matched.batchnorm:
            mean, variance = tensors[f"{path}.running_mean"], tensors[f"{path}.running_var"]
            layers.append(LayerStatistics("BatchNorm", mean, variance))
        elif path in matched.conv:
            layers.append(LayerStatistics("convolution", *conv.channel[path]))
    return layers


class Analysis(NamedTuple):
    """The analysis of the sets with a teacher.

    Attributes:
        sets: Names of the sets.
        teacher: Name of the backbone.
        accuracy: Percent of each set's images that the teacher classifies as their label says.
        tensors: See `gvbsm.reporting.analysis.analyze`.
    """

    sets: list[str]
    teacher: str
    accuracy: dict[str, float]
    tensors: dict[str, Tensor]


def read_analysis(workspace: Workspace) -> Analysis | None:
    """Read the analysis of the sets; None if there is none."""
    path = workspace.analysis
    if not path.is_file():
        return None
    tensors, header = load_tensors(path, "analysis")
    checked(AnalysisHeader, header, path)
    with fitting(path):
        analysis = Analysis(header["sets"], header["teacher"], header["accuracy"], tensors)
        for name in analysis.sets:
            _ = tensors[f"cosine/{name}"], tensors[f"pixel_cosine/{name}"], analysis.accuracy[name]
        _ = tensors["tsne/points"], tensors["tsne/labels"], tensors["tsne/set"]
    return analysis


class StudyResults(NamedTuple):
    """The results of a study; see `gvbsm.studies.table`.

    Attributes:
        name: Name of the study.
        title: Its question.
        source: Where the paper asks it.
        axes: Names of its axes.
        points: The points that are done: `name`, `axes` and `config`.
        rows: Results; `point` is None for a baseline that is the same at all points.
        published: The paper's accuracy beside each row, or None.
        other_published: The paper's accuracies of other data, students or images per class.
        all_published: All of the paper's accuracies.
        additive: Whether each point keeps the settings of the points before it.
        gains: Of an additive study: differences to the point before, by point and student.
        planned: Number of all its points, done or not.
        origin: The preset of all points.
        versions: Versions of the libraries.
    """

    name: str
    title: str
    source: str
    axes: list[str]
    points: list[dict[str, Any]]
    rows: list[dict[str, Any]]
    published: list[PublishedFigure | None]
    other_published: list[PublishedColumn]
    all_published: list[PublishedColumn]
    additive: bool
    gains: dict[tuple[str, str], Gain]
    planned: int
    origin: Origin
    versions: dict[str, str]

    @property
    def heading(self) -> str:
        """Its title with a capital letter."""
        return self.title[:1].upper() + self.title[1:]

    @property
    def own_rows(self) -> list[dict[str, Any]]:
        """The rows of the points' own methods, without those of baselines."""
        methods = {point["name"]: point["config"]["method"] for point in self.points}
        return [row for row in self.rows if methods.get(row["point"]) == row["method"]]


def read_studies(directory: Path) -> list[StudyResults]:
    """Read the studies of a sweep's folder; empty if it has no folder `points`."""
    if not (directory / "points").is_dir():
        return []
    studies = []
    for path in named(directory, "*.json"):
        content = read_json(path)
        if "study" not in content:
            continue
        checked(StudyFile, content, path)
        with fitting(path):
            points = [point for point in content["points"] if point["done"]]
            published, other_published = split_published(content)
            studies.append(
                StudyResults(
                    content["study"],
                    content["title"],
                    content["source"],
                    content["axes"],
                    points,
                    content["rows"],
                    published,
                    other_published,
                    published_columns(done_figures(content)),
                    content["additive"],
                    gains(content),
                    len(content["points"]),
                    Origin.read(content),
                    content["versions"],
                )
            )
    return studies


def study_sets(study: StudyResults) -> list[MeasuredSet]:
    """The sets of a study with costs and accuracy, without the whole training set."""
    sets = []
    for row in study.rows:
        if row["method"] in WHOLE_SET:
            continue
        name = "every point" if row["point"] is None else row["point"]
        sets.append(_measured_set(name, row, row["seconds"]))
    return sets


def run_sets(workspace: Workspace) -> list[MeasuredSet]:
    """The sets of a run and of its baselines with costs and accuracy."""
    return [
        _measured_set("", row, workspace.synthesis_seconds(row["method"]))
        for row in read_rows(workspace)
        if row.get("image_bytes")
    ]


def _measured_set(name: str, row: Mapping[str, Any], seconds: float | None) -> MeasuredSet:
    """A row with its costs."""
    if seconds is None and selection_of(row["method"]):
        seconds = 0.0
    return MeasuredSet(name, row["method"], row["student"], row["top1"], seconds, set_bytes(row))


def set_bytes(row: Mapping[str, Any]) -> int | None:
    """Bytes of a row's images and labels; None if they are not known.

    They are not where teachers label during training.
    """
    images: int | None = row["image_bytes"]
    labels: int | None = row["label_bytes"]
    return None if images is None or labels is None else images + labels
