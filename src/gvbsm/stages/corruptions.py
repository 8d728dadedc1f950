"""Corruptions: make the corrupted copies of test pictures, a file for each kind."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from gvbsm.data.corrupted.library import corrupt, library_name
from gvbsm.engine.device import Runtime
from gvbsm.engine.seeds import derived_seed
from gvbsm.files.artifacts import Recipe
from gvbsm.files.tensors import save


def write_copies(
    pictures: Tensor,
    index: Tensor,
    kind: str,
    severities: Sequence[int],
    runtime: Runtime,
    path: Path,
    recipe: Recipe,
) -> None:
    """Write the corrupted copies of pictures by one kind of corruption.

    A copy depends on the run's seed, the kind, the severity, the picture and its number alone.

    Args:
        pictures: uint8 (n, channels, size, size).
        index: Their numbers among the test pictures, int64 (n,).
        kind: Name of the corruption.
        severities: Severities, each from 1 to 5.
        runtime: Seed and progress.
        path: File of the copies, `images` uint8 (severities, n, channels, size, size).
        recipe: Recipe of the file.
    """
    seeds = [derived_seed(runtime.seed, "corruptions", number) for number in index.tolist()]
    copies = torch.empty((len(severities), *pictures.shape), dtype=torch.uint8)
    with runtime.progress(len(severities) * len(pictures), kind, "picture") as bar:
        for row, severity in enumerate(severities):
            for place, picture in enumerate(pictures):
                copies[row, place] = corrupt(picture, kind, severity, seeds[place])
                bar.update()
    header = {"kind": "corrupted", "recipe": recipe, "source": library_name()}
    save(path, {"images": copies}, header)
