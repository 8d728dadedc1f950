"""Stages: sides that change, the start mixed in between them, fresh moments (FADRM, NeurIPS 2025).

The iterations are cut into equal stages. At the beginning of each but the first the images are
brought to the stage's side, a share of their start is mixed in, and the optimizer's moments are
forgotten.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
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
    """The iterations at which a stage but the first begins."""
    return [config.iterations * number // config.stages for number in range(1, config.stages)]


def side_at(config: SynthesisConfig, step: int, side: int) -> int:
    """Side of the images in an iteration, in pixels; `side` is that of the pictures."""
    sizes = config.stage_sizes
    return sizes[bisect_right(stage_begins(config), step)] if sizes else side


def levels_at_side(teacher: Teacher, image_shape: Sequence[int]) -> dict[str, Level]:
    """The statistics that a teacher's layers are compared with for pictures of another side.

    Channels are the same at any side, and are compared with the moments that the data have at their
    own side, as FADRM does with BatchNorm's. A patch is a place in a map of the data's side, which
    has no like in a map of another: patches are not compared.

    Args:
        teacher: The teacher, with the levels for pictures of the data's side.
        image_shape: (channels, height, width) of a picture.
    """
    level = teacher.levels["channel"]
    shapes = input_shapes(teacher.model, level.layers, image_shape)
    numbers = [counts(shapes[path], 1)[0].to(level.per_picture.device) for path in level.layers]
    per_picture = torch.cat([level.per_picture[:0], *numbers])
    return {"channel": level._replace(per_picture=per_picture)}


class Residual(Extra):
    """Begins each stage, and has the teachers match at the stage's side.

    Args:
        config: `stages`, `stage_sizes` and `residual` are read.
        start: Where the pixels start, normalized float (groups * batch, channels, height, width).
        side: Side of the pictures in pixels.
    """

    name = "residual"

    def __init__(self, config: SynthesisConfig, start: Tensor, side: int) -> None:
        self._config, self._start, self._side = config, start, side
        self._begins = stage_begins(config)
        self._levels: dict[tuple[str, int], dict[str, Level]] = {}

    def before(self, state: State, teachers: Sequence[Teacher]) -> Sequence[Teacher]:
        """Begin a stage, if one begins; return the teachers for the side of the images."""
        if state.step in self._begins:
            side = side_at(self._config, state.step, self._side)
            start = resize(self._start.to(state.images.device), side)

            def begin(pixels: Tensor) -> Tensor:
                resized = resize(pixels, side)
                share = self._config.residual
                return resized.lerp(start, share) if share else resized

            state.change_images(begin)
            state.solver.state.clear()
        channels, side = state.images.shape[1], state.images.shape[-1]
        if side == self._side:
            return teachers
        shape = (channels, side, side)
        for teacher in teachers:
            if (teacher.name, side) not in self._levels:
                self._levels[teacher.name, side] = levels_at_side(teacher, shape)
        return [replace(each, levels=self._levels[each.name, side]) for each in teachers]
