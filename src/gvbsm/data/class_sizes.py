"""Numbers of images and of training pictures of each class.

The images of a set lie class by class. `ImageCounts` says which image is of which class.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from gvbsm.config import Config, ConfigError
from gvbsm.config.keys import closest

SHOWN = 10  # classes that a message lists
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

    Raises:
        ConfigError: If `ipc_of` names a class that is not among them.
    """
    known = {*class_names}
    for name in config.ipc_of:
        if name not in known:
            hint = closest(name, class_names, most=3, form="{!r}")
            more = f" and {len(class_names) - SHOWN} more" if len(class_names) > SHOWN else ""
            raise ConfigError(
                f"ipc_of names {name!r}, which is no class of the data; {hint}the classes are "
                f"{', '.join(map(repr, class_names[:SHOWN]))}{more}"
            )
    return ImageCounts(tuple(config.ipc_of.get(name, config.ipc) for name in class_names))


def settle_ipc(config: Config, class_names: Sequence[str]) -> Config:
    """Return the settings with `ipc_of` in one form: other settings of the same images are equal.

    Its classes are in their order, and those with `ipc` images are left out. If no class has `ipc`
    images, `ipc` becomes the number that most classes have.

    Raises:
        ConfigError: As `image_counts`.
    """
    counts = image_counts(config, class_names).of_class
    ipc = config.ipc if config.ipc in counts else Counter(counts).most_common(1)[0][0]
    others = {name: count for name, count in zip(class_names, counts, strict=True) if count != ipc}
    return replace(config, ipc=ipc, ipc_of=others)


def ipc_of_labels(labels: Tensor, class_names: Sequence[str]) -> dict[str, Any]:
    """Return `ipc`, the number of images that most classes have, and `ipc_of` where others differ.

    Classes without images are left out.

    Args:
        labels: Classes of the images, int64 (images,).
        class_names: Name of each class.
    """
    counts = {name: count for name, count in class_counts(labels, class_names).items() if count}
    ipc = Counter(counts.values()).most_common(1)[0][0]
    others = {name: count for name, count in counts.items() if count != ipc}
    return {"ipc": ipc} | ({"ipc_of": others} if others else {})


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
    """Say which class is at least `HEAVY` times as large as which; empty if none is."""
    ordered = sorted(counts, key=counts.__getitem__)
    small, large = ordered[0], ordered[-1]
    if counts[large] < HEAVY * max(counts[small], 1):
        return ""
    return (
        f"the classes are uneven: {large!r} has {counts[large]:,} training pictures, {small!r} "
        f"{counts[small]:,}"
    )
