"""Selection of real pictures: the baselines of every distilled set.

Random, herding, k-center and forgetting are those of the paper's table 5. DeepCore has them within
a training framework, and apricot solves other problems, so they are written here. Each function
takes a number of pictures of each class, and its result depends on its arguments alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Generator, Tensor

from gvbsm.data.pictures import class_members


def select_random(labels: Tensor, counts: Sequence[int], generator: Generator) -> Tensor:
    """Draw pictures of each class without replacement.

    Args:
        labels: Classes of the real pictures, int64 (pictures,).
        counts: Pictures of each class to take, (classes,).
        generator: Source of randomness, on the CPU.

    Returns:
        Indices, class by class, int64 (taken,).

    Raises:
        DataError: If a class has fewer pictures.
    """
    return torch.cat(
        [
            members[torch.randperm(len(members), generator=generator)[:count]]
            for members, count in zip(class_members(labels, counts), counts, strict=True)
        ]
    )


def select_herding(features: Iterable[Tensor], labels: Tensor, counts: Sequence[int]) -> Tensor:
    """Take pictures one by one so that their mean stays as close as possible to the class's mean.

    This is the greedy rule of Welling (ICML 2009) in the form of iCaRL (CVPR 2017, algorithm 4),
    without replacement. iCaRL scales features to length 1 first, which is not done here. DeepCore
    takes the picture that moves the mean farthest away (PatrickZH/DeepCore@4312342,
    deepcore/methods/herding.py: `argmax` of a distance), which is not herding.

    Args:
        features: One vector a picture, in batches of any size, (batch, features) each. Those of a
            class are let go once it is whole: of classes that lie one after the other, as in
            folders, only one is held.
        labels: Classes of the pictures, int64 (pictures,).
        counts: Pictures of each class to take, (classes,).

    Returns:
        Indices, class by class in the order of selection, int64 (taken,). Of pictures that
        are equally good the first is taken.

    Raises:
        DataError: If a class has fewer pictures.
    """
    return select_by(_herding_order, features, labels, counts)


def _herding_order(features: Tensor, count: int) -> list[int]:
    centered = _centered(features)
    squares = centered.square().sum(dim=1)
    total = torch.zeros_like(centered[0])  # of the pictures taken; the aim is 0
    order: list[int] = []
    for _ in range(count):
        # |total + x|^2 without |total|^2, which is the same for all x
        misses = squares + 2 * (centered @ total)
        misses[order] = torch.inf
        order.append(int(misses.argmin()))
        total += centered[order[-1]]
    return order


def select_k_center(features: Iterable[Tensor], labels: Tensor, counts: Sequence[int]) -> Tensor:
    """Take, one by one, the picture of the class that is farthest from those already taken.

    Greedy k-center (Sener & Savarese, ICLR 2018, algorithm 1) in the Euclidean distance, which
    keeps the largest distance of a picture to its nearest center within twice the best possible. It
    starts at the picture nearest to the class's mean; DeepCore starts at a random one.

    Args:
        features: One vector a picture, in batches of any size, (batch, features) each. Those of a
            class are let go once it is whole: of classes that lie one after the other, as in
            folders, only one is held.
        labels: Classes of the pictures, int64 (pictures,).
        counts: Pictures of each class to take, (classes,).

    Returns:
        Indices, class by class in the order of selection, int64 (taken,). Of pictures that
        are equally far the first is taken.

    Raises:
        DataError: If a class has fewer pictures.
    """
    return select_by(_k_center_order, features, labels, counts)


def _k_center_order(features: Tensor, count: int) -> list[int]:
    centered = _centered(features)
    squares = centered.square().sum(dim=1)
    order = [int(squares.argmin())]
    nearest = torch.full_like(squares, torch.inf)  # squared distance to those taken
    while len(order) < count:
        last = order[-1]
        nearest = nearest.minimum(squares + squares[last] - 2 * (centered @ centered[last]))
        nearest[order] = -torch.inf
        order.append(int(nearest.argmax()))
    return order


def select_by(
    order_of: Callable[[Tensor, int], list[int]],
    features: Iterable[Tensor],
    labels: Tensor,
    counts: Sequence[int],
) -> Tensor:
    """Take the first pictures of each class in an order that depends on its features.

    A class is ordered as soon as the features of all its pictures have arrived.

    Args:
        order_of: Takes the features of a class (pictures, features) and a number; returns the
            indices of so many pictures.
        features: One vector a picture, in batches of any size.
        labels: Classes of the pictures, int64 (pictures,).
        counts: Pictures of each class to take, (classes,).

    Raises:
        DataError: If a class has fewer pictures.
    """
    members = list(class_members(labels, counts))
    chosen = [torch.empty(count, dtype=torch.int64) for count in counts]
    class_features: list[list[Tensor]] = [[] for _ in members]
    start = 0
    for batch in features:
        batch_labels = labels[start : start + len(batch)]
        start += len(batch)
        for label in sorted(set(batch_labels.tolist())):
            class_features[label].append(batch[batch_labels == label])
            if sum(map(len, class_features[label])) == len(members[label]):
                order = order_of(torch.cat(class_features[label]), counts[label])
                chosen[label] = members[label][torch.tensor(order)]
                class_features[label].clear()
    return torch.cat(chosen)


def select_forgetting(
    events: Tensor, labels: Tensor, counts: Sequence[int], generator: Generator
) -> Tensor:
    """Take the pictures of each class that were forgotten most often.

    Args:
        events: How often each picture was forgotten, (pictures,); see `forgetting`.
        labels: Classes of the pictures, int64 (pictures,).
        counts: Pictures of each class to take, (classes,).
        generator: Orders pictures that were forgotten equally often, on the CPU.

    Returns:
        Indices, class by class, the most forgotten first, int64 (taken,).

    Raises:
        DataError: If a class has fewer pictures.
    """
    chosen = []
    for members, count in zip(class_members(labels, counts), counts, strict=True):
        shuffled = members[torch.randperm(len(members), generator=generator)]
        chosen.append(shuffled[events[shuffled].argsort(descending=True, stable=True)[:count]])
    return torch.cat(chosen)


def _centered(features: Tensor) -> Tensor:
    """Subtract the mean of features, in float64, so that distances can be computed by products."""
    wide = features.double()
    return wide - wide.mean(dim=0)
