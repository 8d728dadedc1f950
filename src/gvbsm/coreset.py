"""Selection of real pictures, the baselines that every distilled set is reported beside.

Random, herding, k-center and forgetting are the four of the paper's table 5. The libraries that
offer them (DeepCore, apricot) bring a training framework, or solve another problem: hence our own.
Each picks `ipc` pictures of every class by itself; which ones depends on the arguments alone.
"""

from __future__ import annotations

from collections.abc import Iterator

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
    return torch.cat([
        members[torch.randperm(len(members), generator=generator)[:ipc]]
        for members in _members(labels, classes, ipc)
    ])  # fmt: skip


def select_herding(features: Tensor, labels: Tensor, classes: int, ipc: int) -> Tensor:
    """Take pictures one by one so that the mean of those taken stays closest to the class's mean.

    The greedy rule of Welling (ICML 2009) in the form of iCaRL (CVPR 2017, algorithm 4), without
    replacement. iCaRL scales each picture's features to length 1 first; here they are as they come.
    DeepCore takes the picture that brings the mean farthest away (PatrickZH/DeepCore@4312342,
    deepcore/methods/herding.py: `argmax` of a distance), which is not herding.

    Args:
        features: One vector a picture, (pictures, features).
        labels: Classes of the pictures, int64 (pictures,).
        classes: Number of classes.
        ipc: Pictures per class.

    Returns:
        Indices, class by class in the order of selection, int64 (classes * ipc,). Of pictures that
        are equally good the first is taken.

    Raises:
        DataError: If a class has fewer than `ipc` pictures.
    """
    chosen = []
    for members in _members(labels, classes, ipc):
        centered = _centered(features[members])
        squares = centered.square().sum(dim=1)
        total = torch.zeros_like(centered[0])  # of the pictures taken; the aim is 0
        order: list[int] = []
        for _ in range(ipc):
            # |total + x|^2 without |total|^2, which is the same for all x
            misses = squares + 2 * (centered @ total)
            misses[order] = torch.inf
            order.append(int(misses.argmin()))
            total += centered[order[-1]]
        chosen.append(members[order])
    return torch.cat(chosen)


def select_k_center(features: Tensor, labels: Tensor, classes: int, ipc: int) -> Tensor:
    """Take, one by one, the picture of the class that is farthest from all those taken.

    Greedy k-center (Sener & Savarese, ICLR 2018, algorithm 1) in the Euclidean distance, which
    keeps the largest distance of a picture to its nearest center within twice the best possible. It
    starts at the picture nearest to the class's mean; DeepCore starts at a random one.

    Args:
        features: One vector a picture, (pictures, features).
        labels: Classes of the pictures, int64 (pictures,).
        classes: Number of classes.
        ipc: Pictures per class.

    Returns:
        Indices, class by class in the order of selection, int64 (classes * ipc,). Of pictures that
        are equally far the first is taken.

    Raises:
        DataError: If a class has fewer than `ipc` pictures.
    """
    chosen = []
    for members in _members(labels, classes, ipc):
        centered = _centered(features[members])
        squares = centered.square().sum(dim=1)
        order = [int(squares.argmin())]
        nearest = torch.full_like(squares, torch.inf)  # squared distance to those taken
        while len(order) < ipc:
            last = order[-1]
            nearest = nearest.minimum(squares + squares[last] - 2 * (centered @ centered[last]))
            nearest[order] = -torch.inf
            order.append(int(nearest.argmax()))
        chosen.append(members[order])
    return torch.cat(chosen)


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
    for members in _members(labels, classes, ipc):
        shuffled = members[torch.randperm(len(members), generator=generator)]
        chosen.append(shuffled[events[shuffled].argsort(descending=True, stable=True)[:ipc]])
    return torch.cat(chosen)


def _members(labels: Tensor, classes: int, ipc: int) -> Iterator[Tensor]:
    """Indices of each class's pictures; DataError if they are fewer than `ipc`."""
    for label in range(classes):
        members = (labels == label).nonzero().squeeze(1)
        if len(members) < ipc:
            raise DataError(
                f"class {label} has {len(members)} training pictures, fewer than ipc={ipc}; lower "
                "ipc, or leave out the methods that select pictures (--baselines.methods '[full]')"
            )
        yield members


def _centered(features: Tensor) -> Tensor:
    """Features less their mean, in float64, so that distances may be formed from products."""
    wide = features.double()
    return wide - wide.mean(dim=0)


def gather_images(data: ImageData, index: Tensor) -> Tensor:
    """The training pictures at `index` (n,), brought to size: uint8 (n, channels, size, size)."""
    if data.train.images is not None:
        return data.train.images[index]
    assert data.train.paths is not None
    paths = [data.train.paths[position] for position in index.tolist()]
    return torch.stack(
        [resize_to(read_image(path, data.channels), data.image_size) for path in paths]
    )
