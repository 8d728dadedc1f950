"""Find pictures that cannot be read before any work begins, and leave them out if configured.

All pictures are decoded once, whatever the number of processes or workers, so that what is left out
depends on the files alone. Nothing stands in for a picture: the splits are shorter, which changes
the set's fingerprint and so what is made from it; a repaired file brings back the old one.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from gvbsm.data.pictures import DataError, Progress, Split, in_threads, read_image
from gvbsm.files.jsontext import write_cache
from gvbsm.files.state import state_of

ESCAPED = "surrogateescape"  # names of files that are no UTF-8


def find_unreadable(paths: Sequence[Any], progress: Progress) -> list[int]:
    """Indices of the pictures that cannot be read to their end, ascending."""
    broken = in_threads(_is_unreadable, paths)
    return [index for index in progress(range(len(paths))) if next(broken)]


def _is_unreadable(path: Any) -> bool:
    try:
        read_image(path, channels=3)
    except DataError:
        return True
    return False


def leave_out(
    splits: Sequence[Split], cache: Path, progress: Progress
) -> tuple[list[Split], tuple[str, ...]]:
    """Return the splits without their unreadable pictures, and the names of these.

    Args:
        splits: Of pictures in files; others are given back as they are.
        cache: Folder where the answer is remembered for these very files as they are now.
        progress: Wraps the loop over pictures, as `tqdm` does.
    """
    file = cache / f"{_state(splits)}.json"
    known = _remembered(file)
    kept: list[Split] = []
    names: list[str] = []
    indices: list[list[int]] = []
    for number, split in enumerate(splits):
        if split.paths is None:
            kept.append(split)
            indices.append([])
            continue
        broken = known[number] if known else find_unreadable(split.paths, progress)
        indices.append(broken)
        names += [str(split.paths[index]) for index in broken]
        left = sorted(set(range(len(split))) - set(broken))
        if not left:
            raise DataError("none of the pictures of a split can be read; repair them")
        kept.append(split.select(torch.tensor(left)))
    write_cache(file, indices)
    return kept, tuple(names)


def _state(splits: Sequence[Split]) -> str:
    """Hash the names of pictures, and the sizes and times of their files, which show a change."""
    digest = hashlib.sha256()
    files: set[str] = set()
    for split in splits:
        digest.update(f"{len(split)}\n".encode())
        for path in split.paths or ():
            if isinstance(path, Path):
                files.add(str(path))
                digest.update(f"{path}\n".encode(errors=ESCAPED))
            else:
                files.update(getattr(path, "files", ()))
                digest.update(f"{path}\0{path.nbytes}\n".encode(errors=ESCAPED))
    for file in sorted(files):
        digest.update(f"{file}\0{state_of(Path(file))}\n".encode(errors=ESCAPED))
    return digest.hexdigest()


def _remembered(file: Path) -> list[list[int]] | None:
    with suppress(OSError, ValueError, TypeError):
        return [[int(index) for index in split] for split in json.loads(file.read_text("utf-8"))]
    return None
