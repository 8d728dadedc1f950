"""Numbers of images and of training pictures of each class.

The images of a set lie class by class. `ImageCounts` says which image is of which class.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gvbsm.config import Config

HEAVY = 10  # largest class over the smallest one, from which classes count as uneven


@dataclass(frozen=True)
class ImageCounts:
    """Number of images of each class in a set whose images lie class by class.

    Attributes:
        of_class: Images of each class, in the order of the classes, at least 1 each.
    """

    of_class: tuple[int, ...]

    @classmethod
    def even(cls, classes: int, ipc: int) -> ImageCounts:
        """Return the numbers of a set with `ipc` images of each of `classes` classes."""
        return cls((ipc,) * classes)

    @property
    def classes(self) -> int:
        """Number of classes."""
        return len(self.of_class)

    @property
    def total(self) -> int:
        """Images of the set."""
        return sum(self.of_class)

    @property
    def labels(self) -> Tensor:
        """The class of each image, int64 (total,)."""
        return torch.arange(self.classes).repeat_interleave(torch.tensor(self.of_class))

    @property
    def firsts(self) -> Tensor:
        """Index of the first image of each class, int64 (classes,)."""
        counts = torch.tensor(self.of_class)
        return counts.cumsum(0) - counts

    @property
    def ranks(self) -> Tensor:
        """The number of each image within its class, from 0, int64 (total,)."""
        return torch.arange(self.total) - self.firsts[self.labels]


def image_counts(config: Config, class_names: Sequence[str]) -> ImageCounts:
    """Return the number of images of each class that the settings ask for.

    Args:
        config: The settings.
        class_names: Name of each class.
    """
    return ImageCounts.even(len(class_names), config.ipc)


def class_counts(labels: Tensor, class_names: Sequence[str]) -> dict[str, int]:
    """Count the pictures of each class by its name; `labels` is int64 (pictures,)."""
    counts = labels.bincount(minlength=len(class_names)).tolist()
    return dict(zip(class_names, counts, strict=True))


def few_pictures(counts: Mapping[str, int], images: Sequence[int]) -> str:
    """Say how many classes have fewer training pictures than images; empty if none has.

    Args:
        counts: Training pictures by class name.
        images: Images of each class, in the same order.
    """
    few = [
        (count, needed, name)
        for (name, count), needed in zip(counts.items(), images, strict=True)
        if count < needed
    ]
    if not few:
        return ""
    count, needed, name = min(few, key=lambda item: item[0] / item[1])
    return (
        f"{len(few)} of {len(counts)} classes ha{'s' if len(few) == 1 else 've'} fewer training "
        f"pictures than images ({name!r} has {count} for {needed}): starts from real pictures "
        "take other crops of them, and selections of real pictures repeat them"
    )


def uneven_classes(counts: Mapping[str, int]) -> str:
    """Say which class is at least `HEAVY` times as large as which; empty if none is.

    Args:
        counts: Training pictures by class name.
    """
    ordered = sorted(counts, key=counts.__getitem__)
    small, large = ordered[0], ordered[-1]
    if counts[large] < HEAVY * max(counts[small], 1):
        return ""
    return (
        f"the classes are uneven: {large!r} has {counts[large]:,} training pictures, {small!r} "
        f"{counts[small]:,}"
    )
