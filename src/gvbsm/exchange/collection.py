"""Collect finished runs in one folder of sets and teachers that is ready to publish.

README.md        the index: sizes and accuracies of all sets, and the header that the Hub reads
SHA256SUMS       checksums of all other files
SET/             a set as `gvbsm export --to hub` writes it, and settings.yaml
teachers/SET/    its teachers and their card; a teacher of several sets is with the first
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from gvbsm.config import ConfigError
from gvbsm.config.paths import user_path
from gvbsm.config.provenance import Origin
from gvbsm.config.yaml_files import format_yaml
from gvbsm.data.sources.hub_library import need
from gvbsm.engine.device import Runtime
from gvbsm.engine.torch_defaults import torch_defaults
from gvbsm.exchange import hub
from gvbsm.exchange.card import quoted
from gvbsm.exchange.collection_card import CollectedSet, CollectedTeacher, index_card, teacher_card
from gvbsm.exchange.export import check_free, check_whole, describe_set, write_set
from gvbsm.exchange.load import LABELS, TABLE, SetDescription, load
from gvbsm.exchange.public_files import copy_public, label_files
from gvbsm.files.artifacts import ArtifactError, read_header, read_json
from gvbsm.files.network_names import file_name, without_folders
from gvbsm.files.replacing import replacing
from gvbsm.files.schema import Results, TeacherHeader, checked, checked_json
from gvbsm.files.state import sha256_of
from gvbsm.files.tensors import load_tensors
from gvbsm.store.distilled import DistilledDataset
from gvbsm.store.workdir import Workspace

log = logging.getLogger("gvbsm")

INDEX, SUMS, TEACHERS, SETTINGS = "README.md", "SHA256SUMS", "teachers", "settings.yaml"
NAME = re.compile(r"[A-Za-z0-9][\w.+-]*", re.ASCII)  # of a set: a folder, and a name on the Hub


@dataclass(frozen=True)
class _Run:
    """A finished run: its work directory, its results and its set."""

    workdir: Path
    results: Mapping[str, Any]
    distilled: DistilledDataset


@torch_defaults()
def collect(
    workdirs: Sequence[str | Path],
    out: str | Path,
    *,
    overwrite: bool = False,
    quiet: bool = False,
) -> Path:
    """Collect the sets and teachers of finished runs in a folder to publish (`gvbsm collect`).

    `gvbsm.load(out / NAME)` reads each set, where NAME is the name of its work directory. Before
    the folder gets its name, all sets are read again and compared with those of the runs. A
    collection that fails leaves no files.

    Args:
        workdirs: Work directories of `gvbsm run`, with results.
        out: The folder.
        overwrite: Replace a collection that is there already.
        quiet: No progress bars.

    Returns:
        `out`.

    Raises:
        ConfigError, ArtifactError, DataError: With one clear line, before anything is written if a
            run is not finished.
    """
    out = user_path(out)
    paths = _named(workdirs)
    check_free(out, "hub", overwrite)
    need("datasets")
    runs = {name: _read_run(path) for name, path in paths.items()}
    bar = Runtime(torch.device("cpu"), "fp32", 0, quiet=quiet)
    with replacing(out) as draft:
        teachers: dict[str, CollectedTeacher] = {}  # by the checksum of their files
        sets = [_write(draft, name, run, teachers, bar) for name, run in runs.items()]
        (draft / INDEX).write_text(index_card(sets), encoding="utf-8")
        write_sums(draft)
    return out


def push(folder: Path, name: str) -> str:
    """Upload a collection to the Hugging Face Hub as the data set USER/NAME; return its address.

    Raises:
        ArtifactError: If a file is missing, or is not the one that was collected.
        DataError: If the Hub refuses it.
    """
    check_sums(folder)
    return hub.upload(folder, name)


def _named(workdirs: Sequence[str | Path]) -> dict[str, Path]:
    """The work directories by name, which their sets have in the collection.

    Raises:
        ConfigError: If there is none, or two have the same name, or a name is no name of a set.
    """
    if not workdirs:
        raise ConfigError("name at least one work directory to collect")
    paths: dict[str, Path] = {}
    for path in map(user_path, workdirs):
        name = path.resolve().name
        if not NAME.fullmatch(name) or name == TEACHERS:
            raise ConfigError(
                f"{path} cannot give a set its name; rename it to letters, digits, `-`, `_`, `.`"
            )
        if name in paths:
            raise ConfigError(f"{paths[name]} and {path} would be one set {name!r}; rename one")
        paths[name] = path
    return paths


def _read_run(workdir: Path) -> _Run:
    """Read a finished run.

    Raises:
        ArtifactError: If it has no results of its own method, or lacks images or labels.
    """
    workspace = Workspace(workdir)
    path = workspace.results
    for file in (path, workspace.images):
        if not file.is_file():
            raise ArtifactError(f"{workdir} is no finished run: there is no {file}")
    results = checked_json(Results, path)
    distilled = load(workdir)
    check_whole(distilled.soft_labels)
    method = distilled.header["method"]
    if not results.get("config") or not any(row["method"] == method for row in results["rows"]):
        raise ArtifactError(f"{path} has no accuracy of {method}; finish the run first")
    return _Run(workdir, results, distilled)


def _write(
    draft: Path, name: str, run: _Run, copied: dict[str, CollectedTeacher], bar: Runtime
) -> CollectedSet:
    """Write the folder of a set, then its teachers; compare what is read again."""
    folder = draft / name
    folder.mkdir()
    facts = describe_set(run.distilled, run.workdir, "hub")
    write_set(folder, "hub", run.distilled, facts, bar, run.workdir)
    (folder / SETTINGS).write_text(format_yaml(facts["config"]), encoding="utf-8")
    _check_same(folder, run.distilled)
    stored, shown = run.distilled.soft_labels, quoted(facts)
    labels = 0 if stored is None else sum(path.stat().st_size for path in label_files(stored))
    return CollectedSet(
        name,
        shown,
        (folder / TABLE).stat().st_size,
        labels,
        _teachers(draft / TEACHERS / name, run.workdir, shown, copied),
        Origin.read(run.results),
        without_folders(run.results["config"]),
    )


def _check_same(folder: Path, distilled: DistilledDataset) -> None:
    """Compare a set that was written with its source.

    Raises:
        ArtifactError: If an image, a label or a file of soft labels differs.
    """
    again = load(folder)
    same = torch.equal(again.images, distilled.images)
    same = same and torch.equal(again.labels, distilled.labels)
    if distilled.soft_labels is not None:
        for path in label_files(distilled.soft_labels):
            same = same and _content(folder / LABELS / path.name) == _content(path)
    if not same:
        raise ArtifactError(f"{folder} does not hold what was written; check the disk")


def _content(path: Path) -> Any:
    """What a file of soft labels holds: the index, or the verified checksum of a shard."""
    if path.suffix == ".safetensors":
        return load_tensors(path, "labels")[1]["digest"]
    return without_folders(read_json(path))


def _teachers(
    folder: Path, workdir: Path, facts: SetDescription, copied: dict[str, CollectedTeacher]
) -> list[CollectedTeacher]:
    """Copy the teachers of a run that are not in the collection; return all of its teachers.

    Args:
        folder: Where they go, `teachers/SET` of the collection.
        workdir: The work directory.
        facts: The description of its set, as Markdown shows it.
        copied: The teachers of the collection by checksum; new ones are added.
    """
    teachers, new = [], []
    for path in Workspace(workdir).teachers():
        digest = sha256_of(path)
        if digest not in copied:
            folder.mkdir(parents=True, exist_ok=True)
            target, header = _copy_teacher(path, folder)
            place = f"{TEACHERS}/{folder.name}/{target.name}"
            copied[digest] = CollectedTeacher(place, header, target.stat().st_size)
            new.append(copied[digest])
        teachers.append(copied[digest])
    if new:
        (folder / INDEX).write_text(teacher_card(new, facts), encoding="utf-8")
    return teachers


def _copy_teacher(path: Path, folder: Path) -> tuple[Path, dict[str, Any]]:
    """Copy a teacher; return the copy and its header.

    A header that names a folder of the user's code is written without it, and the file is named so
    that `squeeze.weights_dir` finds it by the new name, unless another teacher has that name.
    """
    backbone = checked(TeacherHeader, read_header(path), path).backbone
    target = folder / path.name
    if (name := without_folders(backbone)) != backbone:
        named = folder / file_name(name)
        target = target if named.exists() else named
    header = copy_public(path, target, "teacher")
    if load_tensors(target, "teacher")[1]["digest"] != header["digest"]:
        raise ArtifactError(f"{target} does not hold what was written; check the disk")
    return target, header


def write_sums(folder: Path) -> None:
    """Write `SHA256SUMS` of all other files of a folder, as `sha256sum --check` reads it."""
    lines = [f"{sha256_of(folder / name)}  {name}\n" for name in _files(folder)]
    (folder / SUMS).write_text("".join(lines), encoding="utf-8")


def check_sums(folder: Path) -> None:
    """Compare all files of a collection with its `SHA256SUMS`.

    Raises:
        ArtifactError: If it has none, or naming the first file that differs, is missing or new.
    """
    if not (folder / SUMS).is_file():
        raise ArtifactError(f"{folder} is no collection: it has no {SUMS}")
    lines = (folder / SUMS).read_text(encoding="utf-8").splitlines()
    sums = {name: digest for digest, _, name in (line.partition("  ") for line in lines)}
    present = _files(folder)
    if others := sorted(set(sums).symmetric_difference(present)):
        advice = "is missing: collect the sets again"
        if others[0] not in sums:
            advice = f"is not in {SUMS}: move it away"
        raise ArtifactError(f"{folder / others[0]} {advice}")
    for name in present:
        if sha256_of(folder / name) != sums[name]:
            raise ArtifactError(f"{folder / name} was changed: collect the sets again")


def _files(folder: Path) -> list[str]:
    """Names of the files below a folder but for the checksums and hidden files, sorted."""
    names = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    hidden = (name for name in names if not any(part.startswith(".") for part in name.parts))
    return sorted(name.as_posix() for name in hidden if name.as_posix() != SUMS)
