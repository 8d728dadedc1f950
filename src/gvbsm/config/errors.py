"""A fault in the settings, and an error in one line."""

from __future__ import annotations

import traceback
from pathlib import Path


class ConfigError(ValueError):
    """A fault in the settings, described in one line (or one line a fault)."""


def fault_of(error: BaseException) -> str:
    """Return the type and first line of an error, and the file and line that raised it."""
    frames = traceback.extract_tb(error.__traceback__)
    where = f" ({Path(frames[-1].filename).name}, line {frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {first_line(error)}{where}"


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message; the name of its type if it has none."""
    return (str(error).splitlines() or [type(error).__name__])[0]
