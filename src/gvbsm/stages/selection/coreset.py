"""Selection of real pictures, the baselines that every distilled set is reported beside.

Random, herding, k-center and forgetting are the four of the paper's table 5. The libraries that
offer them (DeepCore, apricot) bring a training framework, or solve another problem: hence our own.
Each picks `ipc` pictures of every class by itself; which ones depends on the arguments alone.
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
    """Take pictures one by one so that the mean of those taken stays closest to the class's mean.

    The greedy rule of Welling (ICML 2009) in the form of iCaRL (CVPR 2017, algorithm 4), without
    replacement. iCaRL scales each picture's features to length 1 first; here they are as they come.
    DeepCore takes the picture that brings the mean farthest away (PatrickZH/DeepCore@4312342,
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
    return _select_by(_herding_order, features, labels, classes, ipc)


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
    """Take, one by one, the picture of the class that is farthest from all those taken.

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
    return _select_by(_k_center_order, features, labels, classes, ipc)


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


def _select_by(
    order_of: Callable[[Tensor, int], list[int]],
    features: Iterable[Tensor],
    labels: Tensor,
    classes: int,
    ipc: int,
) -> Tensor:
    """Choose `ipc` pictures of each class, once all its features are there, by their order."""
    members = list(class_members(labels, classes, ipc))
    chosen = torch.empty(classes, ipc, dtype=torch.int64)
    parts: list[list[Tensor]] = [[] for _ in members]
    start = 0
    for batch in features:
        own = labels[start : start + len(batch)]
        start += len(batch)
        for label in sorted(set(own.tolist())):
            parts[label].append(batch[own == label])
            if sum(map(len, parts[label])) == len(members[label]):
                order = order_of(torch.cat(parts[label]), ipc)
                chosen[label] = members[label][torch.tensor(order)]
                parts[label].clear()
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
        generator: Decides between pictures that were forgotten as often, on the CPU.

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
    """Features less their mean, in float64, so that distances may be formed from products."""
    wide = features.double()
    return wide - wide.mean(dim=0)
