"""The list of the files that gvbsm made in a folder, so that it never touches any other.

A work directory, its report and an export each hold a manifest, `.gvbsm-files.jsonl`, with one
line for each file that was written: its name relative to the folder, its size and its CRC-32. The
line is on the disk before the file takes its name: a killed process leaves a line too many, never a
file too many. Lines are only appended, so that no writer can lose another's. Of several processes
each has a manifest of its own, `.gvbsm-files-RANK.jsonl`.

Only a file that is listed with its present content is ever replaced or removed.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Iterator, Mapping, Set
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from gvbsm.engine.launch import read_launch

NAME = ".gvbsm-files.jsonl"
CHUNK = 1 << 20  # bytes that are read at once
LINE_LIMIT = 1 << 14  # bytes; a path of the system's greatest length fits


class Content(NamedTuple):
    """What is known of a file's content."""

    size: int
    crc32: int


def content_of(path: Path) -> Content:
    """Size in bytes and CRC-32 of a file."""
    size = checksum = 0
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            size, checksum = size + len(chunk), zlib.crc32(chunk, checksum)
    return Content(size, checksum)


def is_claimed(folder: Path) -> bool:
    """Whether a folder has a manifest."""
    return (folder / NAME).is_file()


def claim(folder: Path) -> None:
    """Begin the manifest of a new or empty folder; a folder that has one is left as it is.

    Raises:
        FileExistsError: If the folder holds something and has no manifest; its text names what.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if is_claimed(folder):
        return
    others = sorted(entry.name for entry in os.scandir(folder) if not _is_of_a_lock(entry.name))
    if others:
        raise FileExistsError(", ".join(map(repr, others[:3])) + ", ..." * (len(others) > 3))
    _append(folder / NAME, {"gvbsm": "files made here"})


def _is_of_a_lock(name: str) -> bool:
    return name == ".lock" or name.startswith(NAME.removesuffix(".jsonl"))


def root_of(path: Path) -> Path | None:
    """The nearest folder above a path that has a manifest; None if there is none."""
    absolute = Path(os.path.abspath(path))  # noqa: PTH100  (links stay: `leads_out` looks at them)
    return next(filter(is_claimed, absolute.parents), None)


def leads_out(path: Path, root: Path) -> bool:
    """Whether the folder of a path below `root` lies elsewhere once links are followed."""
    return not path.parent.resolve().is_relative_to(root.resolve())


def record(root: Path, contents: Mapping[Path, Content]) -> None:
    """List files, whose contents are on the disk under other names so far.

    Args:
        root: The folder with the manifest.
        contents: Name that a file is about to take, below `root` -> its size and checksum.
    """
    rank = read_launch().rank
    manifest = root / (f"{NAME.removesuffix('.jsonl')}-{rank}.jsonl" if rank else NAME)
    entries = ({"name": _relative(p, root), **c._asdict()} for p, c in contents.items())
    _append(manifest, *entries)


def _append(manifest: Path, *entries: dict[str, object]) -> None:
    lines = "".join(json.dumps(entry) + "\n" for entry in entries)
    with manifest.open("ab", buffering=0) as file:  # one write: other processes append as well
        file.write(lines.encode())
        os.fsync(file.fileno())


def _relative(path: Path, root: Path) -> str:
    return Path(os.path.relpath(path, root)).as_posix()


def listed(root: Path) -> dict[str, set[Content]]:
    """The files listed in a folder's manifests, each with all contents that it has had."""
    files: dict[str, set[Content]] = {}
    for manifest in sorted(root.glob(f"{NAME.removesuffix('.jsonl')}*.jsonl")):
        for entry in _entries(manifest):
            match entry:
                case {"name": str(name), "size": int(size), "crc32": int(checksum)}:
                    files.setdefault(name, set()).add(Content(size, checksum))
    return files


def _entries(manifest: Path) -> Iterator[object]:
    """The entries of a manifest; a line that a power cut left half written is no entry."""
    with manifest.open("rb") as file:
        while line := file.readline(LINE_LIMIT):
            with suppress(ValueError, RecursionError):
                yield json.loads(line)


def is_listed(path: Path, root: Path) -> bool:
    """Whether a file stands in the manifest of `root` with the content that it has now."""
    return _is_as_written(path, listed(root).get(_relative(path, root), set()))


def _is_as_written(path: Path, contents: Set[Content]) -> bool:
    if path.is_symlink() or not path.is_file():
        return False
    if path.stat().st_size not in {content.size for content in contents}:
        return False
    return content_of(path) in contents


def named(folder: Path, pattern: str) -> list[Path]:
    """The files below a folder that gvbsm wrote, by name alone; others may lie beside them.

    Args:
        folder: A folder; where none above has a manifest, all files count.
        pattern: As for `Path.glob`.
    """
    root = root_of(folder / pattern)
    names = {} if root is None else listed(root)
    files = sorted(path for path in folder.glob(pattern) if path.is_file())
    return [path for path in files if root is None or _relative(path, root) in names]


def files_made(root: Path) -> list[Path]:
    """The listed files of a folder that are there with the content that was written."""
    return [
        path
        for name, contents in sorted(listed(root).items())
        if _is_as_written(path := root / name, contents)
    ]
