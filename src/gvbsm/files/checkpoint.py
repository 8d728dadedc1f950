"""Checkpoints: the state of an artifact in progress, from which a stopped run resumes."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from gvbsm.engine.progress.stopping import STOPPING
from gvbsm.files.artifacts import (
    PARTIAL,
    ArtifactError,
    DamagedError,
    Recipe,
    check_replaceable,
    is_current,
    read_header,
    read_json,
    remove,
)
from gvbsm.files.manifest import named
from gvbsm.files.schema import CheckpointHeader, checked
from gvbsm.files.tensors import load_tensors, save

log = logging.getLogger("gvbsm")


def remove_finished(folder: Path) -> None:
    """Remove the checkpoints of finished artifacts below a folder.

    A process that is killed after it has written an artifact leaves the checkpoint behind.
    """
    for path in named(folder, f"**/*{PARTIAL}"):
        name = path.name.removesuffix(PARTIAL)
        try:
            recipe = read_header(path)["recipe"]
            if name.endswith(".json"):
                result = path.with_name(name)
                is_finished = result.is_file() and read_json(result).get("recipe") == recipe
            else:
                is_finished = is_current(path.with_name(f"{name}.safetensors"), recipe)
            if is_finished:
                remove(path)
        except ArtifactError as error:
            log.debug("%s", error)  # whoever needs the damaged file says so


class Checkpoint:
    """The checkpoint of one artifact: one file, which is replaced atomically.

    Raises:
        ArtifactError: If the artifact or the checkpoint may not be written; so this is known before
            the work begins.
    """

    def __init__(self, path: Path, recipe: Recipe, every_seconds: float) -> None:
        self._path = path.with_name(f"{path.name.removesuffix('.safetensors')}{PARTIAL}")
        check_replaceable(path)
        check_replaceable(self._path)
        self._recipe = recipe
        self._every = every_seconds
        self._last = time.monotonic()

    def load(self) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """Return tensors and state of the last checkpoint of this recipe; log one that is damaged.

        Returns:
            None if there is none, or if it is damaged.
        """
        STOPPING.begin()
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
        """Return whether the time between two checkpoints has passed, or the process is to stop."""
        return STOPPING.is_requested or time.monotonic() - self._last >= self._every

    def save(self, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
        """Write a checkpoint; `state` is JSON-like.

        Raises:
            KeyboardInterrupt: If the process is to stop (`engine.progress.stopping`).
        """
        STOPPING.saving()
        header = {"kind": "checkpoint", "recipe": self._recipe, "state": dict(state)}
        save(self._path, tensors, header)
        self._last = time.monotonic()
        STOPPING.saved()

    def clear(self) -> None:
        """Remove the checkpoint, since the work is finished.

        Raises:
            KeyboardInterrupt: If the process is to stop.
        """
        remove(self._path)
        STOPPING.end()
