"""Names of the files of a network."""

from __future__ import annotations

import hashlib
import re
from pathlib import PurePath

from gvbsm.files.plugins import is_plugin

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
