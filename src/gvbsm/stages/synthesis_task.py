"""What a synthesis depends on: settings, teachers, data, groups of images, and extras."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial

import torch
from torch import Tensor

from gvbsm.config import SynthesisConfig
from gvbsm.config.stages import EXTRA_TAKES
from gvbsm.data.class_sizes import ImageCounts
from gvbsm.data.datasets import ImageData
from gvbsm.data.starts import Start
from gvbsm.engine.device import Runtime
from gvbsm.files.plugins import called_by_name
from gvbsm.method.beyond.absorption import Absorption
from gvbsm.method.beyond.class_matching import ClassMatching, class_moments
from gvbsm.method.beyond.difficulty_groups import DifficultyGroups
from gvbsm.method.beyond.flatness import Flatness
from gvbsm.method.beyond.late_starts import late_begins
from gvbsm.method.beyond.residual import Residual, side_at
from gvbsm.method.beyond.user_term import UserTerm
from gvbsm.method.groups import Stack, group_indices
from gvbsm.method.matching import Teacher
from gvbsm.method.statistics import Statistics
from gvbsm.method.synthesis import TERMS, Extra
from gvbsm.stages.selection.nearest import NearestPictures


@dataclass(frozen=True)
class SynthesisTask:
    """Settings, teachers and data of a synthesis.

    Attributes:
        config: The stage's settings.
        teachers: The teachers that are matched.
        statistics: Their statistics, by name; needed for class matching and difficulty groups.
        data: The real data, for classes, size, mean and deviation.
        counts: Images of each class.
        n_p: Side of a patch in pixels.
        initial: The real pictures, or crops of them, to start from; None starts from N(0, 1).
        nearest: Finds what is mixed in between stages (`residual_source: nearest`); None is the
            start.
    """

    config: SynthesisConfig
    teachers: Sequence[Teacher]
    statistics: Mapping[str, Statistics]
    data: ImageData
    counts: ImageCounts
    n_p: int
    initial: Start | None = None
    nearest: NearestPictures | None = None

    @cached_property
    def begins(self) -> Tensor:
        """The iteration at which each image starts, int64 (images,)."""
        return late_begins(self.config, self.counts)

    @cached_property
    def groups(self) -> list[Tensor]:
        """Positions of each group's images in the set, int64 (at most batch_size,)."""
        return group_indices(self.counts, self.config.batch_size, self.config.loop, self.begins)

    @property
    def terms(self) -> tuple[str, ...]:
        """Names of the terms of the loss."""
        further = {
            Flatness.name: self.config.weight_flatness,
            Absorption.name: self.config.weight_absorption,
            UserTerm.name: self.config.extra,
        }
        return (*TERMS, *(name for name, on in further.items() if on))

    def start(self, index: Tensor, runtime: Runtime) -> Tensor:
        """Return the initial pixels of a group, normalized float (batch, channels, height, width).

        The noise of an image depends on the seed and its position alone. So an image has the same
        start in all loops and batch sizes, and methods can be compared image by image.

        Args:
            index: Positions of its images in the set, int64 (batch,).
            runtime: Seed.
        """
        data = self.data
        if self.initial is not None:
            return data.normalization.normalize(self.initial.pixels(data, index))
        side = side_at(self.config, 0, data.image_size)
        shape = (data.channels, side, side)
        generators = (runtime.generator("noise", position) for position in index.tolist())
        return torch.stack([torch.randn(shape, generator=generator) for generator in generators])

    def extras(self, stack: Stack, index: Tensor, start: Tensor, runtime: Runtime) -> list[Extra]:
        """Return the additions of later papers to the loop that the settings switch on.

        Args:
            stack: Groups of images.
            index: Positions of these images in the set, int64 (groups * batch,).
            start: Their initial pixels, normalized float (groups * batch, ...).
            runtime: Precision.
        """
        config, extras = self.config, list[Extra]()
        if config.extra is not None:
            extras.append(UserTerm(config, called_by_name(config.extra, EXTRA_TAKES), stack.labels))
        if config.weight_flatness:
            extras.append(Flatness(config, runtime))
        if config.weight_absorption and self.initial is not None:
            anchors = self.data.normalization.normalize(self.initial.anchors(self.data, index))
            extras.append(Absorption(config, anchors, runtime))
        if config.difficulty_groups:
            # All images of a group have one number within their class.
            first = index.view(stack.groups, stack.batch)[:, 0]
            moments = {
                t.name: class_moments(t, self.statistics[t.name], "group") for t in self.teachers
            }
            extras.append(DifficultyGroups(self.counts.ranks[first], moments))
        if config.weight_class:
            moments = {t.name: class_moments(t, self.statistics[t.name]) for t in self.teachers}
            extras.append(ClassMatching(config, stack.classes, moments))
        if config.stages > 1:
            chosen = None if self.nearest is None else partial(self._nearest, stack, start)
            extras.append(Residual(config, start, self.data.image_size, chosen, stack.begin))
        return extras

    def _nearest(self, stack: Stack, start: Tensor, images: Tensor) -> Tensor:
        """Return the nearest real pictures of a stack's images, group by group.

        So what is chosen does not depend on the groups that a group is stacked with.
        """
        assert self.nearest is not None
        rows = (torch.split(tensor, stack.batch) for tensor in (images, stack.labels, start))
        return torch.cat([self.nearest(*group) for group in zip(*rows, strict=True)])
