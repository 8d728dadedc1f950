"""Selection of real pictures, the baseline that every distilled set is reported beside."""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from gvbsm.datasets import ImageData
from gvbsm.pictures import DataError, read_image, resize_to


def select_random(labels: Tensor, classes: int, ipc: int, generator: Generator) -> Tensor:
    """Draw `ipc` pictures of each class without replacement.

    Args:
        labels: Classes of the real pictures, int64 (pictures,).
        classes: Number of classes.
        ipc: Pictures per class.
        generator: Source of randomness, on the CPU.

    Returns:
        Indices, class by class, int64 (classes * ipc,).

    Raises:
        DataError: If a class has fewer than `ipc` pictures.
    """
    chosen = []
    for label in range(classes):
        members = (labels == label).nonzero().squeeze(1)
        if len(members) < ipc:
            raise DataError(
                f"class {label} has {len(members)} training pictures, fewer than ipc={ipc}; lower "
                "ipc, or leave the random baselines out (--baselines.methods '[full]')"
            )
        chosen.append(members[torch.randperm(len(members), generator=generator)[:ipc]])
    return torch.cat(chosen)


def gather_images(data: ImageData, index: Tensor) -> Tensor:
    """The training pictures at `index` (n,), brought to size: uint8 (n, channels, size, size)."""
    if data.train.images is not None:
        return data.train.images[index]
    assert data.train.paths is not None
    paths = [data.train.paths[position] for position in index.tolist()]
    return torch.stack(
        [resize_to(read_image(path, data.channels), data.image_size) for path in paths]
    )
