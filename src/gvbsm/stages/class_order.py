"""Whether pre-trained weights and the data number the classes alike, judged by a few pictures.

Weights know classes by number, data by folder. A wrong order spoils everything that follows and
shows in no loss, so it is looked for before any work. What it finds is an order that is wrong for
most classes, as folders under readable names have it, not two classes that have changed places.
"""

from __future__ import annotations

import math

import torch
from torch import Generator, Tensor, nn

from gvbsm.data.datasets import ImageData
from gvbsm.data.loading import plain_batches
from gvbsm.data.pictures import DataError
from gvbsm.engine.device import Runtime
from gvbsm.engine.out_of_memory import InParts

CLASSES, PICTURES = 64, 4  # that are looked at, and pictures of each
BATCH = 64


def check_class_order(
    model: nn.Module, backbone: str, data: ImageData, runtime: Runtime, workers: int = 0
) -> None:
    """Compare a network's predictions for some training and test pictures with their labels.

    Args:
        model: A network of the data's classes, on its device; left in eval mode.
        backbone: Its name.
        data: The real pictures.
        runtime: Device, precision, seed.
        workers: Processes that decode pictures.

    Raises:
        DataError: If the network does no better than chance, or would do far better if the classes
            were numbered otherwise.
    """
    answer = InParts(model.eval())
    classes = len(data.class_names)
    for name, split in (("training", data.train), ("test", data.test)):
        generator = runtime.generator("class order", name)
        few = split.select(sample_places(split.labels, classes, generator))
        with torch.inference_mode(), runtime.autocast():
            predicted = torch.cat(
                [
                    answer(pictures).argmax(dim=1).cpu()
                    for pictures, _ in plain_batches(data, few, BATCH, runtime, workers)
                ]
            )
        if (fault := find_fault(predicted, few.labels, classes)) is None:
            continue
        mode, label = _example(predicted, few.labels)
        names = data.class_names
        raise DataError(
            f"{backbone}: its weights and the class folders do not agree: of {len(predicted)} "
            f"{name} pictures {fault}. Class {names[label]!r} (index {label}) is predicted as "
            f"index {mode}, which is {names[mode]!r} here. Likely the folders are not in the order "
            "of the weights' classes (for ImageNet: folders named n01440764 and so on, which are "
            "taken in the order of their names), else the pictures are in wrong folders"
        )


def sample_places(labels: Tensor, classes: int, generator: Generator) -> Tensor:
    """Places of a few pictures of a few classes, drawn.

    Args:
        labels: Classes of the pictures, int64 (pictures,).
        classes: Number of classes.
        generator: Source of randomness, on the CPU.

    Returns:
        int64 (at most 64 * 4,), class by class.
    """
    places = []
    for label in torch.randperm(classes, generator=generator)[:CLASSES].sort().values.tolist():
        members = (labels == label).nonzero().squeeze(1)
        drawn = torch.randperm(len(members), generator=generator)[:PICTURES]
        places.append(members[drawn])
    return torch.cat(places)


def find_fault(predicted: Tensor, labels: Tensor, classes: int) -> str | None:
    """What is wrong with predictions, or None.

    Nothing is from an accuracy of half on. Below it, classes are taken for misnumbered if each
    picture is classified as the others of its class are, far more often than as its label says.

    Args:
        predicted: Classes by the network, int64 (pictures,).
        labels: Classes by the data, int64 (pictures,).
        classes: Number of classes.
    """
    accuracy = float((predicted == labels).double().mean())
    if accuracy >= 0.5:
        return None
    found = f"{100 * accuracy:.1f} % are given the class of their folder"
    reordered = renumbered_accuracy(predicted, labels)
    if reordered > max(2 * accuracy, accuracy + 0.1):
        return f"{found}, but {100 * reordered:.0f} % would be if classes were numbered otherwise"
    chance = 1 / classes
    limit = chance + 3 * math.sqrt(chance * (1 - chance) / len(labels))
    # Not to be taken in by a network that gives one answer to everything.
    other = labels != predicted.mode().values
    if float((predicted == labels)[other].double().mean()) <= limit:
        return f"{found}, no more than by chance ({100 * chance:.2g} %)"
    return None


def renumbered_accuracy(predicted: Tensor, labels: Tensor) -> float:
    """Share of pictures that the best numbering of the classes would make right, from below.

    A picture counts if it is classified as most others of its class are: were it counted among
    them, one picture of a class would always be right. A number that several classes would take
    can go to one of them alone.

    Args:
        predicted: Classes by the network, int64 (pictures,).
        labels: Classes by the data, int64 (pictures,).
    """
    right: dict[int, int] = {}  # the number that most pictures of a class are given -> how many
    for label in sorted(set(labels.tolist())):
        mine = predicted[labels == label]
        if len(mine) < 2:
            continue
        others = [torch.cat([mine[:i], mine[i + 1 :]]).mode().values for i in range(len(mine))]
        hits = int((mine == torch.stack(others)).sum())
        mode = int(mine.mode().values)
        right[mode] = max(right.get(mode, 0), hits)
    return sum(right.values()) / len(labels)


def _example(predicted: Tensor, labels: Tensor) -> tuple[int, int]:
    """The class whose pictures agree most on another number: that number, and the class's."""
    best, found = 0, (0, 0)
    for label in sorted(set(labels.tolist())):
        mine = predicted[labels == label]
        mode = int(mine.mode().values)
        agreed = int((mine == mode).sum())
        if mode != label and agreed > best:
            best, found = agreed, (mode, label)
    return found
