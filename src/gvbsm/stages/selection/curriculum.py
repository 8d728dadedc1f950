"""Curriculum: complete some distilled images with real pictures that are selected in rounds.

Curriculum Coarse-to-Fine Selection (CCFS, CVPR 2025; iLearn-Lab/CVPR25-CCFS@2890d2b,
ccfs_cifar100.py). Each round trains a network, the filter, on the set as it is. Candidates are the
pictures that the filter classifies wrong and the teacher right. Of each class, the candidates that
were forgotten least often join the set: what it does not teach yet, the easiest first.

Differences: pictures that were forgotten equally often are drawn at random, where the authors take
them in the order of the data set. If a class has too few candidates, the least forgotten of its
other pictures follow, so that each class gets its number; the authors take fewer.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Generator, Tensor, nn

from gvbsm.backbones import build_backbone
from gvbsm.data.datasets import ImageData
from gvbsm.data.pictures import class_members
from gvbsm.engine.device import Runtime
from gvbsm.engine.seeds import seeded
from gvbsm.files.artifacts import Recipe, is_current, remove_all
from gvbsm.files.checkpoint import Checkpoint
from gvbsm.files.tensors import load_tensors, save
from gvbsm.stages.distilled_training import fit_student
from gvbsm.stages.selection.forgetting import classified_rightly
from gvbsm.store.batches import StudentTask

KIND = "curriculum round"  # of the file of a round


def distilled_counts(counts: Sequence[int], share: float) -> list[int]:
    """Number of distilled images of each class: a share, rounded down, but one at least.

    Args:
        counts: Images of each class in the whole set, (classes,).
        share: From 0 to 1.
    """
    return [min(count, max(1, math.floor(share * count + 1e-9))) for count in counts]


def round_counts(counts: Sequence[int], rounds: int) -> list[list[int]]:
    """Divide the pictures of each class evenly between rounds; the first ones have one more.

    Args:
        counts: Real pictures of each class to select, (classes,).
        rounds: Number of rounds.

    Returns:
        The numbers of all classes, for each round that selects any.
    """
    return [
        [count // rounds + (number < count % rounds) for count in counts]
        for number in range(min(rounds, max(counts)))
    ]


def select_easiest(
    candidates: Tensor,
    events: Tensor,
    labels: Tensor,
    counts: Sequence[int],
    generator: Generator,
) -> Tensor:
    """Take the candidates of each class that were forgotten least often, then its other pictures.

    Args:
        candidates: Whether each picture is a candidate, bool (pictures,).
        events: How often each picture was forgotten, int64 (pictures,); see `forgetting`.
        labels: Classes of the pictures, int64 (pictures,).
        counts: Pictures of each class to take, (classes,).
        generator: Orders pictures that were forgotten equally often, on the CPU.

    Returns:
        Indices, class by class, int64 (taken,).

    Raises:
        DataError: If a class has fewer pictures.
    """
    chosen = []
    for members, count in zip(class_members(labels, counts), counts, strict=True):
        shuffled = members[torch.randperm(len(members), generator=generator)]
        ordered = shuffled[events[shuffled].argsort(stable=True)]
        ordered = ordered[(~candidates[ordered]).to(torch.uint8).argsort(stable=True)]
        chosen.append(ordered[:count])
    return torch.cat(chosen)


def select_by_curriculum(
    events: Tensor,
    labels: Tensor,
    rounds: Sequence[Sequence[int]],
    candidates_of: Callable[[int, Tensor], Tensor],
    generator: Generator,
) -> Tensor:
    """Select real pictures in rounds, each after a look at what the last ones have taken.

    Args:
        events: How often each picture was forgotten, int64 (pictures,).
        labels: Classes of the pictures, int64 (pictures,).
        rounds: Pictures of each class to take, for each round (`round_counts`).
        candidates_of: Takes the number of a round and the indices taken so far; returns whether
            each picture is a candidate, bool (pictures,).
        generator: Orders pictures that were forgotten equally often, on the CPU.

    Returns:
        Indices in the order in which they are taken, int64 (taken,).

    Raises:
        DataError: If a class has too few pictures.
    """
    taken = torch.empty(0, dtype=torch.int64)
    for number, counts in enumerate(rounds):
        free = torch.ones(len(labels), dtype=torch.bool)
        free[taken] = False
        left = free.nonzero().flatten()
        candidates = candidates_of(number, taken)[left]
        chosen = select_easiest(candidates, events[left], labels[left], counts, generator)
        taken = torch.cat([taken, left[chosen]])
    return taken


@dataclass(frozen=True)
class FilterTraining:
    """How the filter of each round is trained, and where its result is kept.

    Attributes:
        student: Name of its architecture.
        data: The real pictures.
        runtime: Device, precision, seed, progress.
        folder: The folder of the rounds' files.
        recipe: Recipe of the selection.
        workers: Processes that decode pictures.
    """

    student: str
    data: ImageData
    runtime: Runtime
    folder: Path
    recipe: Recipe
    workers: int = 0

    def classified_wrong(self, number: int, task: StudentTask) -> Tensor:
        """Train the filter of a round, and test which training pictures it classifies wrong.

        The result is kept in a file, so that a stopped run does not train the filter again.

        Args:
            number: Number of the round, from 0; the weights of each filter start from other ones.
            task: The set as it is, its labels and the settings of students.

        Returns:
            bool (training pictures,), on the CPU.

        Raises:
            RunError: If the training diverges, or memory runs out.
        """
        path = self.folder / f"round-{number:05d}.safetensors"
        recipe = {**self.recipe, "round": number}
        if is_current(path, recipe):
            return load_tensors(path, KIND)[0]["wrong"]
        student, runtime = self.student, self.runtime
        checkpoint = Checkpoint(path, recipe, runtime.checkpoint_seconds)
        model = runtime.place(self._untrained(number))
        name = f"filter {number + 1}"
        fit_student(model, task.with_rate_of(student), name, None, runtime, checkpoint)
        wrong = ~classified_rightly(model, self.data, runtime, self.workers)
        save(path, {"wrong": wrong}, {"kind": KIND, "recipe": recipe})
        checkpoint.clear()
        return wrong

    def clear(self) -> None:
        """Remove the files of the rounds."""
        remove_all(self.folder.glob("round-*"))

    def _untrained(self, number: int) -> nn.Module:
        student, data = self.student, self.data
        with seeded(self.runtime.seed, "curriculum", student, number):
            return build_backbone(student, len(data.class_names), data.image_size, data.channels)
