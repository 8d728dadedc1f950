"""The state of files, by which a change is noticed without reading them, and their SHA-256."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from gvbsm.files import manifest

State = tuple[int, int, int]
"""Size in bytes, and the times of the last change of content and of status in nanoseconds."""

SETTLED_NS = 2_000_000_000  # coarsest times of a file system; a later change shows for certain


def state_of(path: Path) -> State | None:
    """Return the state of a file; None if there is none.

    Programs that copy files can set the time of the content, but not that of the status.
    """
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file's content, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def states_made(root: Path) -> dict[str, State]:
    """Return the states of the files of a manifest that exist, by their name."""
    states = {name: state_of(root / name) for name in manifest.listed_contents(root)}
    return {name: state for name, state in states.items() if state is not None}


def state_digest(paths: Iterable[Path], now_ns: int) -> str | None:
    """Hash the states of files and of all files in folders; work directories are left out.

    Args:
        paths: Files and folders.
        now_ns: The present time in nanoseconds since the epoch.

    Returns:
        None if a path or link leads nowhere, a folder cannot be listed, or a file changed so
        lately that another change could leave the same state.
    """
    digest = hashlib.sha256()
    for path in paths:
        try:
            files = sorted(_files(path.absolute(), set()))
        except OSError:
            return None
        digest.update(f"{path.absolute()}\0{len(files)}\n".encode(errors="surrogateescape"))
        for name in files:
            state = state_of(Path(name))
            if state is None or max(state[1:]) > now_ns - SETTLED_NS:
                return None
            digest.update(f"{name}\0{state}\n".encode(errors="surrogateescape"))
    return digest.hexdigest()


def _files(path: Path, folders: set[tuple[int, int]]) -> Iterator[str]:
    """Yield a file, or the files of a folder; one that links lead to again is listed once."""
    if not path.is_dir():
        yield str(path)
        return
    status = path.stat()
    if (status.st_dev, status.st_ino) in folders or manifest.is_claimed(path):
        return
    folders.add((status.st_dev, status.st_ino))
    with os.scandir(path) as entries:
        for entry in entries:
            if entry.is_dir():
                yield from _files(Path(entry.path), folders)
            else:
                yield entry.path
