"""`gvbsm show`: describe a work directory as text, from headers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gvbsm.config.paths import data_title
from gvbsm.config.provenance import Origin
from gvbsm.files.artifacts import PARTIAL, ArtifactError, is_partial, read_json
from gvbsm.files.manifest import named
from gvbsm.files.schema import Continual, Data, Results, checked, checked_header, checked_json
from gvbsm.files.sizes import byte_count
from gvbsm.pipeline.tables import aligned, format_continual, format_table, images_per_class
from gvbsm.reporting.result_tables import FORMATS, RunResults
from gvbsm.store.label_store import LabelStore, label_folders
from gvbsm.store.workdir import Workspace
from gvbsm.studies.literature import CAUTION, HEAD, published_beside
from gvbsm.studies.robust_scores import SCORES_HEAD, robust_scores


def describe(workdir: Path) -> str:
    """Describe each stage in a few lines: artifacts, their sizes, and unfinished work.

    Raises:
        ArtifactError: If the directory is not a work directory, or a file of it is unusable.
    """
    if not (workdir / "data.json").is_file():
        raise ArtifactError(f"{workdir} is not a work directory of gvbsm (no data.json in it)")
    data = checked(Data, read_json(workdir / "data.json"), workdir / "data.json")
    results: dict[str, Any] = {}
    if (workdir / "results.json").is_file():
        results = checked_json(Results, workdir / "results.json")
    title = data_title(results["config"]) if results.get("config") else data.name
    lines = [
        f"{workdir}: {title}, {data.classes} classes, {data.image_size} px",
        *_teachers(workdir),
        *_sets(workdir),
    ]
    for path in named(workdir, f"**/*{PARTIAL}"):
        state: dict[str, Any] = checked_header(path)["state"]
        lines.append(f"half-done: {path.relative_to(workdir)}, step {state['step']}")
    if results:
        lines += ["", format_table(results["rows"])]
        lines += _scores(results)
        lines += _published(workdir, results, data)
        lines += _preset(results)
    if (workdir / "continual.json").is_file():
        content = checked_json(Continual, workdir / "continual.json")
        lines += ["", format_continual(content), *_preset(content)]
    return "".join(char if char.isprintable() or char == "\n" else " " for char in "\n".join(lines))


def result_table(workdir: Path, form: str) -> str:
    """Return the results of a work directory as a table.

    Raises:
        ArtifactError: If it holds no results, or they are damaged.
    """
    path = workdir / "results.json"
    if not path.is_file():
        raise ArtifactError(f"{workdir} holds no results.json; `gvbsm run` writes it")
    return FORMATS[form](RunResults(checked_json(Results, path)))


def _scores(results: dict[str, Any]) -> list[str]:
    """The label-robust and augmentation-robust scores, where the rows suffice."""
    cells = [score.cells() for score in robust_scores(results["rows"])]
    return ["", aligned(SCORES_HEAD, cells)] if cells else []


def _published(workdir: Path, results: dict[str, Any], data: Data) -> list[str]:
    """The published accuracies that belong beside the results."""
    path = Workspace(workdir).images
    images = checked_header(path) if path.is_file() else {}
    cells = [figure.cells() for figure in published_beside(results, data, images)]
    return ["", aligned(HEAD, cells), "", CAUTION] if cells else []


def _preset(content: dict[str, Any]) -> list[str]:
    """A line on the preset of the settings, if the results name it."""
    line = str(Origin.read(content))
    return [f"\npreset: {line}"] if line else []


def _finished(folder: Path) -> list[Path]:
    return [path for path in named(folder, "*.safetensors") if not is_partial(path)]


def _teachers(workdir: Path) -> list[str]:
    lines = []
    for path in _finished(workdir / "squeeze"):
        header = checked_header(path)
        top1 = header["history"]["top1"][-1]
        lines.append(f"squeeze: {header['backbone']}, {top1:.1f} % on the test pictures")
    backbones = [checked_header(path)["backbone"] for path in _finished(workdir / "statistics")]
    if backbones:
        lines.append(f"statistics: {', '.join(backbones)}")
    for path in _finished(workdir / "forgetting"):
        header = checked_header(path)
        epochs, top1 = len(header["history"]["epochs"]), header["history"]["top1"][-1]
        name = f"{header['backbone']}, {epochs} epochs"
        lines.append(f"forgetting: {name}, {top1:.1f} % of the training pictures")
    return lines


def _sets(workdir: Path) -> list[str]:
    lines = []
    for path in named(workdir, "**/synthesis/images.safetensors"):
        folder = path.parent.parent
        header = checked_header(path)
        name = str(folder.relative_to(workdir)) if folder != workdir else "synthesis"
        images = images_per_class(header["recipe"])
        lines.append(f"{name}: {header['method']}, {images}, {byte_count(path.stat().st_size)}")
        for store in label_folders(folder):
            labels = LabelStore.of_folder(store)
            lines.append(f"  {store.name}: {labels.describe()}, {byte_count(labels.nbytes())}")
        students = [item.stem for item in named(folder, "evaluation/*.json")]
        if students:
            lines.append(f"  evaluation: {', '.join(students)}")
    return lines
