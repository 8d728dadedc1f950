"""Batches of views of real pictures, from memory or from files.

In memory: uint8 pictures are normalized, cropped and mirrored as a batch on the device. From files:
worker processes decode, crop and resize each picture by the view that belongs to (epoch, picture).
What a batch holds depends on its arguments alone, so that a resumed run gets the same batches.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from gvbsm.config import ViewConfig
from gvbsm.data.datasets import ImageData
from gvbsm.data.pictures import Split, read_image, resize_to
from gvbsm.data.pixels import Normalization
from gvbsm.data.views import Views, apply_views, sample_views
from gvbsm.data.workers import streamed
from gvbsm.engine.device import Runtime
from gvbsm.engine.out_of_memory import even_slices
from gvbsm.engine.processes import ALONE, Processes
from gvbsm.engine.seeds import generator_for

Batch = tuple[Tensor, Tensor]

PART_BYTES = 16 * 1024**2  # of pictures that are gathered at a time


def border_color(
    views: ViewConfig, normalization: Normalization, device: torch.device
) -> Tensor | None:
    """Return the color with which `apply_views` fills the border of real and distilled pictures.

    torchvision's RandomCrop in the authors' code pads pictures before they are normalized, which
    gives a black border (G_VBSM@1ed80b0, Branch_CIFAR_100/squeeze/train.py). Images in synthesis
    are always normalized, and their border has the mean color.

    Returns:
        Black, normalized, (1, channels, 1, 1); None is the mean color.
    """
    if views.crop != "pad" or views.border == "mean":
        return None
    return normalization.bounds()[0].to(device)


def batch_count(count: int, batch_size: int) -> int:
    """Count the batches of an epoch; BatchNorm fails on a last batch of one picture: left out."""
    full_batches, remainder = divmod(count, batch_size)
    return full_batches + (remainder > 1 or count == remainder == 1)


def fewest_at_once(count: int, batch_size: int, micro_batch: int | None) -> int:
    """Return the fewest pictures that a network is called with in an epoch of `count` pictures.

    `micro_batch` is the most pictures at once, or None for the whole batch.
    """
    before_last = batch_size * (batch_count(count, batch_size) - 1)
    sizes = [min(batch_size, count), min(batch_size, count - before_last)]
    return min(
        len(range(size)[rows]) for size in sizes for rows in even_slices(size, micro_batch or size)
    )


def split_batches(order: Tensor, batch_size: int) -> tuple[Tensor, ...]:
    """Cut an epoch's order, int64 (count,), into its `batch_count` batches."""
    return torch.split(order, batch_size)[: batch_count(len(order), batch_size)]


def plain_batches(
    data: ImageData,
    split: Split,
    batch_size: int,
    runtime: Runtime,
    workers: int,
    team: Processes = ALONE,
) -> Iterator[Batch]:
    """Yield each picture of a split once, in order (files: short side scaled, center crop).

    The processes of a `team` share the pictures.

    Yields:
        Normalized pictures (batch, channels, size, size) and labels (batch,), on the device.
    """
    indices = torch.arange(len(split))[team.part(len(split))]
    batches = torch.split(indices, batch_size) if len(indices) else ()
    if split.images is None:
        dataset = _Files(split, data, None, seed=0, path=())
        yield from _streamed(dataset, batches, data, runtime, workers)
        return
    for index in batches:
        yield _to_device(split.images[index], split.labels[index], data, runtime)


def training_batches(
    data: ImageData, batch_size: int, runtime: Runtime, path: Sequence[object]
) -> tuple[Tensor, ...]:
    """Draw the order of the training pictures in an epoch, and cut it into batches.

    Args:
        data: The pictures.
        batch_size: Pictures in a batch; the last may be smaller, see `batch_count`.
        runtime: Holds the seed.
        path: What the randomness belongs to, such as ("squeeze", backbone, epoch).

    Returns:
        Indices of the pictures of each batch, int64 (batch,).
    """
    order = torch.randperm(len(data.train), generator=runtime.generator(*path, "order"))
    return split_batches(order, batch_size)


def view_batches(
    data: ImageData,
    views: ViewConfig,
    batches: Sequence[Tensor],
    runtime: Runtime,
    path: Sequence[object],
    workers: int = 0,
) -> Iterator[Batch]:
    """Load views of the training pictures, batch by batch.

    A picture's view depends on the seed, `path` and its index, not on the batch that it is in.

    Args:
        data: The pictures.
        views: The augmentation.
        batches: Indices of the pictures of each batch, int64 (batch,).
        runtime: Device and seed.
        path: What the randomness belongs to, such as ("squeeze", backbone, epoch).
        workers: Processes that decode files.

    Yields:
        Normalized views (batch, channels, size, size) and labels (batch,), on the device.
    """
    views = replace(views, per_sample=True)  # real pictures never share a view
    split, size = data.train, data.image_size
    if split.images is None:
        files = _Files(split, data, views, runtime.seed, tuple(path))
        yield from _streamed(files, batches, data, runtime, workers)
        return
    generator = runtime.generator(*path, "views")
    all_views = sample_views(len(split), size, size, generator, views)
    border = border_color(views, data.normalization, runtime.device)
    for index in batches:
        pictures, labels = _to_device(split.images[index], split.labels[index], data, runtime)
        yield apply_views(pictures, all_views.select(index), border), labels


def _to_device(pictures: Tensor, labels: Tensor, data: ImageData, runtime: Runtime) -> Batch:
    pictures = pictures.to(runtime.device, non_blocking=True)
    return data.normalization.normalize(pictures), labels.to(runtime.device, non_blocking=True)


class PackedPaths:
    """Paths of files as one string of bytes, for the processes that decode them.

    ImageNet's 1.28 million `Path`s would take each of them about half a gigabyte, and seconds to
    get there, at the start of every epoch.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        texts = [os.fsencode(path) for path in paths]
        self._bytes = b"".join(texts)
        self._ends = np.cumsum([0, *map(len, texts)])

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, index: int) -> Path:
        return Path(os.fsdecode(self._bytes[self._ends[index] : self._ends[index + 1]]))


class _Files(Dataset[Batch]):
    """Pictures of a split as uint8 views, decoded when asked for."""

    def __init__(
        self,
        split: Split,
        data: ImageData,
        views: ViewConfig | None,
        seed: int,
        path: tuple[object, ...],
    ) -> None:
        assert split.paths is not None
        files = [path for path in split.paths if isinstance(path, Path)]
        packs = len(files) == len(split.paths)
        self._paths = PackedPaths(files) if packs else split.paths
        self._labels = split.labels
        self._channels, self._size, self._crop = data.channels, data.image_size, split.crop
        self._views, self._seed, self._path = views, seed, path

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, index: int) -> Batch:
        picture = read_image(self._paths[index], self._channels)
        if self._views is not None and self._views.crop == "resized":
            picture = self._random_crop(picture, index)
        else:
            picture = resize_to(picture, self._size, self._crop)
            if self._views is not None:
                picture = self._padded_crop(picture, index)
        return picture, self._labels[index]

    def _sample_view(self, height: int, width: int, index: int) -> Views:
        assert self._views is not None
        generator = generator_for(self._seed, *self._path, index)
        return sample_views(1, height, width, generator, self._views)

    def _random_crop(self, picture: Tensor, index: int) -> Tensor:
        """Crop in the file's own pixels, so that no resolution is lost, and resize the crop."""
        from torchvision.transforms.v2 import functional as transforms  # slow to import

        views = self._sample_view(picture.shape[1], picture.shape[2], index)
        top, left, height, width = views.boxes[0].tolist()
        size = [self._size, self._size]
        picture = picture.roll(views.rolls[0].tolist(), dims=(1, 2))
        picture = transforms.resized_crop(picture, top, left, height, width, size, antialias=True)
        return picture.flip(2) if bool(views.flips[0]) else picture

    def _padded_crop(self, picture: Tensor, index: int) -> Tensor:
        """Take a padded crop; 128 stands for the mean color, which differs by a few gray levels."""
        assert self._views is not None
        views = self._sample_view(self._size, self._size, index)
        outside = torch.tensor(0.0 if self._views.border == "black" else 128.0)
        cropped = apply_views(picture[None].float(), views, outside)[0]
        return cropped.round().clamp(0, 255).to(torch.uint8)


def _streamed(
    files: _Files,
    batches: Sequence[Tensor],
    data: ImageData,
    runtime: Runtime,
    workers: int,
) -> Iterator[Batch]:
    for pictures, labels in streamed(files, batches, runtime, workers):
        yield _to_device(pictures, labels, data, runtime)


def picture_parts(data: ImageData, index: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield resized training pictures, a few megabytes at a time.

    Args:
        data: The real pictures.
        index: Indices of the pictures, int64 (n,).

    Yields:
        Positions in `index`, int64 (m,), and their pictures, uint8 (m, channels, size, size).
    """
    at_once = max(1, PART_BYTES // (data.channels * data.image_size**2))
    for positions in torch.split(torch.arange(len(index)), at_once):
        yield positions, gather_images(data, index[positions])


def gather_images(data: ImageData, index: Tensor) -> Tensor:
    """Return the resized training pictures at `index` (n,), uint8 (n, channels, size, size)."""
    if data.train.images is not None:
        return data.train.images[index]
    assert data.train.paths is not None
    size = (data.image_size, data.image_size)
    images = torch.empty((len(index), data.channels, *size), dtype=torch.uint8)
    for row, position in enumerate(index.tolist()):
        picture = read_image(data.train.paths[position], data.channels)
        images[row] = resize_to(picture, data.image_size)
    return images
