"""Keep data sets in Hugging Face's formats from naming files outside of their folder.

Settings of a set, its state and its rows may all name files anywhere.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path

from gvbsm.data.pictures import DataError
from gvbsm.data.sources.request import Request

MOST_STATE_BYTES = 16 * 1024**2  # of a state.json


def check_folder(folder: Path) -> None:
    """Check that a folder holds files and folders alone, and that its states name no others.

    Raises:
        DataError: Naming a pipe, which would be waited for without end, or such a state.
    """
    waiting = [folder]
    while waiting:
        with os.scandir(waiting.pop()) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(Path(entry.path))
                elif not (entry.is_file() or entry.is_dir()) and entry.name[0] != ".":
                    raise DataError(
                        f"{entry.path} is no regular file (a pipe, a device or a broken link): "
                        "move it out of the data set"
                    )
                elif entry.name == "state.json":
                    state_files(Path(entry.path))


def state_files(path: Path) -> list[Path]:
    """The Arrow files that a `state.json` of `save_to_disk` names, which lie beside it.

    Raises:
        DataError: If it is damaged, or names a file twice or one outside of its folder.
    """
    if path.stat().st_size > MOST_STATE_BYTES:
        raise DataError(f"{path} has more than {MOST_STATE_BYTES} bytes: save the set anew")
    try:
        state = json.loads(path.read_bytes())
        names = [
            entry["filename"]
            for key in ("_data_files", "_indices_data_files")
            for entry in state.get(key) or ()
        ]
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise DataError(f"{path} is not as save_to_disk writes it: {error!r}") from error
    for name in names:
        if not isinstance(name, str) or Path(name).name != name:
            raise DataError(
                f"{path} names {name!r}, a file outside of its folder, which is not read: save the "
                "set anew"
            )
    if len(set(names)) < len(names):
        raise DataError(f"{path} names a file twice: expected each once, save the set anew")
    return [path.parent / name for name in names]


def check_data_files(files: Mapping[object, Iterable[object]], request: Request, name: str) -> None:
    """Check that the files of each split, which a README may name, belong to the set.

    Args:
        files: Paths and addresses by split.
        request: Its root is the set's folder; None is a set on the Hub, whose files have addresses.
        name: The set.

    Raises:
        DataError: Naming a file that does not.
    """
    folders = folders_of(request)
    for path in (str(path) for paths in files.values() for path in paths):
        place = path.rpartition("::")[2]  # the archive of a member
        if request.root is None and "://" in place:
            continue
        file_inside(place, folders, name)


def folders_of(request: Request) -> tuple[Path, ...]:
    """Folders in which files of a set may lie: that of the data first, then the downloads."""
    import datasets
    from huggingface_hub import constants

    downloads = (
        Path(datasets.config.HF_DATASETS_CACHE) / "downloads",  # unpacked archives too
        Path(datasets.config.DOWNLOADED_DATASETS_PATH),
    )
    if request.root is None:
        folders = [*downloads, Path(constants.HF_HUB_CACHE)]
    else:
        folders = [request.root, *downloads]
        if request.root.parent.name == "snapshots":  # of the Hub's cache, whose files are links
            folders.append(request.root.parent.parent / "blobs")
    return tuple(folder.resolve() for folder in folders)


@lru_cache(maxsize=4096)
def _resolved(folder: str) -> Path:
    return Path(folder).resolve()


def file_inside(path: str, folders: Sequence[Path], where: str) -> Path:
    """The file that a table names, if it lies in one of the folders.

    Raises:
        DataError: If it is elsewhere, links resolved, or no regular file.
    """
    place = folders[0] / path  # an absolute path stays as it is
    try:
        mode = place.lstat().st_mode
        linked = not stat.S_ISREG(mode)
        target = place.resolve() if linked else _resolved(str(place.parent)) / place.name
        regular = target.is_file()
    except (OSError, ValueError) as error:  # missing, too long, with a null byte
        raise DataError(f"{where}: cannot read the file {path!r}: {error}") from error
    if not any(target.is_relative_to(folder) for folder in folders):
        raise DataError(
            f"{where} names {path!r}, a file outside of {folders[0]}, which is not read: copy it "
            "into the data set"
        )
    if not regular:
        raise DataError(f"{where} names {path!r}, which is no regular file")
    return place
