"""Paths as people write them, and the folder of what is remembered between runs."""

from __future__ import annotations

import atexit
import functools
import logging
import shutil
import tempfile
from pathlib import Path

from gvbsm.config import ConfigError

log = logging.getLogger("gvbsm")


def user_path(path: str | Path) -> Path:
    """A path with `~` and `~user` expanded, which no shell does in quotes or in a settings file.

    Raises:
        ConfigError: If there is no such home folder.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise ConfigError(
            f"{path} begins with a home folder that is not known here; give the whole path"
        ) from None


def cache_folder() -> Path:
    """The folder of downloads and of what was computed of data: `~/.cache/gvbsm`.

    Without a home folder, as in a container under a user number of its own, a temporary one stands
    in, which is removed when the process ends.
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
