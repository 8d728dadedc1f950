"""A fault in the settings, and an error in one line."""

from __future__ import annotations


class ConfigError(ValueError):
    """A fault in the settings, described in one line (or one line a fault)."""


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message; the name of its type if it has none."""
    return (str(error).splitlines() or [type(error).__name__])[0]
