"""The index of a label store: its shards, its size and its encoding, without its tensors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, Self

from gvbsm.config import LabelStorageConfig
from gvbsm.files.artifacts import (
    ArtifactError,
    Recipe,
    read_header,
    read_json,
    remove_all,
    write_json,
)
from gvbsm.files.schema import LabelIndex, checked

LAYOUT = 2  # version of the format
FOLDER = "labels"
OTHER_FOLDERS = {True: "labels-normalized", False: "labels-plain"}
"""Folders of labels with (True) and without (False) logit normalization, where most differ."""
NUMBERS = ("epochs", "images", "classes", "batch", "shard_epochs", "shard_images")  # of an index
STORAGE = "storage"  # entry of a recipe with the settings `labels.storage`


class Field(NamedTuple):
    """An integer of known range inside a packed row.

    Attributes:
        name: Name of its column.
        low: Its least value.
        bits: Bits that hold its distance from `low`; 0 if it is always `low`.
    """

    name: str
    low: int
    bits: int


@dataclass(frozen=True)
class Shard:
    """A file of a store: whole epochs, or a part of one epoch.

    Attributes:
        path: The file.
        epochs: Its epochs.
        start: First position in the order of each epoch.
        stop: End of the positions, exclusive.
    """

    path: Path
    epochs: tuple[int, ...]
    start: int
    stop: int


@dataclass(frozen=True)
class LabelStore:
    """What the index of a store says.

    Attributes:
        directory: The folder.
        epochs: Epochs of the training.
        images: Images of the set.
        classes: Number of classes.
        kept: The epochs that are stored: all, unless the store is pruned.
        storage: Pruning, top k and bits of the logits.
        fields: The bit fields of a row of `views`.
        batch: Images in a batch of labeling; a part of an epoch is a number of batches.
        shard_epochs: Epochs in a shard.
        shard_images: Images of an epoch in a shard; less than `images` only if `shard_epochs` is 1.
        recipe: The recipe of the labels.
    """

    directory: Path
    epochs: int
    images: int
    classes: int
    kept: tuple[int, ...]
    storage: LabelStorageConfig
    fields: tuple[Field, ...]
    batch: int
    shard_epochs: int
    shard_images: int
    recipe: Recipe

    # Shards.

    @property
    def shards_per_epoch(self) -> int:
        """Shards of one epoch; 1 if a shard holds whole epochs."""
        return -(-self.images // self.shard_images)

    @cached_property
    def shards(self) -> tuple[Shard, ...]:
        """All shards, those that have not been made included."""
        tag = _tag(self.storage)
        shards: list[Shard] = []
        for first in range(0, len(self.kept), self.shard_epochs):
            epochs = self.kept[first : first + self.shard_epochs]
            for start in range(0, self.images, self.shard_images):
                path = self.directory / f"shard-{tag}{len(shards):05d}.safetensors"
                stop = min(start + self.shard_images, self.images)
                shards.append(Shard(path, epochs, start, stop))
        return tuple(shards)

    def missing(self) -> list[Shard]:
        """The shards that have not been made yet."""
        return [shard for shard in self.shards if not shard.path.is_file()]

    def nbytes(self) -> int:
        """Bytes on disk of the shards that have been made."""
        paths = (shard.path for shard in self.shards)
        return sum(path.stat().st_size for path in paths if path.is_file())

    def describe(self) -> str:
        """The epochs of the store and the encoding of its logits, in words."""
        pruned = f"{len(self.kept)} of " if len(self.kept) < self.epochs else ""
        words = [f"{pruned}{self.epochs} epochs"]
        if self.storage.top_k is not None:
            words.append(f"the {self.storage.top_k} largest logits")
        if self.storage.bits < 16:
            words.append(f"{self.storage.bits} bits")
        return ", ".join(words)

    def batches(self, shard: Shard) -> int:
        """Number of batches in a shard."""
        return len(shard.epochs) * -(-(shard.stop - shard.start) // self.batch)

    def is_made(self, shard: Shard) -> bool:
        """Whether the shard exists with this recipe and layout."""
        if not shard.path.is_file():
            return False
        try:
            header = read_header(shard.path)
        except ArtifactError:
            return False
        return header.get("recipe") == self.recipe and header.get("layout") == LAYOUT

    def index(self) -> dict[str, Any]:
        """The content of `index.json`."""
        return {
            "layout": LAYOUT,
            "recipe": self.recipe,
            **{name: getattr(self, name) for name in NUMBERS},
            "kept": "all" if len(self.kept) == self.epochs else list(self.kept),
            "storage": asdict(self.storage),
            "fields": [list(field) for field in self.fields],
            "files": [shard.path.name for shard in self.shards],
        }

    def write_index(self) -> None:
        """Write the index, which makes this the store of the folder."""
        write_json(self.directory / "index.json", self.index())

    def tidy(self) -> None:
        """Remove the shards of other stores from the folder, where gvbsm made them."""
        current = {shard.path for shard in self.shards if self.is_made(shard)}
        remove_all(set(self.directory.glob("shard-*")) - current)

    @classmethod
    def of_folder(cls, directory: Path) -> Self:
        """Open the store of a folder; some of its shards may not have been made yet.

        Raises:
            ArtifactError: If its index is missing, damaged or newer than this version.
        """
        path = directory / "index.json"
        return cls.of_index(directory, read_json(path), path)

    @classmethod
    def of_index(cls, directory: Path, index: Mapping[str, Any], path: Path) -> Self:
        """Return the store that an index describes.

        Raises:
            ArtifactError: If an entry is not valid, or the layout is newer than this version reads.
        """
        layout = index.get("layout")
        if type(layout) is int and layout > LAYOUT:
            raise ArtifactError(
                f"{path} has layout {layout}, this gvbsm reads up to {LAYOUT}: upgrade gvbsm"
            )
        entries = checked(LabelIndex, index, path)
        return cls(
            directory=directory,
            kept=tuple(range(entries.epochs) if entries.kept == "all" else entries.kept),
            storage=LabelStorageConfig(**entries.storage.model_dump()),
            fields=tuple(Field(*field) for field in entries.fields),
            recipe=entries.recipe,
            **{name: getattr(entries, name) for name in NUMBERS},
        )


def label_folders(directory: Path) -> list[Path]:
    """List the label stores of a set; the first is that of most students.

    Args:
        directory: Folder of the set: a work directory, or one of its baselines.
    """
    folders = (directory / name for name in (FOLDER, *OTHER_FOLDERS.values()))
    return [folder for folder in folders if (folder / "index.json").is_file()]


def is_normalized(store: LabelStore) -> bool | None:
    """Return whether labels have logit normalization; None if their recipe does not say."""
    labels = store.recipe.get("labels")
    value = labels.get("logit_normalization") if isinstance(labels, Mapping) else None
    return value if isinstance(value, bool) else None


def _tag(storage: LabelStorageConfig) -> str:
    """Part of a shard's name that differs between a store and one that is converted from it."""
    words = [f"pool{storage.pruning:g}"] if storage.pruning > 1 else []
    words += [] if storage.top_k is None else [f"top{storage.top_k}"]
    words += [f"{storage.bits}bit"] if storage.bits < 16 else []
    return "".join(f"{word}-" for word in words)
