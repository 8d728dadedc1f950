"""Train a network on the real pictures and their hard labels: squeeze, and forgetting."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import torch.nn.functional as F
from torch import Tensor, nn

from gvbsm.config import SqueezeConfig
from gvbsm.data.datasets import ImageData
from gvbsm.data.loading import batch_count, training_batches, view_batches
from gvbsm.engine.device import Runtime
from gvbsm.engine.fit import Keeper, Training, TrainingHistory, fit, shared_step
from gvbsm.engine.out_of_memory import Step
from gvbsm.engine.processes import ALONE, Processes


@dataclass(frozen=True)
class PictureTraining:
    """Settings of a training on the real pictures.

    Attributes:
        stage: "squeeze", "forgetting", or "full-K" for seed K of a student on all pictures. Random
            numbers are derived from it and the backbone's name.
        backbone: Name of the architecture.
        config: Epochs, batches, optimizer, views and tests.
        workers: Processes that decode pictures.
    """

    stage: str
    backbone: str
    config: SqueezeConfig
    workers: int = 0


def fit_pictures(
    model: nn.Module,
    data: ImageData,
    task: PictureTraining,
    test: Callable[[nn.Module], float],
    runtime: Runtime,
    keeper: Keeper,
    team: Processes = ALONE,
) -> TrainingHistory:
    """Train a network on views of the real pictures with hard labels.

    Args:
        model: The network; trained in place.
        data: The real pictures.
        task: The architecture and the settings.
        test: Returns the top-1 accuracy of the network in percent.
        runtime: Device, precision, seed.
        keeper: Saves the state of the unfinished training.
        team: Processes that train the network together.

    Raises:
        RunError: If the training diverges.
    """
    config, count, size = task.config, len(data.train), task.config.batch_size

    def batches(epoch: int, start: int) -> Iterator[Step]:
        path = (task.stage, task.backbone, epoch)
        indices = training_batches(data, size, runtime, path)[start:]
        shares = [index[team.rows(len(index))] for index in indices]
        loaded = view_batches(data, config.views, shares, runtime, path, task.workers)
        for number, (pictures, labels) in enumerate(loaded, start):
            batch = min(size, count - number * size)  # of all processes together
            yield shared_step(team, batch, partial(_picture_loss, pictures, labels, runtime))

    training = Training(
        name=f"{task.stage} {task.backbone}",
        section="squeeze",
        epochs=config.epochs,
        steps=batch_count(count, size),
        tests=config.tests,
        optimizer=config.optimizer,
        micro_batch=config.micro_batch,
    )
    return fit(model, batches, test, training, runtime, keeper, team)


def _picture_loss(
    pictures: Tensor, labels: Tensor, runtime: Runtime, net: nn.Module, rows: slice
) -> Tensor:
    with runtime.autocast():
        logits = net(pictures[rows])
    return F.cross_entropy(logits.float(), labels[rows])
