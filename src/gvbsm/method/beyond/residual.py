"""Stages of several resolutions with residual connections to the start (FADRM, NeurIPS 2025).

The iterations are divided into equal stages. At the start of each stage but the first, the images
are resized to the stage's side, a share of the initial images is mixed in, and the optimizer's
moments are reset.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from gvbsm.config import SynthesisConfig
from gvbsm.data.views import resize
from gvbsm.method.layers import input_shapes
from gvbsm.method.matching import Level, Teacher
from gvbsm.method.moments import counts
from gvbsm.method.synthesis import Extra, State


def stage_begins(config: SynthesisConfig) -> list[int]:
    """Return the first iteration of every stage but the first."""
    return [config.iterations * number // config.stages for number in range(1, config.stages)]


def side_at(config: SynthesisConfig, step: int, side: int) -> int:
    """Return the images' side in an iteration, in pixels; `side` is that of the real pictures."""
    sizes = config.stage_sizes
    return sizes[bisect_right(stage_begins(config), step)] if sizes else side


def levels_at_side(teacher: Teacher, image_shape: Sequence[int]) -> dict[str, Level]:
    """Return a teacher's target statistics for pictures of another side.

    Channels exist at any side: they are matched with the data's moments at the data's own side, as
    FADRM does with BatchNorm's. Patches of a feature map of another size have no counterpart in the
    data, and are not matched.

    Args:
        teacher: The teacher, with levels for pictures of the data's side.
        image_shape: (channels, height, width) of a picture.
    """
    level = teacher.levels["channel"]
    shapes = input_shapes(teacher.model, level.layers, image_shape)
    by_layer = [counts(shapes[path], 1)[0].to(level.per_picture.device) for path in level.layers]
    per_picture = torch.cat([level.per_picture[:0], *by_layer])
    return {"channel": level._replace(per_picture=per_picture)}


class Residual(Extra):
    """Starts each stage, and adapts the teachers' target statistics to its side.

    Args:
        config: `stages`, `stage_sizes` and `residual` are read.
        start: The initial images, normalized float (groups * batch, channels, height, width).
        side: Side of the real pictures in pixels.
        chosen: If given, what is mixed in in place of the start: called with the images at `side`,
            it returns as many pictures at that side.
        begin: Iteration at which the images start. A stage that begins then has no images yet to
            mix anything into.
    """

    name = "residual"

    def __init__(
        self,
        config: SynthesisConfig,
        start: Tensor,
        side: int,
        chosen: Callable[[Tensor], Tensor] | None = None,
        begin: int = 0,
    ) -> None:
        self._config, self._start, self._side, self._chosen = config, start, side, chosen
        self._begins = [step for step in stage_begins(config) if step > begin]
        self._levels: dict[tuple[str, int], dict[str, Level]] = {}

    def before(self, state: State, teachers: Sequence[Teacher]) -> Sequence[Teacher]:
        """Start a stage if it is due; return the teachers for the current side of the images."""
        if state.step in self._begins:
            side = side_at(self._config, state.step, self._side)
            real = self._start
            if self._chosen is not None:
                real = self._chosen(resize(state.images.detach(), self._side))
            start = resize(real.to(state.images.device), side)

            def resize_and_mix(pixels: Tensor) -> Tensor:
                resized = resize(pixels, side)
                share = self._config.residual
                return resized.lerp(start, share) if share else resized

            state.change_images(resize_and_mix)
        channels, side = state.images.shape[1], state.images.shape[-1]
        if side == self._side:
            return teachers
        shape = (channels, side, side)
        for teacher in teachers:
            if (teacher.name, side) not in self._levels:
                self._levels[teacher.name, side] = levels_at_side(teacher, shape)
        return [replace(t, levels=self._levels[t.name, side]) for t in teachers]
