"""A distilled set on disk: images with hard labels, and the soft labels of all their views."""

from __future__ import annotations

import base64
import html
import logging
import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from gvbsm.config.build import images_of
from gvbsm.config.paths import user_path
from gvbsm.data.class_sizes import ipc_of_labels
from gvbsm.data.datasets import ImageData
from gvbsm.data.pixels import Normalization
from gvbsm.files.artifacts import ArtifactError, Recipe, fingerprint, opened, remove_all
from gvbsm.files.schema import ImagesHeader, checked
from gvbsm.files.schema.tensors import check_images
from gvbsm.files.sizes import byte_count
from gvbsm.files.streamed_file import Rows, row_file
from gvbsm.files.tensors import load_tensors
from gvbsm.store.batches import Batch
from gvbsm.store.label_store import is_normalized, label_folders
from gvbsm.store.loader import EpochDataset, EpochLoader
from gvbsm.store.showing.pictures import draw, png
from gvbsm.store.soft_labels import SoftLabels

if TYPE_CHECKING:
    from matplotlib.figure import Figure

log = logging.getLogger("gvbsm")


@dataclass(frozen=True)
class DistilledDataset:
    """A distilled (or selected) set.

    `len` counts its images, an index gives (uint8 image, hard label).

    Attributes:
        images: uint8 (N, channels, height, width), class by class.
        labels: Hard labels, int64 (N,).
        class_names: Name of each class.
        normalization: Mean and standard deviation of the real training pixels.
        soft_labels: The soft labels of all views; None if they are not stored.
        header: The header of the file of images: method, data set, recipe, ...
    """

    images: Tensor
    labels: Tensor
    class_names: tuple[str, ...]
    normalization: Normalization
    soft_labels: SoftLabels | None
    header: dict[str, Any]

    @property
    def counts(self) -> tuple[int, ...]:
        """Images of each class, in the order of `class_names`."""
        return tuple(self.labels.bincount(minlength=len(self.class_names)).tolist())

    @property
    def ipc(self) -> int:
        """Images per class, counting classes with images alone (a sample has the first ones).

        If classes differ, it is the number that most of them have; `counts` has all.
        """
        return int(ipc_of_labels(self.labels, self.class_names)["ipc"])

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.images[index], int(self.labels[index])

    def __repr__(self) -> str:
        channels, height, width = self.images.shape[1:]
        return (
            f"DistilledDataset({self.title}: {len(self)} images of {len(self.class_names)} "
            f"classes, {channels} x {height} x {width} pixels, {self._label_kind()})"
        )

    def _label_kind(self) -> str:
        stored = self.soft_labels
        if stored is None:
            return "hard labels"
        return f"soft labels of {stored.describe()}, {byte_count(stored.nbytes())}"

    def _repr_html_(self) -> str:
        content = base64.b64encode(png(self.images, self.labels)).decode()
        picture = f'<img alt="its first images" src="data:image/png;base64,{content}">'
        return f"<p>{html.escape(repr(self))}</p>{picture}"

    @property
    def title(self) -> str:
        """Name of the data: the user's own if there is one, else that of the data set."""
        return str(self.header.get("title") or self.header.get("dataset") or "no name")

    def show(self, classes: int = 20, columns: int = 10) -> Figure:
        """Draw the images, one row a class, and return matplotlib's figure.

        The last line of a notebook's cell shows it; elsewhere save it with `savefig`.

        Args:
            classes: Most classes.
            columns: Most images of a class.
        """
        return draw(self.images, self.labels, self.class_names, classes, columns)

    def dataset(self) -> Dataset[tuple[Tensor, int]]:
        """A map-style data set of (normalized float image, hard label)."""
        return _HardDataset(self)

    def batches(
        self, epoch: int, batch_size: int | None = None, start: int = 0, device: str = "cpu"
    ) -> Iterator[Batch]:
        """Yield the batches of an epoch as students of `gvbsm train` see them, to the bit.

        A batch holds normalized views, mixed as they were labeled, their soft labels as logits
        (`probabilities()` on request), the hard labels of both mixed images and their shares. A set
        without soft labels gives views of its recorded settings, and logits are None.

        Args:
            epoch: Number of the epoch of training, from 0.
            batch_size: Images in a batch; None takes that of the set's recorded settings.
            start: Number of the first batch.
            device: Where the views are made.

        Raises:
            ValueError: If there are no soft labels for the epoch.
            ArtifactError: If soft labels are missing or damaged.
            ConfigError: If the recorded settings do not fit the set.
        """
        dataset = EpochDataset(self, batch_size, device)
        dataset.set_epoch(epoch)
        return dataset.batches(start)

    def loader(
        self, batch_size: int | None = None, workers: int = 0, device: str = "cpu"
    ) -> EpochLoader:
        """Return a torch data loader of these batches; each pass over it gives the next epoch.

        Its `dataset` is an `IterableDataset` with `set_epoch`, `epochs` the number of epochs that
        students train for, and `loss(outputs, batch)` the loss that they train with.

        Args:
            batch_size: As for `batches`.
            workers: Processes that make the views; 0 makes them in this process.
            device: Where the views are made; the CPU if there are workers.

        Raises:
            ConfigError: As for `batches`.
        """
        return EpochLoader(EpochDataset(self, batch_size, device), workers)


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
    """Load the distilled set of a work directory (`gvbsm.load`).

    Args:
        directory: The work directory.
        logit_normalization: Load the soft labels with (True) or without it (False); None loads
            those of most students.

    Raises:
        ArtifactError: If the directory holds no set or no such labels, or a file is damaged.
    """
    directory = user_path(directory)
    distilled = load_images(directory / "synthesis" / "images.safetensors")
    stores = _labels_of(distilled, directory)
    if logit_normalization is not None:
        stores = [store for store in stores if is_normalized(store) == logit_normalization]
        if not stores:
            word = "with" if logit_normalization else "without"
            raise ArtifactError(f"{directory} holds no soft labels {word} logit normalization")
    return replace(distilled, soft_labels=stores[0] if stores else None)


def _labels_of(distilled: DistilledDataset, directory: Path) -> list[SoftLabels]:
    """The label stores of a work directory that are of its present images."""
    images, stores = fingerprint(distilled.header["recipe"]), []
    for store in map(load_labels, label_folders(directory)):
        if store.recipe.get("images", images) == images:
            stores.append(store)
        else:
            log.warning(
                "the soft labels in %s are left out: they are of images that have been made again "
                "since; `gvbsm labels` with the run's settings makes new ones",
                store.directory,
            )
    return stores


def load_images(path: Path) -> DistilledDataset:
    """Load the set in one file of images, without soft labels.

    Raises:
        ArtifactError: If the file is missing or damaged, or its images, labels and names of
            classes do not agree.
    """
    tensors, header = load_tensors(path, "images")
    entries = checked(ImagesHeader, header, path)
    check_images(path, tensors, entries)
    return DistilledDataset(
        images=tensors["images"],
        labels=tensors["labels"],
        class_names=tuple(entries.class_names),
        normalization=Normalization(tuple(entries.mean), tuple(entries.std)),
        soft_labels=None,
        header=header,
    )


def stream_images(
    path: Path,
    method: str,
    recipe: Recipe,
    labels: Tensor,
    batches: Iterable[tuple[Tensor, Tensor]],
    data: ImageData,
    traces: Sequence[Any] = (),
) -> None:
    """Write a set of images batch by batch, so that it is never in memory as a whole.

    Args:
        path: The file.
        method: The method of the images; `-hard` or `-soft`, the kind of labels, is dropped.
        recipe: The recipe of the images.
        labels: Hard labels, int64 (N,), class by class.
        batches: Indices in the set, int64 (n,), with their images, uint8 (n, channels, size, size).
            Each image comes once; the order is free.
        data: The real data, for the names of the classes and the normalization.
        traces: Terms of the loss in synthesis, one list a group of images.
    """
    header = {**images_header(method, recipe, data), "traces": list(traces)}
    tensors = image_tensors(len(labels), (data.channels, data.image_size, data.image_size))
    with row_file(path, tensors, header) as file:
        file.write("labels", torch.arange(len(labels)), labels)
        for index, images in batches:
            file.write("images", index, images)


def images_header(method: str, recipe: Recipe, data: ImageData) -> dict[str, Any]:
    """Return the header of a set, without its traces; arguments as for `stream_images`."""
    return {
        "kind": "images",
        "recipe": recipe,
        "method": images_of(method),
        "dataset": data.name,
        "class_names": list(data.class_names),
        "mean": list(data.normalization.mean),
        "std": list(data.normalization.std),
    }


def image_tensors(count: int, shape: tuple[int, int, int]) -> dict[str, Rows]:
    """Return the tensors of a file of `count` images of `shape`: channels, height, width."""
    return {"images": Rows(torch.uint8, (count, *shape)), "labels": Rows(torch.int64, (count,))}


def stored_bytes(directory: Path, soft: bool = True, folder: str | None = None) -> dict[str, int]:
    """Bytes of a set: `images` of their pixels, `labels` of the files of its soft labels.

    Args:
        directory: Folder of the set: a work directory, or one of its baselines.
        soft: Count the soft labels. A method with hard labels shares the folder of its images with
            the method with soft labels, and does not use them.
        folder: Name of the folder of the soft labels; None takes those of most students.

    Returns:
        Bytes by name; 0 for what is not stored.
    """
    images = directory / "synthesis" / "images.safetensors"
    pixels = 0
    if images.is_file():
        with opened(images) as file:
            pixels = math.prod(file.get_slice("images").get_shape())  # uint8
    stores = [path for path in label_folders(directory) if soft and folder in (None, path.name)]
    return {"images": pixels, "labels": load_labels(stores[0]).nbytes() if stores else 0}


def load_labels(directory: Path) -> SoftLabels:
    """Open the label store of a folder; some of its shards may not have been made yet.

    Raises:
        ArtifactError: If its index is missing, damaged or newer than this version.
    """
    return SoftLabels.of_folder(directory)


def remove_labels(directory: Path) -> bool:
    """Remove the files of a label store that gvbsm made; return whether there were any.

    The index is removed first, so that after a kill the other files are no store; the next call
    removes them.

    Args:
        directory: The folder of the store; it is removed if it is then empty.
    """
    files = [directory / "index.json", *sorted(directory.glob("shard-*"))]
    removed = remove_all(files)
    if removed:
        with suppress(OSError):  # not empty, or a link
            directory.rmdir()
    return bool(removed)


def is_whole(directory: Path, recipe: Recipe) -> bool:
    """Whether a folder holds all labels of a recipe.

    Raises:
        ArtifactError: If the index is damaged.
    """
    if not (directory / "index.json").is_file():
        return False
    store = load_labels(directory)
    return store.recipe == recipe and not store.missing()
