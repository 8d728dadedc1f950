"""Choose the real pictures, or crops of them, that synthesis starts from."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import Dataset

from gvbsm.config import ViewConfig
from gvbsm.data.datasets import ImageData
from gvbsm.data.loading import plain_batches
from gvbsm.data.pictures import class_members
from gvbsm.data.starts import Start, cut_squares, training_picture
from gvbsm.data.views import sample_views
from gvbsm.data.workers import streamed
from gvbsm.engine.device import Runtime
from gvbsm.engine.seeds import generator_for
from gvbsm.method.losses import ensemble_logits
from gvbsm.stages.selection.coreset import select_random

CROP_PICTURES = 300  # most pictures of a class that are cropped, unless more are needed
CROPS = 5  # crops of a picture
REPEATS = ViewConfig(crop="resized", scale=(0.25, 1.0), ratio=(1.0, 1.0), flip=False)
BATCH = 64  # pictures in a forward pass; the result does not depend on it


class _Crops(Dataset[tuple[Tensor, Tensor, Tensor]]):
    """The crops of each training picture, their boxes and its class."""

    def __init__(self, data: ImageData, side: int, scale: tuple[float, float], seed: int) -> None:
        self._data, self._side, self._seed = data, side, seed
        self._views = ViewConfig(crop="resized", scale=scale, ratio=(1.0, 1.0), flip=False)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor, Tensor]:
        picture = training_picture(self._data, index)
        _, height, width = picture.shape
        generator = generator_for(self._seed, "crops", index)
        boxes = sample_views(CROPS, height, width, generator, self._views).boxes
        return cut_squares(picture, boxes, self._side), boxes, self._data.train.labels[index]


def choose_crops(
    data: ImageData,
    counts: Sequence[int],
    across: int,
    scale: tuple[float, float],
    teachers: Sequence[nn.Module],
    runtime: Runtime,
    workers: int = 0,
) -> Start:
    """Take the crops that the teachers classify best, and tile them.

    As in RDED (CVPR 2024): draw 300 pictures of a class and 5 square crops of each. Resize each
    crop to the side of a tile, and pad it with the mean color to the size of a picture. Of each
    picture take the crop with the lowest cross-entropy under the teachers' mean logits, and of
    these crops the lowest of the class. Successive crops in that order share an image. A class with
    too few pictures also gives the second crops of its pictures, and so on.

    Args:
        data: The real pictures.
        counts: Images of each class.
        across: Tiles along a side of an image, which divides its size.
        scale: Range of a crop's share of the picture's area.
        teachers: Networks in eval mode, on the device.
        runtime: Device, precision, seed, progress.
        workers: Processes that decode files.
    """
    side, needed = data.image_size // across, [count * across**2 for count in counts]
    present = data.train.labels.bincount(minlength=len(needed)).tolist()
    limits = [min(max(CROP_PICTURES, c), n) for c, n in zip(needed, present, strict=True)]
    index = select_random(data.train.labels, limits, runtime.generator("start"))
    frame = [(data.image_size - side) // 2, data.image_size - side - (data.image_size - side) // 2]
    losses, boxes = [], []
    crops = _Crops(data, side, scale, runtime.seed)
    batches = torch.split(index, BATCH)
    # No workers for pictures in memory, since they would be copied to every worker.
    workers = workers if data.train.images is None else 0
    with runtime.progress(len(index), "crops", "picture") as bar, torch.no_grad():
        for cut, drawn, labels in streamed(crops, batches, runtime, workers):
            count = len(labels)
            pictures = data.normalization.normalize(cut.to(runtime.device).flatten(end_dim=1))
            crop_losses = class_losses(
                teachers, F.pad(pictures, frame * 2), labels.repeat_interleave(CROPS), runtime
            ).view(count, CROPS)
            ascending, order = crop_losses.sort(dim=1, stable=True)
            losses.append(ascending)
            boxes.append(drawn[torch.arange(count)[:, None], order])
            bar.update(count)
    pictures, numbers = select_crops(torch.cat(losses), data.train.labels[index], needed).view(
        2, sum(counts), across**2
    )
    return Start(index[pictures], torch.cat(boxes)[pictures, numbers])


def select_crops(losses: Tensor, labels: Tensor, counts: Sequence[int]) -> Tensor:
    """Take the crops of each class that have the lowest losses, of as many pictures as possible.

    Args:
        losses: Of the crops of each picture, ascending, (pictures, crops).
        labels: Classes of the pictures, int64 (pictures,).
        counts: Crops of each class to take, (classes,).

    Returns:
        Picture and number of each crop, class by class, int64 (2, taken): first the best crops of
        the pictures, the lowest first, then their second ones.

    Raises:
        DataError: If a class has fewer crops.
    """
    crops = losses.shape[1]
    chosen = []
    least = [math.ceil(count / crops) for count in counts]
    for members, count in zip(class_members(labels, least), counts, strict=True):
        pictures = torch.cat(
            [members[losses[members, k].argsort(stable=True)] for k in range(crops)]
        )
        numbers = torch.arange(crops).repeat_interleave(len(members))
        chosen.append(torch.stack([pictures[:count], numbers[:count]]))
    return torch.cat(chosen, dim=1)


def repeat_pictures(labels: Tensor, counts: Sequence[int]) -> Tensor:
    """List all pictures, and after them those of small classes again, until there are enough.

    Args:
        labels: Classes of the pictures, int64 (pictures,); each class has a picture at least.
        counts: Least number of entries of each class, (classes,).

    Returns:
        Indices of pictures, int64 (pictures + repeats,).
    """
    repeats = []
    for members, count in zip(class_members(labels, [1] * len(counts)), counts, strict=True):
        missing = max(count - len(members), 0)
        repeats.append(members.repeat(math.ceil(missing / len(members)))[:missing])
    return torch.cat([torch.arange(len(labels)), *repeats])


def start_from(entries: Tensor, listed: Tensor, data: ImageData, runtime: Runtime) -> Start:
    """Start from whole pictures, and from a random square of a picture that is listed again.

    Args:
        entries: Entries of the list, one an image, int64 (images,).
        listed: The list of `repeat_pictures`.
        data: The real pictures.
        runtime: Seed of the squares, of 25 to 100 % of a picture's area.
    """
    pictures, boxes = listed[entries], torch.zeros(len(entries), 1, 4, dtype=torch.int64)
    repeated = (entries >= len(data.train)).nonzero().flatten().tolist()
    if not repeated:
        return Start(pictures[:, None])
    for image in repeated:
        _, height, width = training_picture(data, int(pictures[image])).shape
        generator = generator_for(runtime.seed, "repeated picture", int(entries[image]))
        boxes[image] = sample_views(1, height, width, generator, REPEATS).boxes
    return Start(pictures[:, None], boxes)


def select_lowest(losses: Tensor, labels: Tensor, counts: Sequence[int]) -> Tensor:
    """Take the pictures of each class that have the lowest losses.

    Args:
        losses: One a picture, (pictures,).
        labels: Classes of the pictures, int64 (pictures,).
        counts: Pictures of each class to take, (classes,).

    Returns:
        Indices, class by class, the lowest first, int64 (taken,). Of pictures that are
        equally good the first is taken.

    Raises:
        DataError: If a class has fewer pictures.
    """
    return torch.cat(
        [
            members[losses[members].argsort(stable=True)[:count]]
            for members, count in zip(class_members(labels, counts), counts, strict=True)
        ]
    )


def class_losses(
    teachers: Sequence[nn.Module], pictures: Tensor, labels: Tensor, runtime: Runtime
) -> Tensor:
    """Compute each picture's cross-entropy under the teachers' mean logits, float32 on the CPU.

    Args:
        teachers: Networks in eval mode.
        pictures: Normalized, (batch, channels, height, width), on the device.
        labels: Their classes, int64 (batch,).
        runtime: Precision.
    """
    with torch.no_grad(), runtime.autocast():
        teacher_logits = [teacher(pictures) for teacher in teachers]
    logits = ensemble_logits(teacher_logits, normalize=False)
    return F.cross_entropy(logits, labels.to(logits.device), reduction="none").cpu()


def training_losses(
    data: ImageData, teachers: Sequence[nn.Module], runtime: Runtime, batch: int, workers: int
) -> Tensor:
    """Compute `class_losses` of all training pictures, without augmentation: (pictures,)."""
    losses = []
    with runtime.progress(len(data.train), "losses of the pictures", "picture") as bar:
        for pictures, labels in plain_batches(data, data.train, batch, runtime, workers):
            losses.append(class_losses(teachers, pictures, labels, runtime))
            bar.update(len(labels))
    return torch.cat(losses)
