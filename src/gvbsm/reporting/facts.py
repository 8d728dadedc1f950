"""Facts on a run, read from the results, headers and file sizes of its work directory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from gvbsm.config import ConfigError
from gvbsm.config.build import build_config, to_dict
from gvbsm.config.keys import flat_keys, value_at
from gvbsm.config.preset_files import preset_names, read_preset
from gvbsm.config.provenance import UNKNOWN, Origin
from gvbsm.data.epochs import settle
from gvbsm.files.artifacts import ArtifactError, is_partial, read_json
from gvbsm.files.manifest import named
from gvbsm.files.schema import Account, Data, Results, checked, checked_header
from gvbsm.files.schema.runs import ResultRow
from gvbsm.pipeline.workload import TIMED
from gvbsm.store.distilled import stored_bytes
from gvbsm.store.label_store import FOLDER, OTHER_FOLDERS
from gvbsm.store.workdir import Workspace
from gvbsm.studies.literature import PublishedAccuracy, published_beside
from gvbsm.studies.robust_scores import RobustScore, robust_scores

PAPER = {"imagenet-1k": 7, "tiny-imagenet": 8, "cifar10": 9, "cifar100": 9}
"""Presets that are the paper's settings, with the number of its table."""


@dataclass(frozen=True)
class Teacher:
    """A teacher with its test accuracy in percent, after the last epoch and at the best test."""

    backbone: str
    top1: float
    best: float
    epochs: int


@dataclass(frozen=True)
class Stored:
    """Bytes on disk of a stage's files, for the run's own method and for the baselines."""

    own: int
    baselines: int


@dataclass(frozen=True)
class Recognition:
    """Percent of the distilled images that a teacher classifies as their labels say."""

    teacher: str
    accuracy: float
    images: int


@dataclass(frozen=True)
class RunFacts:
    """The facts in the text and tables of a report.

    Attributes:
        class_names: Names of its classes.
        shape: Channels and side of a picture in pixels; no channels where there are no images.
        train: Number of real training pictures; None if the results do not say.
        test: Number of real test pictures, likewise.
        held_out: How the test pictures were held out of the data; empty if the data set has a test
            split.
        skipped: Names of real pictures that cannot be read and were left out.
        notes: Other omissions and assumptions in reading the data, one line each.
        config: The resolved settings, nested.
        origin: The preset that the results name, and the settings that the command line changed.
        preset: The settings of that preset, or else of the data set's, nested; None if there is
            none.
        full: The settings of the data set's own preset, nested; None if there is none.
        rows: The results.
        teachers: The teachers in the work directory.
        traces: For each batch of images, the terms of the loss at the logged steps.
        stored: Bytes of each stage.
        set_bytes: Bytes of the set's pixels (`images`) and of the files of its soft `labels`.
        seconds: Time of each piece of work, named `STAGE/...`.
        versions: Versions and device of the run.
        writers: Versions of gvbsm that wrote the files.
        test_of_class: Number of test pictures of each class; empty if the results do not say.
        train_of_class: Number of training pictures by the name of the class, likewise.
        published: Published accuracies with the data, students and images per class of the run.
        scores: The scores of DD-Ranking for which the rows suffice.
        recognition: How a teacher classifies the run's own images; None if it is not known.
    """

    class_names: tuple[str, ...]
    shape: tuple[int | None, int]
    train: int | None
    test: int | None
    held_out: str
    skipped: tuple[str, ...]
    notes: tuple[str, ...]
    config: Mapping[str, Any]
    origin: Origin
    preset: Mapping[str, Any] | None
    full: Mapping[str, Any] | None
    rows: tuple[ResultRow, ...]
    teachers: tuple[Teacher, ...]
    traces: tuple[tuple[Mapping[str, Any], ...], ...]
    stored: Mapping[str, Stored]
    set_bytes: Mapping[str, int]
    seconds: Mapping[str, float]
    versions: Mapping[str, str]
    writers: tuple[str, ...]
    test_of_class: tuple[int, ...] = ()
    train_of_class: Mapping[str, int] = field(default_factory=dict)
    published: tuple[PublishedAccuracy, ...] = ()
    scores: tuple[RobustScore, ...] = ()
    recognition: Recognition | None = None

    @property
    def method(self) -> str:
        """The run's own method."""
        return str(self.config["method"])

    @property
    def counts(self) -> tuple[int, ...]:
        """Images of each class of the distilled set."""
        ipc, ipc_of = self.config["ipc"], self.config["ipc_of"]
        return tuple(ipc_of.get(name, ipc) for name in self.class_names)

    @property
    def images(self) -> int:
        """Images of the distilled set."""
        return sum(self.counts)

    def row(self, method: str, student: str) -> ResultRow | None:
        """The row of a method and a student, if it has been evaluated."""
        rows = (row for row in self.rows if (row.method, row.student) == (method, student))
        return next(rows, None)

    def own_rows(self) -> list[ResultRow]:
        """The rows of the run's own method."""
        return [row for row in self.rows if row.method == self.method]


def read_run_facts(workdir: Path) -> RunFacts:
    """Read the facts of a work directory for its report.

    Raises:
        ArtifactError: If it is no work directory, holds no results yet, or a file is unusable.
    """
    data, results = workdir / "data.json", workdir / "results.json"
    if not data.is_file():
        raise ArtifactError(f"{workdir} is not a work directory of gvbsm (no data.json in it)")
    if not results.is_file() or not (content := read_json(results)).get("rows"):
        raise ArtifactError(
            f"{workdir} holds no results yet; run `gvbsm run PRESET --workdir {workdir}` first"
        )
    try:
        return _facts(workdir, checked(Data, read_json(data), data), content)
    except (KeyError, TypeError, IndexError) as error:
        raise ArtifactError(
            f"{results} does not fit this version of gvbsm ({error!r}); move it away and repeat "
            "the run, which computes only the results again"
        ) from None


def _facts(workdir: Path, data: Data, results: dict[str, Any]) -> RunFacts:
    content = checked(Results, results, workdir / "results.json")
    account = content.data or Account()
    pictures_of_class = account.pictures or {}  # by split
    config, origin = results["config"], Origin.read(results)
    headers, workspace = _headers(workdir), Workspace(workdir)
    images = headers.get(workspace.images, {})
    numbers = map(str, range(data.classes))
    names = images.get("class_names") or [*(pictures_of_class.get("train") or numbers)]
    return RunFacts(
        class_names=tuple(names),
        shape=(len(images["mean"]) if images else None, data.image_size),
        train=content.pictures.get("train"),
        test=content.pictures.get("test"),
        held_out=account.held_out,
        skipped=tuple(content.skipped),
        notes=tuple(content.notes),
        config=config,
        origin=origin,
        preset=preset_settings(config, names, origin),
        full=preset_settings(config, names),
        rows=tuple(content.rows),
        teachers=_teachers(headers, config["squeeze"]["backbones"]),
        traces=tuple(tuple(trace) for trace in images.get("traces", [])),
        stored={stage: _stored(workdir, stage) for stage in TIMED},
        set_bytes=stored_bytes(workdir),
        seconds=workspace.seconds(),
        versions=results["versions"],
        writers=tuple(
            sorted({results["versions"]["gvbsm"], *(h["version"] for h in headers.values())})
        ),
        test_of_class=tuple(_in_order(pictures_of_class.get("test"), names).values()),
        train_of_class=_in_order(pictures_of_class.get("train"), names),
        published=tuple(published_beside(results, data, images)),
        scores=tuple(robust_scores(results["rows"])),
    )


def _in_order(counts: Mapping[str, int] | None, class_names: Sequence[str]) -> dict[str, int]:
    """Pictures of a split by class, in the order of the classes; empty if they are not known."""
    return {name: counts.get(name, 0) for name in class_names} if counts else {}


def _headers(workdir: Path) -> dict[Path, dict[str, Any]]:
    """Headers of all teachers, statistics and sets of images."""
    paths = [
        *named(workdir, "squeeze/*.safetensors"),
        *named(workdir, "statistics/*.safetensors"),
        *named(workdir, "**/synthesis/images.safetensors"),
    ]
    return {path: checked_header(path) for path in sorted(paths) if not is_partial(path)}


def _teachers(
    headers: Mapping[Path, Mapping[str, Any]], backbones: list[str]
) -> tuple[Teacher, ...]:
    """The run's teachers, in the order of the settings."""
    teachers = {}
    for header in headers.values():
        if header["kind"] == "teacher":
            top1 = header["history"]["top1"]
            epochs = header["history"]["epochs"]
            teachers[header["backbone"]] = Teacher(
                header["backbone"], top1[-1], max(top1), epochs[-1] if epochs else 0
            )
    return tuple(teachers[name] for name in backbones if name in teachers)


def _stored(workdir: Path, stage: str) -> Stored:
    baselines = workdir / "baselines"
    if stage == "full":
        return Stored(0, _size(baselines / "full"))
    if stage == "corruptions":
        return Stored(_size(workdir / stage), _size(workdir / stage / "teachers"))
    names = (FOLDER, *OTHER_FOLDERS.values()) if stage == "labels" else (stage,)
    own = sum(_size(workdir / name) for name in names)
    return Stored(own, sum(_size(baselines, f"*/{name}/*") for name in names))


def _size(folder: Path, pattern: str = "*") -> int:
    return sum(path.stat().st_size for path in named(folder, pattern))


def preset_settings(
    config: Mapping[str, Any], class_names: Sequence[str], origin: Origin = UNKNOWN
) -> dict[str, Any] | None:
    """The settings of a run's preset (`preset_name`).

    Returns:
        Nested settings, with epochs and beta_dr resolved for a set of the run's size; None if there
        is no preset.
    """
    if (name := preset_name(config, origin)) is None:
        return None
    try:
        ipc = build_config(read_preset(name)).ipc
        preset = build_config({**read_preset(name, config["ipc"]), "ipc": config["ipc"]})
        settled = settle(replace(preset, ipc_of=config["ipc_of"]), class_names)
    except ConfigError:
        return None
    return to_dict(replace(settled, ipc=ipc, ipc_of=preset.ipc_of))


def preset_name(config: Mapping[str, Any], origin: Origin = UNKNOWN) -> str | None:
    """Name of the preset to compare a run with.

    It is the preset that the results name, if the package has it. Else it is that of the data set,
    with that of the method, such as `cifar10` or `cifar10+sre2l`; None if there is none.
    """
    if origin.is_packaged:
        return origin.preset
    presets, data, method = preset_names(), config["data"]["name"], config["method"]
    if data not in presets:
        return None
    return f"{data}+{method}" if method in presets else data


def differences(config: Mapping[str, Any], preset: Mapping[str, Any]) -> dict[str, Any]:
    """Dotted name -> the run's value of every setting that differs from the preset's."""
    return {
        key: value_at(config, key)
        for key in flat_keys(dict(config))
        if value_at(config, key) != value_at(preset, key)
    }
