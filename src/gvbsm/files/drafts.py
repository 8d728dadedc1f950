"""Draft folders: temporary folders for a file or an export that is being written.

A draft folder, `.gvbsm-RANDOM.tmp`, lies beside its target and holds the target's name in
`draft-of`. Folders that killed processes left behind are removed.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import Timeout

from gvbsm.files.locks import held

BEGIN, END = ".gvbsm-", ".tmp"  # of the names of draft folders
DRAFT_OF = "draft-of"
OLD = "old"  # in a draft folder: the previous target, while a new folder replaces it
LOCK = ".lock"  # in a folder that one process at a time may write


@contextmanager
def draft_folder(path: Path) -> Iterator[Path]:
    """Make a draft folder for the block; it is removed at the end.

    Args:
        path: The target; its name may be as long as the file system allows.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=BEGIN, suffix=END, dir=path.parent))
    try:
        (folder / DRAFT_OF).write_text(ascii(path.name), encoding="ascii")
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def locked_draft_folder(path: Path) -> Iterator[Path]:
    """Make a `draft_folder` with a lock, for targets outside of a locked work directory.

    Draft folders of the same target whose writers were killed are removed first.
    """
    for folder in path.parent.glob(f"{BEGIN}*{END}"):
        if is_draft(folder) and (folder / DRAFT_OF).read_text("ascii") == ascii(path.name):
            with suppress(Timeout, OSError), held(folder / LOCK, timeout=0) as is_alone:
                if not is_alone:  # a file system without locks: the writer may be alive
                    continue
                if (folder / OLD).exists() and not path.exists():
                    (folder / OLD).rename(path)  # killed between the two steps of a replacement
                shutil.rmtree(folder, ignore_errors=True)
    with draft_folder(path) as folder, held(folder / LOCK):
        yield folder


def is_draft(folder: Path) -> bool:
    """Return whether a folder is a draft folder."""
    has_name = folder.name.startswith(BEGIN) and folder.name.endswith(END)
    return has_name and not folder.is_symlink() and (folder / DRAFT_OF).is_file()


def remove_leftovers(directory: Path) -> None:
    """Remove the draft folders of killed writers; no other process may be writing.

    Folders with a lock of their own, such as a work directory inside of another, are skipped.
    """
    for parent, folders, _ in os.walk(directory):
        for name in list(folders):
            folder = Path(parent, name)
            if is_draft(folder):
                shutil.rmtree(folder, ignore_errors=True)
            elif not (folder / LOCK).exists():
                continue
            folders.remove(name)
