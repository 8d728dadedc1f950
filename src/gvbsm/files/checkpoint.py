"""Half-done work of one artifact: saved now and then, so that a stopped run goes on from there."""

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

PARTIAL = ".partial.safetensors"  # how the names of checkpoints end


def is_partial(path: Path) -> bool:
    """Whether a file holds half-done work (`Checkpoint`)."""
    return path.name.endswith(PARTIAL)


class Checkpoint:
    """The checkpoint of one artifact: at most one file, replaced atomically.

    Args:
        path: The artifact.
        recipe: What it is made from.
        every_seconds: Time between two checkpoints.

    Raises:
        ArtifactError: If the checkpoint's file may not be replaced: before the work, not at the
            first `save`.
    """

    def __init__(self, path: Path, recipe: Recipe, every_seconds: float) -> None:
        self._path = path.with_name(f"{path.name.removesuffix('.safetensors')}{PARTIAL}")
        check_replaceable(self._path)
        self._recipe = recipe
        self._every = every_seconds
        self._last = time.monotonic()

    def load(self) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """Tensors and state of the last checkpoint of the same work, or None; damage is logged."""
        if not is_current(self._path, self._recipe):
            return None
        try:
            tensors, header = load_tensors(self._path, "checkpoint")
            checked(CheckpointHeader, header, self._path)
        except DamagedError:
            log.warning("%s is damaged: the work begins anew", self._path)
            return None
        return tensors, header["state"]

    def due(self) -> bool:
        """Whether enough time has passed since the last one."""
        return time.monotonic() - self._last >= self._every

    def save(self, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
        """Write a checkpoint; `state` is JSON-like."""
        header = {"kind": "checkpoint", "recipe": self._recipe, "state": dict(state)}
        save(self._path, tensors, header)
        self._last = time.monotonic()

    def clear(self) -> None:
        """Remove it: the work is done."""
        remove(self._path)
