"""A teacher's statistics as named tensors, and back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path

from torch import Tensor

from gvbsm.files.artifacts import DamagedError
from gvbsm.files.tensors import load_tensors
from gvbsm.method.moments import Moments
from gvbsm.method.statistics import Statistics


def pack_statistics(statistics: Statistics) -> dict[str, Tensor]:
    """Name the tensors `PATH/LEVEL/{mean,variance}`, LEVEL an attribute of `Statistics`."""
    return {
        f"{path}/{level}/{name}": value
        for level in (field.name for field in fields(statistics))
        for path, moments in getattr(statistics, level).items()
        for name, value in moments._asdict().items()
    }


def unpack_statistics(tensors: Mapping[str, Tensor]) -> Statistics:
    """The inverse of `pack_statistics`.

    Raises:
        ValueError: If a name does not fit, or a variance is missing.
    """
    tables: dict[str, dict[str, Moments]] = {field.name: {} for field in fields(Statistics)}
    try:
        for key in tensors:
            path, level, name = key.rsplit("/", 2)
            if name == "mean":
                variance = tensors[f"{path}/{level}/variance"]
                tables[level][path] = Moments(tensors[key], variance)
    except (KeyError, ValueError):
        raise ValueError(f"{key!r} is no mean with a variance") from None
    return Statistics(**tables)


def load_statistics(path: Path) -> Statistics:
    """Read the statistics of a teacher.

    Raises:
        ArtifactError: If the file is unusable.
    """
    tensors, _ = load_tensors(path, "statistics")
    try:
        return unpack_statistics(tensors)
    except ValueError as error:
        raise DamagedError(path, str(error)) from None
