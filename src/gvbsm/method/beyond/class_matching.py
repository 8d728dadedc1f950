"""Class matching: statistics of each class beside those of all (EDC, NeurIPS 2024, section 3.3.2).

EDC matches running averages of each class's statistics; here they are exact.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from gvbsm.config import SynthesisConfig
from gvbsm.method.groups import ClassRows
from gvbsm.method.matching import Average, SeenLevel, Teacher, distances_of
from gvbsm.method.moments import Moments, Sums
from gvbsm.method.statistics import Statistics
from gvbsm.method.synthesis import Extra, State


def one_hot(labels: Tensor, classes: Tensor) -> Tensor:
    """Which pictures are of which class, float64 (classes, batch): sums are products with it."""
    return (classes.to(labels.device)[:, None] == labels).double()


def class_sums(layer: Tensor, members: Tensor, per_picture: Tensor) -> Sums:
    """Sum up what a layer saw of each class.

    Args:
        layer: Sums and sums of squares of each picture, (2, batch, ...).
        members: Of `one_hot`, float64 (classes, batch).
        per_picture: How many activations of a picture are summed, float64 (...).

    Returns:
        Sums of each class, (classes, ...) each.
    """
    pictures = members.sum(dim=1).view(-1, *[1] * per_picture.ndim)
    totals = torch.unflatten(members @ layer.flatten(start_dim=2), 2, layer.shape[2:])
    return Sums(pictures * per_picture.to(layer.device), *totals)


def class_moments(teacher: Teacher, statistics: Statistics) -> dict[str, Moments]:
    """Each class's moments of a teacher's levels, all layers end to end, float64 (classes, n)."""
    device = teacher.factors.device
    return {
        name: _join([getattr(statistics, f"class_{name}")[path] for path in level.layers], device)
        for name, level in teacher.levels.items()
    }


def _join(by_layer: Sequence[Moments], device: torch.device) -> Moments:
    none = torch.zeros(len(by_layer[0].mean) if by_layer else 0, 0)
    columns = (
        [none, *(getattr(moments, name).flatten(start_dim=1) for moments in by_layer)]
        for name in Moments._fields
    )
    return Moments(*(torch.cat(parts, dim=1).to(device, torch.float64) for parts in columns))


class ClassMatching(Extra):
    """Gives the comparison of each class a share of L'_BN and L'_Conv.

    Its EMA is kept with the teacher's, under "LEVEL by class".

    Args:
        config: `weight_class` (the share), `alpha` and `ema_start` are read.
        classes: The classes in each group.
        wanted: Teacher -> level -> each class's moments, float64 (classes, n).
    """

    name = "class_matching"
    per_image = True

    def __init__(
        self,
        config: SynthesisConfig,
        classes: ClassRows,
        wanted: Mapping[str, Mapping[str, Moments]],
    ) -> None:
        self._config, self._classes, self._wanted = config, classes, wanted

    def adjust(self, state: State, teacher: Teacher, seen: SeenLevel, distances: Tensor) -> Tensor:
        """Blend the distances with the mean over the classes in each group, (groups, layers)."""
        classes, share, level = self._classes, self._config.weight_class, seen.level
        averages, key = state.averages[teacher.name], f"{seen.name} by class"
        if key not in averages:
            averages[key] = self._empty(seen)
        totals = seen.sums.new_zeros(2, len(classes.group), seen.sums.shape[2])
        totals = totals.index_add(1, classes.row, seen.sums)
        wanted = Moments(*(part[classes.label] for part in self._wanted[teacher.name][seen.name]))
        sums = Sums(level.per_picture * classes.size[:, None], *totals)
        of_class, averages[key] = distances_of(
            seen, sums, wanted, averages[key], self._config.alpha
        )
        of_class = of_class * classes.share[:, None]
        mean = torch.zeros_like(distances).index_add(0, classes.group, of_class)
        return (1 - share) * distances + share * mean

    def _empty(self, seen: SeenLevel) -> Average:
        rows, n = len(self._classes.group), seen.sums.shape[2]
        zeros = seen.sums.new_zeros(rows, n)
        started = torch.full_like(seen.present, self._config.ema_start == "zero")
        return Average(zeros, zeros, started)
