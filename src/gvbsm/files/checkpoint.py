"""Checkpoints: the state of an artifact in progress, from which a stopped run resumes."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from gvbsm.files.artifacts import (
    DamagedError,
    Recipe,
    check_replaceable,
    is_current,
    load_tensors,
    remove,
    save,
)
from gvbsm.files.schema import CheckpointHeader, checked

log = logging.getLogger("gvbsm")

PARTIAL = ".partial.safetensors"  # the end of a checkpoint's name


def is_partial(path: Path) -> bool:
    """Return whether a file has the name of a checkpoint."""
    return path.name.endswith(PARTIAL)


class Checkpoint:
    """The checkpoint of one artifact: one file, which is replaced atomically.

    Args:
        path: The artifact.
        recipe: Its recipe.
        every_seconds: Time between two checkpoints.

    Raises:
        ArtifactError: If the checkpoint's file may not be replaced; so this is known before the
            work begins.
    """

    def __init__(self, path: Path, recipe: Recipe, every_seconds: float) -> None:
        self._path = path.with_name(f"{path.name.removesuffix('.safetensors')}{PARTIAL}")
        check_replaceable(self._path)
        self._recipe = recipe
        self._every = every_seconds
        self._last = time.monotonic()

    def load(self) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """Return tensors and state of the last checkpoint of this recipe; log one that is damaged.

        Returns:
            None if there is none, or if it is damaged.
        """
        if not is_current(self._path, self._recipe):
            return None
        try:
            tensors, header = load_tensors(self._path, "checkpoint")
            checked(CheckpointHeader, header, self._path)
        except DamagedError:
            log.warning("%s is damaged: the work starts over", self._path)
            return None
        return tensors, header["state"]

    def due(self) -> bool:
        """Return whether the time between two checkpoints has passed."""
        return time.monotonic() - self._last >= self._every

    def save(self, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
        """Write a checkpoint; `state` is JSON-like."""
        header = {"kind": "checkpoint", "recipe": self._recipe, "state": dict(state)}
        save(self._path, tensors, header)
        self._last = time.monotonic()

    def clear(self) -> None:
        """Remove the checkpoint, since the work is finished."""
        remove(self._path)
