"""Names of the files of a network."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from pathlib import PurePath
from typing import Any

from gvbsm.files.plugins import is_plugin

# Code in a file of the user; the group is its name without its folder.
_OWN_FILE = re.compile(r"(?:.*[/\\])?([^/\\]+\.py:[\w.]+)", re.DOTALL)
CHARACTERS = 80  # most of a file's name that come from the name of the user's code


def file_stem(name: str) -> str:
    """Convert a backbone's name to a file name: `timm/x` is timm--x, `my.py:Net` my.py-Net.

    Code in a folder gets a part of the hash of its whole name, since two files may have one name.
    """
    if not is_plugin(name):
        return name.replace("/", "--")
    source, _, attribute = name.rpartition(":")
    stem = re.sub(r"[^\w.-]+", "_", f"{PurePath(source).name}-{attribute}")[-CHARACTERS:]
    if stem == f"{source}-{attribute}":
        return stem
    return f"{stem}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def file_name(backbone: str) -> str:
    """File name of what belongs to one backbone."""
    return f"{file_stem(backbone)}.safetensors"


def without_folders(value: Any) -> Any:
    """Return nested texts in which files of the user's code are named without their folders.

    `/home/me/my.py:Net` becomes `my.py:Net`: an export must not publish folders of the machine.
    """
    if isinstance(value, str):
        match = _OWN_FILE.fullmatch(value)
        return match[1] if match else value
    if isinstance(value, Mapping):
        return {without_folders(key): without_folders(item) for key, item in value.items()}
    return [*map(without_folders, value)] if isinstance(value, list | tuple) else value


def own_files(value: Any) -> Iterator[str]:
    """Yield the names among nested texts that are code in files of the user."""
    if isinstance(value, str) and _OWN_FILE.fullmatch(value):
        yield value
    elif isinstance(value, Mapping):
        yield from own_files([*value, *value.values()])
    elif isinstance(value, list | tuple):
        for item in value:
            yield from own_files(item)
