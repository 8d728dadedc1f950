"""Train a network on the real pictures and their hard labels: squeeze, and forgetting."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import torch.nn.functional as F
from torch import Tensor, nn

from gvbsm.config import SqueezeConfig
from gvbsm.data.datasets import ImageData
from gvbsm.data.loading import batch_count, training_batches, view_batches
from gvbsm.engine.device import Runtime
from gvbsm.engine.fit import History, Keeper, fit, shared_step
from gvbsm.engine.out_of_memory import Parts, Step
from gvbsm.engine.processes import ALONE, Processes


def fit_pictures(
    model: nn.Module,
    data: ImageData,
    config: SqueezeConfig,
    test: Callable[[nn.Module], float],
    *,
    tests: int,
    origin: tuple[str, str],
    runtime: Runtime,
    checkpoint: Keeper,
    workers: int = 0,
    team: Processes = ALONE,
) -> History:
    """Train a network on views of the real pictures with their hard labels, as teachers are.

    Args:
        model: The network; trained in place.
        data: The real pictures.
        config: Epochs, batches, optimiser and views.
        test: As in `fit`.
        tests: As in `fit`.
        origin: What is done and with which backbone: the randomness belongs to it.
        runtime: Device, precision, seed.
        checkpoint: Where half-done work is kept.
        workers: Processes that decode pictures.
        team: As in `fit`.

    Raises:
        RunError: If the training diverges.
    """
    count, size = len(data.train), config.batch_size

    def batches(epoch: int, start: int) -> Iterator[Step]:
        path = (*origin, epoch)
        indices = training_batches(data, size, runtime, path)[start:]
        shares = [index[team.rows(len(index))] for index in indices]
        loaded = view_batches(data, config.views, shares, runtime, path, workers)
        for number, (pictures, labels) in enumerate(loaded, start):
            whole = min(size, count - number * size)
            yield shared_step(team, whole, partial(_picture_loss, pictures, labels, runtime))

    return fit(
        model,
        batches,
        test,
        epochs=config.epochs,
        steps=batch_count(count, size),
        tests=tests,
        optimizer=config.optimizer,
        lr=None,
        parts=Parts(config.micro_batch, "squeeze", team.world > 1),
        name=" ".join(origin),
        runtime=runtime,
        checkpoint=checkpoint,
        team=team,
    )


def _picture_loss(
    pictures: Tensor, labels: Tensor, runtime: Runtime, net: nn.Module, rows: slice
) -> Tensor:
    with runtime.autocast():
        logits = net(pictures[rows])
    return F.cross_entropy(logits.float(), labels[rows])
