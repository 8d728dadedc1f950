"""Folders with the unfinished content of a file or an export, and what killed writers left behind.

Such a folder, `.gvbsm-RANDOM.tmp`, lies beside what is being written and names it in `draft-of`.
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

BEGIN, END = ".gvbsm-", ".tmp"  # of the names of these folders
DRAFT_OF = "draft-of"
OLD = "old"  # in such a folder: what a new folder is about to take the place of
LOCK = ".lock"  # in a folder that belongs to one process at a time


@contextmanager
def draft_folder(path: Path) -> Iterator[Path]:
    """A new folder beside `path` for its unfinished content; it is removed at the end.

    Args:
        path: What is being written; its name may be as long as the file system allows.
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
    """A `draft_folder` where no lock of a work directory keeps other writers away.

    Drafts of the same file whose writers were killed are removed first.
    """
    for folder in path.parent.glob(f"{BEGIN}*{END}"):
        if is_draft(folder) and (folder / DRAFT_OF).read_text("ascii") == ascii(path.name):
            with suppress(Timeout, OSError), held(folder / LOCK, timeout=0) as is_alone:
                if not is_alone:  # without locks, the writer may still be alive
                    continue
                if (folder / OLD).exists() and not path.exists():
                    (folder / OLD).rename(path)  # killed between the two steps of a replacement
                shutil.rmtree(folder, ignore_errors=True)
    with draft_folder(path) as folder, held(folder / LOCK):
        yield folder


def is_draft(folder: Path) -> bool:
    """Whether a folder holds the unfinished content of a file or an export."""
    named = folder.name.startswith(BEGIN) and folder.name.endswith(END)
    return named and not folder.is_symlink() and (folder / DRAFT_OF).is_file()


def remove_leftovers(directory: Path) -> None:
    """Remove what writers that were killed have left behind; none may be at work.

    Folders with a lock of their own, such as a work directory inside of another, are left alone.
    """
    for place, folders, _ in os.walk(directory):
        for name in list(folders):
            folder = Path(place, name)
            if is_draft(folder):
                shutil.rmtree(folder, ignore_errors=True)
            elif not (folder / LOCK).exists():
                continue
            folders.remove(name)
