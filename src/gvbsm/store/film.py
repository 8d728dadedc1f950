"""The film of a synthesis: how a few of the images form over the iterations."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from gvbsm.data.class_sizes import ImageCounts
from gvbsm.files.artifacts import ArtifactError, Recipe
from gvbsm.files.schema import checked_header
from gvbsm.files.tensors import load_tensors, save

CLASSES = 10  # of which the first image is filmed
FRAMES = 12  # at most, the start and the end among them


class Film(NamedTuple):
    """The first image of each of the first classes at some iterations, most of them early ones.

    Attributes:
        frames: uint8 (images, frames, channels, height, width).
        steps: Iterations done before each frame, int64 (frames,); 0 is the start.
        labels: Classes of the images, int64 (images,).
    """

    frames: Tensor
    steps: Tensor
    labels: Tensor


def frame_steps(iterations: int) -> list[int]:
    """Iterations of the frames: 0, then a geometric series from 1 to `iterations` (at least 1)."""
    last = FRAMES - 2
    return sorted({0, *(round(iterations ** (frame / last)) for frame in range(last + 1))})


def is_filmed(index: Tensor, counts: ImageCounts) -> Tensor:
    """Whether the images of a set at these indices are filmed: bool, shaped as `index`."""
    return torch.isin(index, counts.firsts[:CLASSES])


def film_file(directory: Path) -> Path:
    """Return the file of the film of the images in `directory`."""
    return directory / "film.safetensors"


def save_film(directory: Path, film: Film, recipe: Recipe) -> None:
    """Write the film of the images in `directory`."""
    save(film_file(directory), film._asdict(), {"kind": "film", "recipe": recipe})


def load_film(directory: Path) -> Film | None:
    """The film of a set; None if there is none, or if it is not that of the images beside it.

    Args:
        directory: Where the set lies: a work directory, or one of its baselines.

    Raises:
        ArtifactError: If a file is damaged.
    """
    path = film_file(directory / "synthesis")
    if not path.is_file():
        return None
    tensors, header = load_tensors(path, "film")
    if header["recipe"] != checked_header(path.with_name("images.safetensors"))["recipe"]:
        return None
    try:
        return Film(**tensors)
    except TypeError as error:
        raise ArtifactError(f"{path} is damaged ({error}); move it away") from None
