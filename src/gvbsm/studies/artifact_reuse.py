"""Reuse artifacts between the runs of a sweep by hard links.

A teacher, a label store or a student's result of one work directory is linked into every other
directory that needs one with the same recipe (copied where the file system has no hard links).
Links are safe because files of artifacts are never changed in place: a new version replaces the
name atomically, and the other directories keep the old file.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from gvbsm.files.artifacts import (
    ArtifactError,
    Recipe,
    atomic,
    fingerprint,
    is_ours,
    is_partial,
    read_header,
    read_json,
    remove,
    remove_all,
)
from gvbsm.pipeline.artifacts import Artifact
from gvbsm.store.label_store import FOLDER, OTHER_FOLDERS
from gvbsm.store.workdir import Workspace

# Paths of artifacts in a work directory; a label store's is its index, which names its shards.
PATTERNS = (
    "squeeze/*.safetensors",
    "statistics/*.safetensors",
    "difficulty.safetensors",
    "forgetting/*.safetensors",
    "corruptions/*.safetensors",
    "corruptions/teachers/*.json",
    "**/synthesis/images.safetensors",
    *(f"**/{folder}/index.json" for folder in (FOLDER, *OTHER_FOLDERS.values())),
    "**/evaluation/*.json",
    "baselines/full/*.json",
)
# In these folders all files beside an artifact belong to it.
WHOLE_FOLDERS = ("synthesis", FOLDER, *OTHER_FOLDERS.values())


def exists(artifact: Artifact[Any]) -> bool:
    """Whether an artifact is complete and has its recipe."""
    return _recipe_of(artifact.path) == artifact.recipe


class Library:
    """The artifacts of all work directories in a folder.

    Args:
        folder: Parent of the work directories; it need not exist yet.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._paths: dict[str, Path] = {}
        for pattern in PATTERNS:
            for path in sorted(folder.glob(f"*/{pattern}")):
                if not is_partial(path) and (recipe := _recipe_of(path)):
                    self._paths.setdefault(fingerprint(recipe), path)

    def add(self, artifacts: Iterable[Artifact[Any]]) -> None:
        """Add the complete artifacts of a work directory."""
        for artifact in artifacts:
            key = fingerprint(artifact.recipe)
            if key not in self._paths and exists(artifact):
                self._paths[key] = artifact.path

    def link(self, workspace: Workspace, artifacts: Iterable[Artifact[Any]]) -> int:
        """Link missing artifacts from other work directories, and copy their times.

        Returns:
            Number of linked artifacts.
        """
        linked = 0
        for artifact in artifacts:
            source = self._paths.get(fingerprint(artifact.recipe))
            if source is None or source == artifact.path or exists(artifact):
                continue
            if _recipe_of(source) != artifact.recipe or not is_ours(source):
                continue  # removed or damaged since it was added: computed again here
            _link(source, artifact.path)
            owner = self._folder / source.relative_to(self._folder).parts[0]
            seconds = Workspace(owner).seconds().get(artifact.clock)
            if seconds is not None:
                workspace.note(artifact.clock, seconds)
            linked += 1
        return linked


def _recipe_of(path: Path) -> Recipe | None:
    """The recipe in a file; None if it is missing or damaged, or lacks a file that it names."""
    if not path.is_file():
        return None
    with suppress(ArtifactError):
        content = read_json(path) if path.suffix == ".json" else read_header(path)
        if all(path.with_name(name).is_file() for name in content.get("files", ())):
            return content.get("recipe")
    return None


def _link(source: Path, path: Path) -> None:
    """Link an artifact and the files that belong to it, its own path last."""
    if path.parent.name in WHOLE_FOLDERS:
        remove(path)
        sources = {
            other.name: other
            for other in source.parent.iterdir()
            if other.is_file() and other != source and not _is_unfinished(other)
        }
        if path.parent.is_dir():
            remove_all(old for old in path.parent.iterdir() if old.name not in sources)
        for name, other in sources.items():
            _link_file(other, path.with_name(name))
    _link_file(source, path)


def _is_unfinished(path: Path) -> bool:
    return path.name.startswith((".", "group-")) or is_partial(path)


def _link_file(source: Path, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists() and path.samefile(source):
        return  # the same file: renaming would have no effect
    with atomic(path) as temporary:
        try:
            os.link(source, temporary)
        except OSError:
            shutil.copyfile(source, temporary)
