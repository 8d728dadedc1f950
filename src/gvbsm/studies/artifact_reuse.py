"""What several work directories share: an artefact is made once and linked into the others.

Artefacts are known by their recipes alone, so a teacher, a label store or a student's result that
one directory holds serves every other whose recipe asks for the same. It is linked (copied where
the file system has no hard links). That is safe, since no file of an artefact is ever changed in
place: a new one takes its name in one step, and the other directories keep the old one.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from gvbsm.files.artifacts import (
    ArtifactError,
    Recipe,
    atomic,
    fingerprint,
    is_ours,
    read_header,
    read_json,
    remove,
    remove_all,
)
from gvbsm.files.checkpoint import is_partial
from gvbsm.store.soft_labels import FOLDER, OTHER_FOLDERS
from gvbsm.store.workdir import Workspace

# Where artefacts lie in a work directory; a label store is its index, which names its shards.
PATTERNS = (
    "squeeze/*.safetensors",
    "statistics/*.safetensors",
    "forgetting/*.safetensors",
    "**/synthesis/images.safetensors",
    *(f"**/{folder}/index.json" for folder in (FOLDER, *OTHER_FOLDERS.values())),
    "**/evaluation/*.json",
)
WHOLE_FOLDERS = (
    "synthesis",
    FOLDER,
    *OTHER_FOLDERS.values(),
)  # what lies beside the artefact belongs to it


class Artifact(NamedTuple):
    """Something that a run needs.

    Attributes:
        path: The file that is there once it is whole.
        recipe: What it is made from.
        clock: Name under which its work directory notes how long it took.
    """

    path: Path
    recipe: Recipe
    clock: str

    def is_there(self) -> bool:
        """Whether it has been made, by this recipe."""
        return _recipe_of(self.path) == self.recipe


class Library:
    """The artefacts of all work directories in a folder.

    Args:
        folder: Holds the work directories; it need not be there yet.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._found: dict[str, Path] = {}
        for pattern in PATTERNS:
            for path in sorted(folder.glob(f"*/{pattern}")):
                if not is_partial(path) and (recipe := _recipe_of(path)):
                    self._found.setdefault(fingerprint(recipe), path)

    def add(self, artifacts: Iterable[Artifact]) -> None:
        """Offer what a work directory of the folder holds by now."""
        for artifact in artifacts:
            key = fingerprint(artifact.recipe)
            if key not in self._found and artifact.is_there():
                self._found[key] = artifact.path

    def lend(self, workspace: Workspace, artifacts: Iterable[Artifact]) -> int:
        """Link what is there elsewhere and missing here, with the time that it took.

        Args:
            workspace: The directory that needs them.
            artifacts: What it needs.

        Returns:
            How many were linked.
        """
        lent = 0
        for artifact in artifacts:
            source = self._found.get(fingerprint(artifact.recipe))
            if source is None or source == artifact.path or artifact.is_there():
                continue
            if _recipe_of(source) != artifact.recipe or not is_ours(source):
                continue  # removed or damaged since: it is made again here
            _link(source, artifact.path)
            owner = self._folder / source.relative_to(self._folder).parts[0]
            seconds = Workspace(owner).seconds().get(artifact.clock)
            if seconds is not None:
                workspace.note(artifact.clock, seconds)
            lent += 1
        return lent


def _recipe_of(path: Path) -> Recipe | None:
    """The recipe in a file; None if it or one that it names is missing, or if it is damaged."""
    if not path.is_file():
        return None
    with suppress(ArtifactError):
        content = read_json(path) if path.suffix == ".json" else read_header(path)
        if all(path.with_name(name).is_file() for name in content.get("files", ())):
            return content.get("recipe")
    return None


def _link(source: Path, path: Path) -> None:
    """Link an artefact and what belongs to it; the file by which it is known comes last."""
    if path.parent.name in WHOLE_FOLDERS:
        remove(path)
        beside = {
            other.name: other
            for other in source.parent.iterdir()
            if other.is_file() and other != source and not _is_unfinished(other)
        }
        if path.parent.is_dir():
            remove_all(old for old in path.parent.iterdir() if old.name not in beside)
        for name, other in beside.items():
            _link_file(other, path.with_name(name))
    _link_file(source, path)


def _is_unfinished(path: Path) -> bool:
    return path.name.startswith((".", "group-")) or is_partial(path)


def _link_file(source: Path, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists() and path.samefile(source):
        return  # to rename one link of a file to another does nothing
    with atomic(path) as temporary:
        try:
            os.link(source, temporary)
        except OSError:
            shutil.copyfile(source, temporary)
