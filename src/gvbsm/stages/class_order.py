"""Check that pre-trained weights and the data number the classes alike, on a few pictures.

Weights number the classes; the data take the order of the class folders. A wrong order spoils all
results without raising the loss, so it is checked before any work. The check detects an order that
is wrong for most classes, as with readable folder names, but not two classes that are swapped.
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

CLASSES, PICTURES = 64, 4  # classes in the check, and pictures of each
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
    predict = InParts(model.eval())
    classes = len(data.class_names)
    for name, split in (("training", data.train), ("test", data.test)):
        generator = runtime.generator("class order", name)
        sample = split.select(sample_indices(split.labels, generator))
        with torch.inference_mode(), runtime.autocast():
            predicted = torch.cat(
                [
                    predict(pictures).argmax(dim=1).cpu()
                    for pictures, _ in plain_batches(data, sample, BATCH, runtime, workers)
                ]
            )
        if (fault := find_fault(predicted, sample.labels, classes)) is None:
            continue
        mode, label = _example(predicted, sample.labels)
        names = data.class_names
        raise DataError(
            f"{backbone}: its weights and the class folders do not agree: of {len(predicted)} "
            f"{name} pictures {fault}. Class {names[label]!r} (index {label}) is predicted as "
            f"index {mode}, which is {names[mode]!r} here. Likely the folders are not in the order "
            "of the weights' classes (for ImageNet: folders named n01440764 and so on, which are "
            "taken in the order of their names), else the pictures are in wrong folders"
        )


def sample_indices(labels: Tensor, generator: Generator) -> Tensor:
    """Draw a few pictures of a few of the classes that have any.

    Args:
        labels: Classes of the pictures, int64 (pictures,).
        generator: Source of randomness, on the CPU.

    Returns:
        Indices, int64 (at most 64 * 4,), class by class.
    """
    indices, present = [], torch.unique(labels)
    drawn = present[torch.randperm(len(present), generator=generator)[:CLASSES]]
    for label in drawn.sort().values.tolist():
        members = (labels == label).nonzero().squeeze(1)
        indices.append(members[torch.randperm(len(members), generator=generator)[:PICTURES]])
    return torch.cat(indices)


def find_fault(predicted: Tensor, labels: Tensor, classes: int) -> str | None:
    """Return the reason to doubt the order of the classes, or None.

    An accuracy of at least 0.5 passes. Below that, the order is doubted if renumbering the classes
    would give a far higher accuracy (`renumbered_accuracy`), or if the accuracy is no better than
    chance.

    Args:
        predicted: Classes by the network, int64 (pictures,).
        labels: Classes by the data, int64 (pictures,).
        classes: Number of classes.
    """
    accuracy = float((predicted == labels).double().mean())
    if accuracy >= 0.5:
        return None
    share = f"{100 * accuracy:.1f} % are given the class of their folder"
    reordered = renumbered_accuracy(predicted, labels)
    if reordered > max(2 * accuracy, accuracy + 0.1):
        return f"{share}, but {100 * reordered:.0f} % would be if classes were numbered otherwise"
    chance = 1 / classes
    limit = chance + 3 * math.sqrt(chance * (1 - chance) / len(labels))
    # A network that predicts one class for all pictures is right on that class alone: leave it out.
    is_counted = labels != predicted.mode().values
    if float((predicted == labels)[is_counted].double().mean()) <= limit:
        return f"{share}, no more than by chance ({100 * chance:.2g} %)"
    return None


def renumbered_accuracy(predicted: Tensor, labels: Tensor) -> float:
    """Compute a lower bound of the accuracy under the best renumbering of the classes.

    A class is renumbered to the class that most of its pictures are predicted as. A picture is
    right if most other pictures of its class have the same prediction; it does not vote itself,
    since a single picture would always be right. If several classes would get the same number,
    only the one with the most right pictures counts.

    Args:
        predicted: Classes by the network, int64 (pictures,).
        labels: Classes by the data, int64 (pictures,).
    """
    right: dict[int, int] = {}  # new number of a class -> right pictures
    for label in sorted(set(labels.tolist())):
        answers = predicted[labels == label]
        if len(answers) < 2:
            continue
        modes = [
            torch.cat([answers[:i], answers[i + 1 :]]).mode().values for i in range(len(answers))
        ]
        hits = int((answers == torch.stack(modes)).sum())
        mode = int(answers.mode().values)
        right[mode] = max(right.get(mode, 0), hits)
    return sum(right.values()) / len(labels)


def _example(predicted: Tensor, labels: Tensor) -> tuple[int, int]:
    """Find the class whose pictures agree most on a wrong class: the wrong class, and the class."""
    most, example = 0, (0, 0)
    for label in sorted(set(labels.tolist())):
        answers = predicted[labels == label]
        mode = int(answers.mode().values)
        agreeing = int((answers == mode).sum())
        if mode != label and agreeing > most:
            most, example = agreeing, (mode, label)
    return example
