"""The corrupted copies of test pictures that networks are tested on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor

from gvbsm.config import CorruptionsConfig
from gvbsm.config.paths import user_path
from gvbsm.config.settled import corruption_kinds
from gvbsm.data.corrupted.arrays import (
    array_path,
    check_arrays,
    count_pictures,
    hash_copies,
    read_copies,
)
from gvbsm.data.corrupted.library import check_library
from gvbsm.data.datasets import ImageData
from gvbsm.data.loading import plain_batches
from gvbsm.data.pictures import Split
from gvbsm.engine.device import Runtime
from gvbsm.engine.seeds import generator_for
from gvbsm.files.artifacts import fingerprint, read_header
from gvbsm.files.state import State, state_of
from gvbsm.files.tensors import load_tensors


@dataclass(frozen=True)
class Copies:
    """Corrupted copies of some test pictures.

    Attributes:
        index: Which of the test pictures, int64 (n,), ascending.
        kinds: Kinds of corruption.
        severities: Their severities.
        source: Returns what made the copies, as results hold it.
        read: Returns the copies of a kind, uint8 (severities, n, channels, size, size).
    """

    index: Tensor
    kinds: tuple[str, ...]
    severities: tuple[int, ...]
    source: Callable[[], str]
    read: Callable[[str], Tensor]

    def splits(self, kind: str, data: ImageData) -> Iterator[Split]:
        """Yield the copies of a kind with the labels of their pictures, severity by severity."""
        for images in self.read(kind):
            yield Split(data.test.labels[self.index], images)


def check_corruptions(config: CorruptionsConfig, data: ImageData) -> None:
    """Check that the copies can be made or read, if there are any.

    Raises:
        ConfigError: If the library is not there.
        DataError: If the folder's sets do not fit the test pictures.
    """
    if not (kinds := corruption_kinds(config)):
        return
    if config.folder is None:
        check_library()
    else:
        check_arrays(user_path(config.folder), kinds, data)


def copies_of(
    config: CorruptionsConfig, data: ImageData, seed: int, path_of: Callable[[str], Path]
) -> Copies:
    """Return the copies that the settings describe.

    Args:
        config: The settings, with at least one kind.
        data: The real pictures.
        seed: Seed of the choice of pictures.
        path_of: The file that `stages.corruptions` writes for a kind.
    """
    index, kinds = choose_pictures(len(data.test), config.pictures, seed), corruption_kinds(config)
    if config.folder is None:

        def read(kind: str) -> Tensor:
            return load_tensors(path_of(kind), "corrupted")[0]["images"]

        def made_by() -> str:  # which need not be the version that is installed now
            return ", ".join(sorted({read_header(path_of(kind))["source"] for kind in kinds}))

        return Copies(index, kinds, config.severities, made_by, read)
    folder, severities = user_path(config.folder), config.severities

    def read_rows(kind: str) -> Tensor:
        return read_copies(folder, kind, severities, index)

    return Copies(index, kinds, severities, lambda: folder.name, read_rows)


def folder_content(config: CorruptionsConfig, seed: int) -> str | None:
    """Hash the copies in a folder that networks are tested on, which identifies them in recipes.

    The folder's other copies do not count. A file is read again only if its size or times change.

    Returns:
        None if the settings name no kinds, or no folder.

    Raises:
        DataError: If a file cannot be read.
    """
    kinds = corruption_kinds(config)
    if config.folder is None or not kinds:
        return None
    folder, chosen = user_path(config.folder), (config.severities, config.pictures, seed)
    states = {kind: state_of(array_path(folder, kind)) for kind in kinds}
    return fingerprint({kind: _digest(folder, kind, *chosen, states[kind]) for kind in kinds})


@lru_cache(maxsize=64)
def _digest(
    folder: Path, kind: str, severities: tuple[int, ...], most: int, seed: int, _state: State | None
) -> str:
    """Hash the copies of a kind, of at most `most` pictures, anew for each state of its file."""
    index = choose_pictures(count_pictures(folder, kind), most, seed)
    return hash_copies(folder, kind, severities, index)


def choose_pictures(count: int, most: int, seed: int) -> Tensor:
    """Choose test pictures at random: all of a small set.

    Returns:
        Their indices, int64, ascending.
    """
    order = torch.randperm(count, generator=generator_for(seed, "corruptions"))
    return order[:most].sort().values


def clean_pictures(data: ImageData, index: Tensor, runtime: Runtime, workers: int) -> Tensor:
    """Return test pictures as they are tested, uint8 (n, channels, size, size), on the CPU."""
    split = data.test.select(index)
    if split.images is not None:
        return split.images
    here = replace(runtime, device=torch.device("cpu"))
    batches = plain_batches(data, split, 256, here, workers)
    return torch.cat([data.normalization.denormalize(pictures) for pictures, _ in batches])
