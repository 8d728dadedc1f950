"""A folder that takes the place of another in one step; what its user put into it is kept."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gvbsm.files import manifest
from gvbsm.files.artifacts import ArtifactError
from gvbsm.files.drafts import LOCK, OLD, locked_draft_folder


@contextmanager
def replacing(out: Path) -> Iterator[Path]:
    """A new folder that takes the place of `out` when the block ends well, else it goes.

    All that is written into it is listed in its manifest. Files of `out` that are not listed there,
    or were changed since, are the user's: the new folder has them, too.

    Args:
        out: A folder with a manifest, or an empty one, or nothing.

    Raises:
        OSError: If the disk is full or may not be written, naming the folder.
        ArtifactError: If a file of the user's has the name of a new one.
    """
    try:
        with locked_draft_folder(out) as drafts:
            draft = drafts / "new"
            manifest.claim(draft)
            yield draft
            _list_all(draft)
            if out.exists():
                _keep_the_users(out, draft)
            _swap(out, draft, drafts / OLD)
    except OSError as error:
        raise OSError(
            f"cannot write {out} ({error.strerror or error}); what was there is kept: make room or "
            "give another place"
        ) from error


def _list_all(draft: Path) -> None:
    files = sorted(path for path in draft.rglob("*") if path.is_file())
    contents = {path: manifest.content_of(path) for path in files if path.name != manifest.NAME}
    manifest.record(draft, contents)


def _keep_the_users(out: Path, draft: Path) -> None:
    """Link the user's files, links and empty folders into the draft (copy where links fail)."""
    exported = set(manifest.files_made(out))
    for place, folders, files in os.walk(out):
        here = draft / Path(place).relative_to(out)
        links = [name for name in folders if Path(place, name).is_symlink()]
        for name in (*links, *files):
            path = Path(place, name)
            if name not in (manifest.NAME, LOCK) and path not in exported:
                _keep(path, here / name)
        if not folders and not files:
            here.mkdir(parents=True, exist_ok=True)


def _keep(path: Path, place: Path) -> None:
    taken = next((above for above in (place, *place.parents) if above.exists()), place)
    if (taken == place and os.path.lexists(place)) or not taken.is_dir():
        raise ArtifactError(
            f"{path} was changed or put there since the export, and the new export has a file of "
            "that name; move it away"
        )
    place.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(path, place, follow_symlinks=False)
    except OSError:  # a file system without links
        shutil.copy2(path, place, follow_symlinks=False)


def _swap(out: Path, draft: Path, old: Path) -> None:
    """Put `draft` in the place of `out`; `locked_draft_folder` mends what a kill leaves between."""
    if out.exists():
        out.rename(old)
    try:
        draft.rename(out)
    except OSError:
        if old.exists():
            old.rename(out)
        raise
