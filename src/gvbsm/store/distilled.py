"""A distilled set on disk: images with hard labels, and the soft labels of all their views."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from gvbsm.config import LabelStorageConfig
from gvbsm.config.paths import user_path
from gvbsm.data.datasets import ImageData
from gvbsm.data.pixels import Normalization
from gvbsm.files.artifacts import (
    ArtifactError,
    Recipe,
    is_ours,
    load_tensors,
    opened,
    read_json,
    remove_all,
)
from gvbsm.files.schema import ImagesHeader, LabelIndex, check_images, checked
from gvbsm.files.streamed_file import Rows, row_file
from gvbsm.store.label_codec import Field
from gvbsm.store.soft_labels import FOLDER, LAYOUT, OTHER_FOLDERS, SoftLabels


@dataclass(frozen=True)
class DistilledDataset:
    """A distilled (or selected) set.

    Attributes:
        images: uint8 (N, channels, height, width), class by class.
        labels: Hard labels, int64 (N,).
        class_names: Name of each class.
        normalization: Mean and standard deviation of the real training pixels.
        soft_labels: The labels of all views, where they are stored.
        header: What else the file says: method, data set, recipe.
    """

    images: Tensor
    labels: Tensor
    class_names: tuple[str, ...]
    normalization: Normalization
    soft_labels: SoftLabels | None
    header: dict[str, Any]

    @property
    def ipc(self) -> int:
        """Images of each class that has any: a sample may be of the first classes alone."""
        return len(self.labels) // len(set(self.labels.tolist()))

    def dataset(self) -> Dataset[tuple[Tensor, int]]:
        """A map-style data set of (normalized float image, hard label)."""
        return _HardDataset(self)


class _HardDataset(Dataset[tuple[Tensor, int]]):
    def __init__(self, distilled: DistilledDataset) -> None:
        self._distilled = distilled

    def __len__(self) -> int:
        return len(self._distilled.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        image = self._distilled.normalization.normalize(self._distilled.images[index])
        return image, int(self._distilled.labels[index])


def load_distilled(
    directory: str | Path, logit_normalization: bool | None = None
) -> DistilledDataset:
    """The distilled set of a work directory (`gvbsm.load`).

    Args:
        directory: The work directory.
        logit_normalization: Take the soft labels that were made with it, or without; None takes
            those of most students.

    Raises:
        ArtifactError: If the directory holds none, or a damaged one.
    """
    directory = user_path(directory)
    stores = list(map(load_labels, label_folders(directory)))
    if logit_normalization is not None:
        stores = [store for store in stores if is_normalized(store) == logit_normalization]
        if not stores:
            how = "with" if logit_normalization else "without"
            raise ArtifactError(f"{directory} holds no soft labels {how} logit normalization")
    soft_labels = stores[0] if stores else None
    return load_images(directory / "synthesis" / "images.safetensors", soft_labels)


def label_folders(directory: Path) -> list[Path]:
    """List the label stores of a set; the first is that of most students.

    Args:
        directory: Where the set lies: a work directory, or one of its baselines.
    """
    folders = (directory / name for name in (FOLDER, *OTHER_FOLDERS.values()))
    return [folder for folder in folders if (folder / "index.json").is_file()]


def is_normalized(store: SoftLabels) -> bool | None:
    """Return whether labels have logit normalization; None if their recipe does not say."""
    labels = store.recipe.get("labels")
    value = labels.get("logit_normalization") if isinstance(labels, Mapping) else None
    return value if isinstance(value, bool) else None


def load_images(path: Path, soft_labels: SoftLabels | None = None) -> DistilledDataset:
    """The set in one file of images.

    Raises:
        ArtifactError: If the file is missing or damaged, or its images, labels and names of
            classes do not agree.
    """
    tensors, header = load_tensors(path, "images")
    found = checked(ImagesHeader, header, path)
    check_images(path, tensors, found)
    return DistilledDataset(
        images=tensors["images"],
        labels=tensors["labels"],
        class_names=tuple(found.class_names),
        normalization=Normalization(tuple(found.mean), tuple(found.std)),
        soft_labels=soft_labels,
        header=header,
    )


def save_images(
    path: Path,
    method: str,
    recipe: Recipe,
    images: Tensor,
    labels: Tensor,
    data: ImageData,
    traces: Sequence[Any] = (),
) -> None:
    """Write a set of images that is in memory; see `stream_images`."""
    part = torch.arange(len(images)), images
    stream_images(path, method, recipe, labels, [part], data, traces)


def stream_images(
    path: Path,
    method: str,
    recipe: Recipe,
    labels: Tensor,
    parts: Iterable[tuple[Tensor, Tensor]],
    data: ImageData,
    traces: Sequence[Any] = (),
) -> None:
    """Write a set of images, part by part, with all that its reader needs to know.

    Args:
        path: The file.
        method: How the images came about; what labels they are trained with is none of it.
        recipe: What they are made from.
        labels: Hard labels, int64 (N,), class by class.
        parts: Places in the set, int64 (n,), with the images there, uint8 (n, channels, size,
            size); in any order, each image once.
        data: The real data, for names, mean and deviation.
        traces: The terms of synthesis, for each group of images.
    """
    header = {**images_header(method, recipe, data), "traces": list(traces)}
    tensors = image_tensors(len(labels), (data.channels, data.image_size, data.image_size))
    with row_file(path, tensors, header) as file:
        file.write("labels", torch.arange(len(labels)), labels)
        for places, images in parts:
            file.write("images", places, images)


def images_header(method: str, recipe: Recipe, data: ImageData) -> dict[str, Any]:
    """Return the header of a set of images, without its traces.

    Args:
        method: How the images were made; the labels that they are trained with do not count.
        recipe: What they are made from.
        data: The real data, for names, mean and deviation.
    """
    return {
        "kind": "images",
        "recipe": recipe,
        "method": method.removesuffix("-hard").removesuffix("-soft"),
        "dataset": data.name,
        "class_names": list(data.class_names),
        "mean": list(data.normalization.mean),
        "std": list(data.normalization.std),
    }


def image_tensors(count: int, shape: tuple[int, int, int]) -> dict[str, Rows]:
    """Return the tensors of a file of `count` images of `shape`: channels, height, width."""
    return {"images": Rows(torch.uint8, (count, *shape)), "labels": Rows(torch.int64, (count,))}


def stored_bytes(directory: Path, soft: bool = True, folder: str | None = None) -> dict[str, int]:
    """Bytes that a set takes: `images` their pixels, `labels` the files of its soft labels.

    Args:
        directory: Where the set lies: a work directory, or one of its baselines.
        soft: Whether students learn from its soft labels. Those that lie beside hard ones belong to
            another method of the same images.
        folder: Name of the folder of the soft labels; None takes those of most students.

    Returns:
        0 for what is not there, as the labels that teachers give during training.
    """
    images = directory / "synthesis" / "images.safetensors"
    pixels = 0
    if images.is_file():
        with opened(images) as file:
            pixels = math.prod(file.get_slice("images").get_shape())  # uint8
    stores = [path for path in label_folders(directory) if soft and folder in (None, path.name)]
    return {"images": pixels, "labels": load_labels(stores[0]).nbytes() if stores else 0}


def load_labels(directory: Path) -> SoftLabels:
    """The soft labels of a `labels` folder, of which some may not have been made yet.

    Raises:
        ArtifactError: If its index is missing, damaged or newer than this version.
    """
    path = directory / "index.json"
    return store_of(directory, read_json(path), path)


def store_of(directory: Path, index: Mapping[str, Any], path: Path) -> SoftLabels:
    """The store that an index describes.

    Args:
        directory: The folder of its shards.
        index: What `index.json` holds.
        path: The file that the index was read from.

    Raises:
        ArtifactError: If an entry does not fit, or it is newer than this version.
    """
    layout = index.get("layout")
    if type(layout) is int and layout > LAYOUT:
        raise ArtifactError(
            f"{path} has layout {layout}, this gvbsm reads up to {LAYOUT}: upgrade gvbsm"
        )
    found = checked(LabelIndex, index, path)
    return SoftLabels(
        directory=directory,
        epochs=found.epochs,
        images=found.images,
        classes=found.classes,
        kept=tuple(range(found.epochs) if found.kept == "all" else found.kept),
        storage=LabelStorageConfig(**found.storage.model_dump()),
        fields=tuple(Field(*field) for field in found.fields),
        batch=found.batch,
        shard_epochs=found.shard_epochs,
        shard_images=found.shard_images,
        recipe=found.recipe,
    )


def remove_labels(directory: Path) -> bool:
    """Remove the files of a label store that gvbsm made; return whether there were any.

    The index goes first: what is left after a kill is no store, and goes the next time.

    Args:
        directory: The folder of the store; it is removed if nothing else lies in it.
    """
    files = [directory / "index.json", *sorted(directory.glob("shard-*"))]
    made = [path for path in files if is_ours(path)]
    remove_all(made)
    if made:
        with suppress(OSError):  # not empty, or a link
            directory.rmdir()
    return bool(made)


def is_whole(directory: Path, recipe: Recipe) -> bool:
    """Whether all labels of this recipe are there.

    Raises:
        ArtifactError: If the index is damaged.
    """
    if not (directory / "index.json").is_file():
        return False
    store = load_labels(directory)
    return store.recipe == recipe and not store.missing()
