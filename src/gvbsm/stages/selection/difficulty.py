"""Measure the difficulty of the training pictures by the teachers' BatchNorm (PSM)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from gvbsm.config import ConfigError
from gvbsm.data.datasets import ImageData
from gvbsm.data.loading import plain_batches
from gvbsm.engine.device import RunError, Runtime
from gvbsm.engine.out_of_memory import Halving
from gvbsm.method.beyond.difficulty_groups import PictureDistances, difficulty
from gvbsm.method.layers import matched_layers

BATCH = 256  # pictures in a forward pass


def with_batchnorm(teachers: Mapping[str, nn.Module]) -> dict[str, nn.Module]:
    """Return the teachers that have BatchNorm, by name.

    Raises:
        ConfigError: If none has.
    """
    measuring = {name: model for name, model in teachers.items() if matched_layers(model).batchnorm}
    if not measuring:
        raise ConfigError(
            "the difficulty of pictures is measured by the teachers' BatchNorm, but none of "
            f"{', '.join(teachers)} has such layers; match another network too, or leave out "
            "synthesis.difficulty_groups and starts by groups"
        )
    return measuring


def measure_difficulty(
    teachers: Mapping[str, nn.Module], data: ImageData, runtime: Runtime, workers: int = 0
) -> Tensor:
    """Measure the difficulty of all training pictures, without augmentation, in one pass.

    Args:
        teachers: Networks in eval mode, by name; those without BatchNorm are left out.
        data: The real pictures.
        runtime: Device, precision, progress.
        workers: Processes that decode pictures.

    Returns:
        See `method.beyond.difficulty_groups.difficulty`, float64 (training pictures,) on the CPU.

    Raises:
        ConfigError: If no teacher has BatchNorm.
        RunError: If activations are not finite, naming the teacher.
    """
    shape = (data.channels, data.image_size, data.image_size)
    measures = {
        name: PictureDistances(model, shape) for name, model in with_batchnorm(teachers).items()
    }
    halvings = {name: Halving() for name in measures}
    distances: dict[str, list[Tensor]] = {name: [] for name in measures}
    with runtime.progress(len(data.train), "difficulty of the pictures", "picture") as bar:
        for pictures, labels in plain_batches(data, data.train, BATCH, runtime, workers):
            for name, measure in measures.items():
                with runtime.of(name, "pixels").autocast():
                    parts = halvings[name](measure, pictures)
                distances[name].append(torch.cat(parts).cpu())
            bar.update(len(labels))
    by_teacher = {name: torch.cat(batches) for name, batches in distances.items()}
    for name, values in by_teacher.items():
        if not bool(torch.isfinite(values).all()):
            raise RunError(
                f"the difficulty of the pictures is not finite by {name}: its activations "
                "overflow; train this teacher again with a lower squeeze.optimizer.lr, or with "
                "--precision fp32"
            )
    return difficulty(list(by_teacher.values()), data.train.labels)
