"""Selection of real pictures: the baselines of every distilled set.

Random, herding, k-center and forgetting are those of the paper's table 5. DeepCore has them within
a training framework, and apricot solves other problems, so they are written here. Each function
takes `ipc` pictures of every class, and its result depends on its arguments alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Generator, Tensor

from gvbsm.data.pictures import class_members


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
    return torch.cat(
        [
            members[torch.randperm(len(members), generator=generator)[:ipc]]
            for members in class_members(labels, classes, ipc)
        ]
    )


def select_herding(features: Iterable[Tensor], labels: Tensor, classes: int, ipc: int) -> Tensor:
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
        classes: Number of classes.
        ipc: Pictures per class.

    Returns:
        Indices, class by class in the order of selection, int64 (classes * ipc,). Of pictures that
        are equally good the first is taken.

    Raises:
        DataError: If a class has fewer than `ipc` pictures.
    """
    return select_by(_herding_order, features, labels, classes, ipc)


def _herding_order(features: Tensor, ipc: int) -> list[int]:
    centered = _centered(features)
    squares = centered.square().sum(dim=1)
    total = torch.zeros_like(centered[0])  # of the pictures taken; the aim is 0
    order: list[int] = []
    for _ in range(ipc):
        # |total + x|^2 without |total|^2, which is the same for all x
        misses = squares + 2 * (centered @ total)
        misses[order] = torch.inf
        order.append(int(misses.argmin()))
        total += centered[order[-1]]
    return order


def select_k_center(features: Iterable[Tensor], labels: Tensor, classes: int, ipc: int) -> Tensor:
    """Take, one by one, the picture of the class that is farthest from those already taken.

    Greedy k-center (Sener & Savarese, ICLR 2018, algorithm 1) in the Euclidean distance, which
    keeps the largest distance of a picture to its nearest center within twice the best possible. It
    starts at the picture nearest to the class's mean; DeepCore starts at a random one.

    Args:
        features: One vector a picture, in batches of any size, (batch, features) each. Those of a
            class are let go once it is whole: of classes that lie one after the other, as in
            folders, only one is held.
        labels: Classes of the pictures, int64 (pictures,).
        classes: Number of classes.
        ipc: Pictures per class.

    Returns:
        Indices, class by class in the order of selection, int64 (classes * ipc,). Of pictures that
        are equally far the first is taken.

    Raises:
        DataError: If a class has fewer than `ipc` pictures.
    """
    return select_by(_k_center_order, features, labels, classes, ipc)


def _k_center_order(features: Tensor, ipc: int) -> list[int]:
    centered = _centered(features)
    squares = centered.square().sum(dim=1)
    order = [int(squares.argmin())]
    nearest = torch.full_like(squares, torch.inf)  # squared distance to those taken
    while len(order) < ipc:
        last = order[-1]
        nearest = nearest.minimum(squares + squares[last] - 2 * (centered @ centered[last]))
        nearest[order] = -torch.inf
        order.append(int(nearest.argmax()))
    return order


def select_by(
    order_of: Callable[[Tensor, int], list[int]],
    features: Iterable[Tensor],
    labels: Tensor,
    classes: int,
    ipc: int,
) -> Tensor:
    """Take the first `ipc` pictures of each class in an order that depends on its features.

    A class is ordered as soon as the features of all its pictures have arrived.

    Args:
        order_of: Takes the features of a class (pictures, features) and `ipc`; returns the indices
            of at least `ipc` pictures.
        features: One vector a picture, in batches of any size.
        labels: Classes of the pictures, int64 (pictures,).
        classes: Number of classes.
        ipc: Pictures per class.

    Raises:
        DataError: If a class has fewer than `ipc` pictures.
    """
    members = list(class_members(labels, classes, ipc))
    chosen = torch.empty(classes, ipc, dtype=torch.int64)
    class_features: list[list[Tensor]] = [[] for _ in members]
    start = 0
    for batch in features:
        batch_labels = labels[start : start + len(batch)]
        start += len(batch)
        for label in sorted(set(batch_labels.tolist())):
            class_features[label].append(batch[batch_labels == label])
            if sum(map(len, class_features[label])) == len(members[label]):
                order = order_of(torch.cat(class_features[label]), ipc)
                chosen[label] = members[label][torch.tensor(order)]
                class_features[label].clear()
    return chosen.flatten()


def select_forgetting(
    events: Tensor, labels: Tensor, classes: int, ipc: int, generator: Generator
) -> Tensor:
    """Take the pictures of each class that were forgotten most often.

    Args:
        events: How often each picture was forgotten, (pictures,); see `forgetting`.
        labels: Classes of the pictures, int64 (pictures,).
        classes: Number of classes.
        ipc: Pictures per class.
        generator: Orders pictures that were forgotten equally often, on the CPU.

    Returns:
        Indices, class by class, the most forgotten first, int64 (classes * ipc,).

    Raises:
        DataError: If a class has fewer than `ipc` pictures.
    """
    chosen = []
    for members in class_members(labels, classes, ipc):
        shuffled = members[torch.randperm(len(members), generator=generator)]
        chosen.append(shuffled[events[shuffled].argsort(descending=True, stable=True)[:ipc]])
    return torch.cat(chosen)


def _centered(features: Tensor) -> Tensor:
    """Subtract the mean of features, in float64, so that distances can be computed by products."""
    wide = features.double()
    return wide - wide.mean(dim=0)
