"""Class matching: match statistics of each class too (EDC, NeurIPS 2024, section 3.3.2).

EDC matches running averages of each class's statistics; here they are exact.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor

from gvbsm.config import SynthesisConfig
from gvbsm.method.groups import ClassRows
from gvbsm.method.matching import Average, LevelSums, Teacher, distances_of
from gvbsm.method.moments import Moments, Sums
from gvbsm.method.statistics import Statistics
from gvbsm.method.synthesis import Extra, State


def one_hot(labels: Tensor, classes: Tensor) -> Tensor:
    """Return class membership, float64 (classes, batch): its product with values is a class sum.

    Instead of classes, here and below, pictures may be divided into other parts with numbers.
    """
    return (classes.to(labels.device)[:, None] == labels).double()


def class_sums(layer: Tensor, members: Tensor, per_picture: Tensor) -> Sums:
    """Sum a layer's inputs over the pictures of each class.

    Args:
        layer: Sums and sums of squares of each picture, (2, batch, ...).
        members: From `one_hot`, float64 (classes, batch).
        per_picture: Number of activations of a picture, float64 (...).

    Returns:
        Sums of each class, (classes, ...) each.
    """
    pictures = members.sum(dim=1).view(-1, *[1] * per_picture.ndim)
    totals = torch.unflatten(members @ layer.flatten(start_dim=2), 2, layer.shape[2:])
    return Sums(pictures * per_picture.to(layer.device), *totals)


def class_moments(
    teacher: Teacher, statistics: Statistics, part: Literal["class", "group"] = "class"
) -> dict[str, Moments]:
    """Moments of each class, or difficulty group, by level, all layers concatenated.

    Returns:
        float64 (classes, n) each.
    """
    device = teacher.factors.device
    return {
        name: _concatenate(
            [getattr(statistics, f"{part}_{name}")[path] for path in level.layers], device
        )
        for name, level in teacher.levels.items()
    }


def _concatenate(by_layer: Sequence[Moments], device: torch.device) -> Moments:
    empty = torch.zeros(len(by_layer[0].mean) if by_layer else 0, 0)
    columns = (
        [empty, *(getattr(moments, name).flatten(start_dim=1) for moments in by_layer)]
        for name in Moments._fields
    )
    return Moments(*(torch.cat(tensors, dim=1).to(device, torch.float64) for tensors in columns))


class ClassMatching(Extra):
    """Blends the distances of L'_BN and L'_Conv with those of each class.

    The EMA of each class is kept with the teacher's, as level "LEVEL by class".

    Args:
        config: `weight_class` (the share of the classes), `alpha` and `ema_start` are read.
        classes: The classes in each group.
        targets: Teacher -> level -> moments of each class, float64 (classes, n).
    """

    name = "class_matching"
    per_image = True

    def __init__(
        self,
        config: SynthesisConfig,
        classes: ClassRows,
        targets: Mapping[str, Mapping[str, Moments]],
    ) -> None:
        self._config, self._classes, self._targets = config, classes, targets

    def adjust(self, state: State, teacher: Teacher, sums: LevelSums, distances: Tensor) -> Tensor:
        """Blend the distances with the mean over the classes in each group, (groups, layers)."""
        classes, share = self._classes, self._config.weight_class
        averages, key = state.averages[teacher.name], f"{sums.name} by class"
        if key not in averages:
            averages[key] = self._empty(sums)
        totals = sums.sums.new_zeros(2, len(classes.group), sums.sums.shape[2])
        totals = totals.index_add(1, classes.row, sums.sums)
        moments = self._targets[teacher.name][sums.name]
        target = Moments(moments.mean[classes.label], moments.variance[classes.label])
        by_row = Sums(sums.level.per_picture * classes.size[:, None], *totals)
        of_class, averages[key] = distances_of(
            sums, by_row, target, averages[key], self._config.alpha
        )
        of_class = of_class * classes.share[:, None]
        mean = torch.zeros_like(distances).index_add(0, classes.group, of_class)
        return (1 - share) * distances + share * mean

    def _empty(self, sums: LevelSums) -> Average:
        rows, n = len(self._classes.group), sums.sums.shape[2]
        zeros = sums.sums.new_zeros(rows, n)
        started = torch.full_like(sums.present, self._config.ema_start == "zero")
        return Average(zeros, zeros, started)
