"""Expand paths of users, name data by their folder, and choose the cache folder."""

from __future__ import annotations

import atexit
import functools
import logging
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gvbsm.config import ConfigError

log = logging.getLogger("gvbsm")

MEMORY = "memory"  # `data.name` of pictures that Python code passes


def user_path(path: str | Path) -> Path:
    """Return a path with `~` and `~user` expanded, which shells do not do in quotes.

    Raises:
        ConfigError: If there is no such home folder.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise ConfigError(
            f"{path} begins with a home folder that is not known here; give the whole path"
        ) from None


def whole_path(path: Path) -> Path:
    """Return an absolute path without `.` and `..`, so that it ends in a name; links are kept."""
    return Path(os.path.abspath(path))  # noqa: PTH100  (Path.resolve follows links)


def data_title(config: Mapping[str, Any]) -> str:
    """Return the data set's name for headings, in one line: `data.title` if it is set.

    Else pictures of the user's own have the name of their folder or file, those that Python code
    passes are "pictures in memory", and others have the name of the data set.

    Args:
        config: Settings of a run, nested.
    """
    data = config["data"]
    if title := _in_one_line(str(data.get("title") or "")):
        return title
    name, root = str(data["name"]), data.get("root")
    if name == MEMORY:
        return "pictures in memory"
    if name not in ("folder", "npz", "hub") or root is None:
        return name
    path = whole_path(user_path(root))
    return _in_one_line(path.stem if name == "npz" else path.name) or name


def _in_one_line(text: str) -> str:
    """Make spaces of line breaks, tabs and repeated spaces; drop what else has no glyph."""
    return "".join(filter(str.isprintable, " ".join(text.split())))


def cache_folder() -> Path:
    """Return the folder of downloads and of cached results: `~/.cache/gvbsm`.

    Without a home folder, as in a container with an unnamed user, it is a temporary folder that is
    removed when the process ends.
    """
    try:
        return Path.home() / ".cache" / "gvbsm"
    except RuntimeError:
        return _temporary_folder()


@functools.cache
def _temporary_folder() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="gvbsm-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    log.warning("there is no home folder (HOME is not set): what is cached lasts for this run only")
    return folder
