"""Schemas of the files of a work directory and a sweep: results, histories, times, checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, Strict, model_validator

from gvbsm.engine.forms import Kind
from gvbsm.files.artifacts import Recipe, read_json
from gvbsm.files.schema.base import (
    Classes,
    ClassNames,
    Deviation,
    Finite,
    Images,
    Manifest,
    Mean,
    Percent,
    Positive,
    Side,
    Text,
    Whole,
    checked,
    entries_as,
)
from gvbsm.files.schema.measures import (
    RowCorruptions,
    RowMetrics,
    Score,
    StudentCorruptions,
    StudentMetrics,
)


class ResultRow(Manifest):
    """A row of `results.json`."""

    method: Text
    student: Text
    ipc: Positive | None
    ipc_of: dict[str, Positive] = Field(default_factory=dict)
    top1: Score
    top1_best: Score
    metrics: RowMetrics | None = None
    corruptions: RowCorruptions | None = None
    image_bytes: Whole | None = None
    label_bytes: Whole | None = None
    seconds: Finite


class OriginEntry(Manifest):
    """Preset and changed settings of a run (`origin` in JSON files)."""

    preset: Text | None
    changed: list[Text]


class History(Manifest):
    """The tests of a network in training."""

    epochs: list[Whole]
    top1: Annotated[list[Percent], Field(min_length=1)]
    losses: list[Finite] = Field(default_factory=list)


class TestedHeader(Manifest):
    """The header of a trained network's file: its recipe, name and tests."""

    recipe: dict[str, Any]
    backbone: Text
    history: History


class TeacherHeader(TestedHeader):
    """The header of a teacher's file, from which the network is built again."""

    class_names: ClassNames
    image_size: Side
    channels: Literal[1, 3]


class StudentSource(Manifest):
    """The distilled set that a student was trained on."""

    dataset: Text
    method: Text
    images: Images
    label_epochs: Positive | None


class StudentTest(Manifest):
    """The real pictures that a student was tested on, and its top-1 accuracy in percent."""

    pictures: Positive
    dataset: Text
    top1: Percent


class StudentHeader(Manifest):
    """The header of the weights of `gvbsm train`, from which the network is built again."""

    recipe: dict[str, Any]
    gvbsm: Text
    backbone: Text
    class_names: ClassNames
    image_size: Side
    channels: Literal[1, 3]
    mean: list[Mean]
    std: list[Deviation]
    trained_on: StudentSource
    test: StudentTest | None

    @model_validator(mode="after")
    def _agree(self) -> Self:
        if not len(self.mean) == len(self.std) == self.channels:
            raise ValueError(f"mean and std should each be {self.channels} numbers, one a channel")
        return self


class StatisticsHeader(Manifest):
    """The header of a teacher's statistics."""

    recipe: dict[str, Any]
    backbone: Text


class RecipeHeader(Manifest):
    """The header of a file, of which only the recipe is read."""

    recipe: dict[str, Any]


class GroupHeader(RecipeHeader):
    """The header of the file of an optimized group of images."""

    trace: list[dict[str, Any]]
    checksums: list[Whole]


class AnalysisHeader(RecipeHeader):
    """The header of `report/analysis.safetensors`."""

    sets: Annotated[list[Text], Field(min_length=1)]
    teacher: Text
    accuracy: dict[str, Percent]


class TrainingHistory(Manifest):
    """The tests of an unfinished training; there may be none yet."""

    epochs: list[Whole]
    top1: list[Percent]
    losses: list[Finite]


class CheckpointState(Manifest):
    """The state of an unfinished training or synthesis, without its tensors."""

    step: Whole
    history: TrainingHistory | None = None
    part: Positive | None = None
    traces: list[list[dict[str, Any]]] | None = None


class CheckpointHeader(RecipeHeader):
    """The header of a checkpoint."""

    state: CheckpointState


class StudentHistory(Manifest):
    """`evaluation/*.json` and `continual/*.json`: the tests of a student."""

    recipe: dict[str, Any]
    epochs: list[Whole]
    top1: Annotated[list[Percent], Field(min_length=1)]
    losses: list[Finite]
    metrics: StudentMetrics | None = None
    corruptions: StudentCorruptions | None = None
    confusion: list[list[Whole]] | None = None


class StudentRecipe(Manifest):
    """Architecture and seed of a student, from its recipe."""

    student: Text
    seed_index: Whole


class Seconds(Manifest):
    """`seconds.json`: the time of each piece of work, None where it is not known."""

    seconds: dict[str, Finite | None]


FormName = Annotated[str, Field(pattern=r"^(fp32|bf16)( channels-last| contiguous)?( compiled)?$")]


class ChosenForms(Manifest):
    """`forms.json`: names of forms by kind of work, by network, by device."""

    forms: dict[Literal["cpu", "cuda"], dict[Text, dict[Kind, FormName]]]


class ChosenSettings(Manifest):
    """`budget.json`: what was asked for, and the settings; they are validated as settings later.

    `before` is the hash of the settings that were fitted.
    """

    request: dict[str, Any]
    before: str
    facts: dict[str, Any]
    settings: dict[str, Any]


class Data(Manifest):
    """`data.json` of a work directory."""

    name: Text
    classes: Classes
    image_size: Side
    test_crop: float | None = None


class Account(Manifest):
    """How the data set was read (`data` in `results.json`)."""

    pictures: dict[str, dict[str, Whole]] | None = None
    formats: dict[str, Whole] | None = None
    left_out: dict[str, dict[str, Any]] | None = None
    assumed: list[Text] | None = None
    value_range: list[Whole] | None = None
    held_out: Text = ""


class NamedData(Manifest):
    """The settings `data` by which a run's pictures are named."""

    name: Text | None = None
    title: Text | None = None
    root: Text | None = None


class NamedTeachers(Manifest):
    """The names of a run's teachers, of its settings `squeeze`."""

    backbones: list[Text] = Field(default_factory=list)


class RecordedConfig(Manifest):
    """The recorded settings of a run that are read one by one; all others are only shown."""

    data: NamedData = NamedData()
    squeeze: NamedTeachers = NamedTeachers()


AllSettings = Annotated[dict[str, Any], entries_as(RecordedConfig, "be settings of a run")]
"""All settings of a run, nested (`RecordedConfig`)."""


class Results(Manifest):
    """`results.json` of a work directory, as far as its table and its page show it."""

    rows: list[ResultRow]
    pictures: dict[str, Whole | None] = Field(default_factory=dict)
    skipped: list[Text] = Field(default_factory=list)
    notes: list[Text] = Field(default_factory=list)
    config: AllSettings | None = None
    versions: dict[str, Text] | None = None
    seconds: dict[str, Finite] | None = None
    data: Account | None = None
    origin: OriginEntry


class ContinualRow(Manifest):
    """A row of `continual.json`."""

    method: Text
    student: Text
    ipc: Positive
    ipc_of: dict[str, Positive] = Field(default_factory=dict)
    steps: Annotated[list[Score], Field(min_length=1)]
    average: Score


class Continual(Manifest):
    """`continual.json` of a work directory."""

    classes: Annotated[list[Positive], Field(min_length=1)]
    orders: Annotated[list[list[Whole]], Field(min_length=1)]
    rows: list[ContinualRow]
    note: Text
    class_names: ClassNames | None = None
    config: dict[str, Any] | None = None
    versions: dict[str, Text] | None = None
    origin: OriginEntry

    @model_validator(mode="after")
    def _agree(self) -> Self:
        for number, row in enumerate(self.rows):
            if len(row.steps) != len(self.classes):
                raise ValueError(f"rows.{number}.steps should be {len(self.classes)}, one a step")
        return self


class StudyPoint(Manifest):
    """A point of a study."""

    name: Text
    axes: dict[str, Any]
    folders: list[Text]
    config: dict[str, Any]
    done: bool


class StudyRow(Manifest):
    """A row of `STUDY.json`."""

    point: Text | None
    method: Text
    student: Text
    ipc: Positive | None
    ipc_of: dict[str, Positive] = Field(default_factory=dict)
    top1: Score
    image_bytes: Whole | None
    label_bytes: Whole | None
    seconds: Finite | None
    synthesis_seconds: Finite | None
    seconds_per_iteration: Finite | None


class PublishedAccuracy(Manifest):
    """An accuracy that the paper gives for a point of a study."""

    point: Text
    data: Text
    student: Text
    ipc: Positive
    top1: Percent


class StudyFile(Manifest):
    """`STUDY.json` of a sweep's folder."""

    study: Text
    title: Text
    source: Text
    axes: Annotated[list[Text], Field(min_length=1)]
    points: list[StudyPoint]
    rows: list[StudyRow]
    paper: list[PublishedAccuracy]
    additive: bool
    origin: OriginEntry
    versions: dict[str, Text]


class Finished(Manifest):
    """`finished.json`: the verbs that have nothing to do in a work directory."""

    inputs: Text
    verbs: list[Text]
    files: dict[str, Annotated[tuple[Whole, int, int], Strict(False)]]


def current_history(path: Path, recipe: Recipe) -> dict[str, Any] | None:
    """Return the tests of a student if the file at `path` has this recipe, else None.

    Raises:
        ArtifactError: As `read_json`, or if the file holds no tests.
    """
    content = read_json(path) if path.is_file() else {}
    if content.get("recipe") != recipe:
        return None
    checked(StudentHistory, content, path)
    return content
