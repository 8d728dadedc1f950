"""Settings as Python code gives them: a preset with changes, classes in place of names."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from gvbsm.config import ConfigError


def code_name(value: Any) -> str:
    """Return `module:attribute` of a class or function, by which settings name it.

    Raises:
        ConfigError: If it has no such name: a built network, a lambda, a class inside a function.
    """
    name = getattr(value, "__qualname__", None)
    if name is None:
        raise ConfigError(
            f"{type(value).__name__} is an object: pass the class, or a function that builds it"
        )
    if "<" in name:
        raise ConfigError(
            f"{name} of {value.__module__} cannot be named in settings: define it at the top level "
            "of a module"
        )
    return f"{value.__module__}:{name}"


def plain(value: Any) -> Any:
    """Convert values to those that YAML has.

    Paths become text, tuples lists, NumPy and torch values numbers, classes and functions their
    names.
    """
    if isinstance(value, Mapping):
        return {_key(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if callable(value):
        return code_name(value)
    return value.tolist() if hasattr(value, "tolist") else value


def _key(key: Any) -> Any:
    return code_name(key) if callable(key) else key
