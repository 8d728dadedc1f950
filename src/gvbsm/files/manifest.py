"""Manifests: lists of the files that gvbsm wrote in a folder. It never changes any other file.

A work directory, its report and an export each hold a manifest, `.gvbsm-files.jsonl`, with a line
for each file that was written: name relative to the folder, size and CRC-32. The line is on the
disk before the file gets its name. So a killed process may leave a line without a file, but never
a file without a line. Lines are only appended, and each process has a manifest of its own,
`.gvbsm-files-RANK.jsonl` for ranks above 0.

Only a file that is listed with its present content is replaced or removed. Of a file that grows,
such as a log, the line holds the content that it began with.
"""

from __future__ import annotations

import errno
import json
import os
import zlib
from collections.abc import Callable, Iterator, Mapping, Set
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from gvbsm.config.paths import whole_path
from gvbsm.engine.launch import read_launch

NAME = ".gvbsm-files.jsonl"
CHUNK = 1 << 20  # bytes that are read at once
LINE_LIMIT = 1 << 14  # bytes; the longest path of the system fits
SYSTEM_FILES = (".DS_Store", "Thumbs.db", "desktop.ini")  # that systems put into folders they show


class Content(NamedTuple):
    """Size in bytes and CRC-32 of a file."""

    size: int
    crc32: int


def content_of(path: Path) -> Content:
    """Read a file to compute its size and CRC-32."""
    size = checksum = 0
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            size, checksum = size + len(chunk), zlib.crc32(chunk, checksum)
    return Content(size, checksum)


def is_claimed(folder: Path) -> bool:
    """Return whether a folder has a manifest."""
    return (folder / NAME).is_file()


def claim(folder: Path) -> None:
    """Create the manifest of a new or empty folder (`names_in`), unless it has one.

    Raises:
        FileExistsError: If the folder is not empty and has no manifest; its text names up to three
            entries.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if is_claimed(folder):
        return
    if names := names_in(folder):
        raise FileExistsError(", ".join(map(repr, names[:3])) + ", ..." * (len(names) > 3))
    _append(folder / NAME, {"gvbsm": "files made here"})


def names_in(folder: Path) -> list[str]:
    """Return the names of what a folder holds, without locks and `SYSTEM_FILES`."""
    names = sorted(entry.name for entry in os.scandir(folder))
    return [name for name in names if not (name in SYSTEM_FILES or _is_of_a_lock(name))]


def _is_of_a_lock(name: str) -> bool:
    return name == ".lock" or name.startswith(NAME.removesuffix(".jsonl"))


def root_of(path: Path) -> Path | None:
    """Return the nearest folder above a path that has a manifest, or None."""
    absolute = whole_path(path)  # keeps links: `leads_out` checks them
    return next(filter(is_claimed, absolute.parents), None)


def leads_out(path: Path, root: Path) -> bool:
    """Return whether a link in a path below `root` leads out of `root`."""
    return not path.parent.resolve().is_relative_to(root.resolve())


def record(root: Path, contents: Mapping[Path, Content]) -> None:
    """Add files to this process's manifest, before they are renamed to their paths.

    Args:
        root: The folder with the manifest.
        contents: Path below `root` that a file will have -> its size and checksum.
    """
    entries = ({"name": _relative(p, root), **c._asdict()} for p, c in contents.items())
    _append(_manifest(root), *entries)


def record_beginning(root: Path, path: Path, beginning: bytes) -> None:
    """Add a file that will grow to this process's manifest, before it is created.

    Args:
        root: The folder with the manifest.
        path: Path below `root` that the file will have.
        beginning: The bytes that it will always begin with.
    """
    content = Content(len(beginning), zlib.crc32(beginning))
    _append(_manifest(root), {"name": _relative(path, root), "begins": content._asdict()})


def _manifest(root: Path) -> Path:
    """The manifest of this process."""
    rank = read_launch().rank
    return root / (f"{NAME.removesuffix('.jsonl')}-{rank}.jsonl" if rank else NAME)


def _append(manifest: Path, *entries: dict[str, object]) -> None:
    """Append lines; what a power cut or a full disk left of an earlier one is ended first.

    Raises:
        OSError: If the disk is full or may not be written.
    """
    lines = "".join(json.dumps(entry) + "\n" for entry in entries).encode()
    with manifest.open("ab+", buffering=0) as file:  # one write, so that lines stay whole
        if file.tell():
            file.seek(-1, os.SEEK_END)
            lines = lines if file.read(1) == b"\n" else b"\n" + lines
        if file.write(lines) < len(lines):  # a full disk takes a part without an error
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        os.fsync(file.fileno())


def _relative(path: Path, root: Path) -> str:
    return Path(os.path.relpath(path, root)).as_posix()


def listed_contents(root: Path) -> dict[str, set[Content]]:
    """Read a folder's manifests: name of each file -> all contents that were written."""
    files: dict[str, set[Content]] = {}
    for manifest in _manifests(root):
        for entry in _entries(manifest):
            match entry:
                case {"name": str(name), "size": int(size), "crc32": int(checksum)}:
                    files.setdefault(name, set()).add(Content(size, checksum))
    return files


def is_begun(path: Path, root: Path) -> bool:
    """Return whether the manifests of `root` list the beginning of a file that grows."""
    if path.is_symlink() or not path.is_file():
        return False
    name, content = _relative(path, root), b""
    for manifest in _manifests(root):
        for entry in _entries(manifest):
            match entry:
                case {"name": str(listed), "begins": {"size": int(size), "crc32": int(checksum)}}:
                    if listed == name and 0 < size <= LINE_LIMIT:
                        content = content or _first_bytes(path)
                        if len(content) >= size and zlib.crc32(content[:size]) == checksum:
                            return True
    return False


def _first_bytes(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(LINE_LIMIT)


def _manifests(root: Path) -> list[Path]:
    return sorted(root.glob(f"{NAME.removesuffix('.jsonl')}*.jsonl"))


def _entries(manifest: Path) -> Iterator[object]:
    """Read the entries of a manifest; skip lines that a power cut left incomplete."""
    with manifest.open("rb") as file:
        while line := file.readline(LINE_LIMIT):
            with suppress(ValueError, RecursionError):
                yield json.loads(line)


Listing = Callable[[Path], Mapping[str, Set[Content]]]
"""listing(root): the files that the manifests of a folder list, as `listed_contents` reads them."""


def is_listed(path: Path, root: Path, listed: Listing = listed_contents) -> bool:
    """Return whether the manifests of `root` list a file with its present content."""
    return _is_as_written(path, listed(root).get(_relative(path, root), set()))


def _is_as_written(path: Path, contents: Set[Content]) -> bool:
    if path.is_symlink() or not path.is_file():
        return False
    if path.stat().st_size not in {content.size for content in contents}:
        return False
    return content_of(path) in contents


def named(folder: Path, pattern: str) -> list[Path]:
    """List the files below a folder whose names are in the manifest; contents are not compared.

    Args:
        folder: The folder; without a manifest in it or above, all files are listed.
        pattern: As for `Path.glob`.
    """
    root = root_of(folder / pattern)
    names = {} if root is None else listed_contents(root)
    files = sorted(path for path in folder.glob(pattern) if path.is_file())
    return [path for path in files if root is None or _relative(path, root) in names]


def files_made(root: Path) -> list[Path]:
    """List the files of a manifest that exist with a content that was written."""
    return [
        path
        for name, contents in sorted(listed_contents(root).items())
        if _is_as_written(path := root / name, contents)
    ]
