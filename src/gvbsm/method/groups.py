"""Groups of images that are optimized together (figure 4), and the classes in each group.

Shapes: a stack holds the images of several groups of equal size, group after group.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from gvbsm.data.class_sizes import ImageCounts

CPU = torch.device("cpu")


def group_indices(
    counts: ImageCounts,
    batch_size: int,
    loop: Literal["reorder", "original"],
    begins: Tensor | None = None,
) -> list[Tensor]:
    """Divide the images, sorted by class, into groups of indices, int64 (at most batch_size,).

    The reorder loop keeps this order, so that a group has several images of few classes. The
    original loop (SRe2L) takes the k-th images of all classes that have one, for each k in turn, so
    that a group has one image of each of its classes, and at most as many images as there are
    classes.

    Args:
        counts: Images of each class.
        batch_size: Largest number of images in a group.
        loop: reorder or original.
        begins: Iteration at which each image starts, int64 (images,). The images of a group start
            together. None: all start at 0.
    """
    begins = torch.zeros(counts.total, dtype=torch.int64) if begins is None else begins
    turns = counts.ranks if loop == "original" else torch.zeros_like(begins)
    groups: list[Tensor] = []
    for begin in sorted(set(begins.tolist())):
        for turn in sorted(set(turns[begins == begin].tolist())):
            images = ((begins == begin) & (turns == turn)).nonzero().flatten()
            groups += torch.split(images, batch_size)
    return groups


class SameSize(NamedTuple):
    """Classes of a stack with the same number of images, at least two.

    Attributes:
        images: The images of each class, int64 (classes, images).
        group: The group of each class, int64 (classes,).
    """

    images: Tensor
    group: Tensor


@dataclass(frozen=True)
class ClassRows:
    """Classes in each group: one row for each pair of a group and a class in it.

    Attributes:
        row: Row of each image, int64 (groups * batch,).
        group: Group of each row, int64 (rows,).
        label: Class of each row, int64 (rows,).
        size: Number of images of each row, float64 (rows,).
        share: One over the number of classes in the row's group, float64 (rows,).
        same_size: Rows of two or more images, by their number of images.
    """

    row: Tensor
    group: Tensor
    label: Tensor
    size: Tensor
    share: Tensor
    same_size: tuple[SameSize, ...]


def class_rows(labels: Tensor, groups: int, device: torch.device = CPU) -> ClassRows:
    """Find the classes in each group of a stack.

    Args:
        labels: Classes of the images, group after group, int64 (groups * batch,) on the CPU.
        groups: Number of groups.
        device: Device of the result.
    """
    group = torch.arange(groups).repeat_interleave(len(labels) // groups)
    pairs, row, count = torch.unique(
        torch.stack([group, labels]), dim=1, return_inverse=True, return_counts=True
    )
    images = torch.split(torch.argsort(row, stable=True), count.tolist())  # of each row
    same_size = tuple(
        SameSize(torch.stack([images[r] for r in rows]).to(device), pairs[0][rows].to(device))
        for size in torch.unique(count).tolist()
        if size > 1
        for rows in [(count == size).nonzero().flatten()]
    )
    group, label = pairs
    share = 1 / torch.bincount(group, minlength=groups).double()[group]
    row, group, label, size, share = (
        tensor.to(device) for tensor in (row, group, label, count.double(), share)
    )
    return ClassRows(row, group, label, size, share, same_size)


@dataclass(frozen=True)
class Stack:
    """Groups of equal size that share each forward and backward pass.

    Attributes:
        numbers: Numbers of the groups, which seed their random draws.
        labels: Classes of the images, group after group, int64 (groups * batch,).
        classes: The classes in each group.
        begin: Iteration at which the images start.
    """

    numbers: tuple[int, ...]
    labels: Tensor
    classes: ClassRows
    begin: int = 0

    @property
    def groups(self) -> int:
        """Number of groups."""
        return len(self.numbers)

    @property
    def batch(self) -> int:
        """Images in a group."""
        return len(self.labels) // len(self.numbers)


def make_stack(
    numbers: Sequence[int], labels: Tensor, device: torch.device, begin: int = 0
) -> Stack:
    """Stack the groups of these numbers, whose images all start at iteration `begin`.

    `labels` are the classes of the images, group after group, int64 (groups * batch,) on the CPU.
    """
    rows = class_rows(labels, len(numbers), device)
    return Stack(tuple(numbers), labels.to(device), rows, begin)
