"""Names of the files of a network."""

from __future__ import annotations


def file_stem(name: str) -> str:
    """Convert a backbone's name to a file name: names such as timm/x contain a slash."""
    return name.replace("/", "--")


def file_name(backbone: str) -> str:
    """File name of what belongs to one backbone."""
    return f"{file_stem(backbone)}.safetensors"
