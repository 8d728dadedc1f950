"""Replace a folder by a new one, and keep the files that its user put into it."""

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
    """Yield a new folder, which replaces `out` when the block ends without an error.

    All files that the block writes are listed in the new folder's manifest. Files of `out` that its
    manifest does not list, or that were changed since, are the user's: they are kept in the new
    folder.

    Args:
        out: A folder with a manifest, an empty folder, or a path that does not exist.

    Raises:
        OSError: If the disk is full or read-only, naming the folder.
        ArtifactError: If a file of the user has the name of a new one.
    """
    try:
        with locked_draft_folder(out) as drafts:
            draft = drafts / "new"
            manifest.claim(draft)
            yield draft
            _list_all(draft)
            if out.exists():
                _keep_user_files(out, draft)
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


def _keep_user_files(out: Path, draft: Path) -> None:
    """Link the user's files, links and empty folders into the draft (copy where links fail)."""
    exported = set(manifest.files_made(out))
    for folder, subfolders, files in os.walk(out):
        target = draft / Path(folder).relative_to(out)
        links = [name for name in subfolders if Path(folder, name).is_symlink()]
        for name in (*links, *files):
            path = Path(folder, name)
            if name not in (manifest.NAME, LOCK) and path not in exported:
                _keep(path, target / name)
        if not subfolders and not files:
            target.mkdir(parents=True, exist_ok=True)


def _keep(path: Path, target: Path) -> None:
    existing = next((above for above in (target, *target.parents) if above.exists()), target)
    if (existing == target and os.path.lexists(target)) or not existing.is_dir():
        raise ArtifactError(
            f"{path} was changed or put there since the export, and the new export has a file of "
            "that name; move it away"
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(path, target, follow_symlinks=False)
    except OSError:  # a file system without hard links
        shutil.copy2(path, target, follow_symlinks=False)


def _swap(out: Path, draft: Path, old: Path) -> None:
    """Replace `out` by `draft`; after a kill between the steps, `locked_draft_folder` restores."""
    if out.exists():
        out.rename(old)
    try:
        draft.rename(out)
    except OSError:
        if old.exists():
            old.rename(out)
        raise
