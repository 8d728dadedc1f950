"""Choose the real pictures, or crops of them, that synthesis starts from."""

from __future__ import annotations

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

CROP_PICTURES = 300  # most pictures of a class that are cropped, unless more are needed
CROPS = 5  # crops of a picture
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
    ipc: int,
    across: int,
    scale: tuple[float, float],
    teachers: Sequence[nn.Module],
    runtime: Runtime,
    workers: int = 0,
) -> Start:
    """Take the crops that the teachers classify best, at most one of a picture, and tile them.

    As in RDED (CVPR 2024): draw 300 pictures of a class and 5 square crops of each. Resize each
    crop to the side of a tile, and pad it with the mean color to the size of a picture. Of each
    picture take the crop with the lowest cross-entropy under the teachers' mean logits, and of
    these crops the lowest of the class. Successive crops in that order share an image.

    Args:
        data: The real pictures.
        ipc: Images per class.
        across: Tiles along a side of an image, which divides its size.
        scale: Range of a crop's share of the picture's area.
        teachers: Networks in eval mode, on the device.
        runtime: Device, precision, seed, progress.
        workers: Processes that decode files.
    """
    side, classes, needed = data.image_size // across, len(data.class_names), ipc * across**2
    index = _drawn_pictures(data, max(CROP_PICTURES, needed), runtime)
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
            best = crop_losses.argmin(dim=1)
            losses.append(crop_losses[torch.arange(count), best])
            boxes.append(drawn[torch.arange(count), best])
            bar.update(count)
    chosen = select_lowest(torch.cat(losses), data.train.labels[index], classes, needed)
    chosen = chosen.view(classes * ipc, across**2)
    return Start(index[chosen], torch.cat(boxes)[chosen])


def select_lowest(losses: Tensor, labels: Tensor, classes: int, ipc: int) -> Tensor:
    """Take the pictures of each class that have the lowest losses.

    Args:
        losses: One a picture, (pictures,).
        labels: Classes of the pictures, int64 (pictures,).
        classes: Number of classes.
        ipc: Pictures per class.

    Returns:
        Indices, class by class, the lowest first, int64 (classes * ipc,). Of pictures that are
        equally good the first is taken.

    Raises:
        DataError: If a class has fewer than `ipc` pictures.
    """
    return torch.cat(
        [
            members[losses[members].argsort(stable=True)[:ipc]]
            for members in class_members(labels, classes, ipc)
        ]
    )


def _drawn_pictures(data: ImageData, limit: int, runtime: Runtime) -> Tensor:
    """Draw at most `limit` training pictures of each class: indices by class, int64 (n,)."""
    generator = runtime.generator("start")
    return torch.cat(
        [
            members[torch.randperm(len(members), generator=generator)[:limit]]
            for members in class_members(data.train.labels, len(data.class_names), 0)
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
