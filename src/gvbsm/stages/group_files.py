"""The groups of images that a synthesis is made of: each in a file, from which the set is read."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gvbsm.files.artifacts import load_tensors
from gvbsm.files.schema import checked_header
from gvbsm.store.film import Film, frame_steps, is_filmed

Trace = list[dict[str, Any]]
"""Values of the loss's terms, a row a logged step."""


@dataclass(frozen=True)
class Groups:
    """The files of a synthesis.

    Attributes:
        directory: Where they lie.
        indices: Places of each group's images in the class-major set, int64 (at most batch,) each.
        ipc: Images per class.
        iterations: Steps for each group.
    """

    directory: Path
    indices: tuple[Tensor, ...]
    ipc: int
    iterations: int

    @property
    def paths(self) -> list[Path]:
        """The file of each group."""
        return [self.directory / f"group-{g:05d}.safetensors" for g in range(len(self.indices))]

    @property
    def labels(self) -> Tensor:
        """Classes of all images, int64 (classes * ipc,)."""
        return torch.arange(sum(map(len, self.indices))) // self.ipc

    def images(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Each group's places in the set, and its images, uint8 (batch, channels, height, width).

        Raises:
            ArtifactError: If a file is missing or damaged.
        """
        for index, path in zip(self.indices, self.paths, strict=True):
            yield index, load_tensors(path, "group")[0]["images"]

    def traces(self) -> list[Trace]:
        """Each group's trace."""
        return [checked_header(path)["trace"] for path in self.paths]

    def film(self) -> Film | None:
        """The film of the set; None where groups were made before there were films."""
        frames = []
        for index, path in zip(self.indices, self.paths, strict=True):
            if not bool(is_filmed(index, self.ipc).any()):
                continue
            tensors, _ = load_tensors(path, "group")
            if "film" not in tensors:
                return None
            frames.append(tensors["film"])
        steps = torch.tensor(frame_steps(self.iterations))
        filmed = is_filmed(torch.arange(len(self.labels)), self.ipc)
        return Film(torch.cat(frames), steps, self.labels[filmed])  # in the order of classes
