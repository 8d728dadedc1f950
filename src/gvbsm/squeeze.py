"""Squeeze: train the teachers, backbones of different build, on the real pictures."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import torch.nn.functional as F
from torch import Tensor, nn

from gvbsm.artifacts import Checkpoint, Recipe
from gvbsm.backbones import build_backbone
from gvbsm.config import SqueezeConfig
from gvbsm.datasets import ImageData
from gvbsm.loading import batch_count, plain_batches, view_batches
from gvbsm.runtime import Runtime, seeded
from gvbsm.teachers import save_teacher
from gvbsm.training import History, LossOf, accuracy, fit


def squeeze_teacher(
    backbone: str,
    data: ImageData,
    config: SqueezeConfig,
    runtime: Runtime,
    path: Path,
    recipe: Recipe,
    workers: int = 0,
) -> None:
    """Train one teacher and save it; go on from its checkpoint if there is one.

    The last epoch is saved. The authors' code kept an epoch only if its index was a multiple of ten
    until 1ed80b0, so that its "5 epochs" were 1 (Branch_CIFAR_10/squeeze/train.py before it).

    Args:
        backbone: Name of the architecture.
        data: The real pictures.
        config: The stage's settings.
        runtime: Device, precision, seed.
        path: Where the teacher goes.
        recipe: What it is made from.
        workers: Processes that decode pictures.

    Raises:
        RunError: If the training diverges.
    """
    with seeded(runtime.seed, "squeeze", backbone, "weights"):
        model = build_backbone(
            backbone,
            len(data.class_names),
            data.image_size,
            data.channels,
            pretrained=config.pretrained,
        )
    model = runtime.place(model)

    def batches(epoch: int, start: int) -> Iterator[LossOf]:
        origin = ("squeeze", backbone, epoch)
        size = config.batch_size
        for pictures, labels in view_batches(
            data, config.views, size, runtime, origin, start=start, workers=workers
        ):
            yield partial(_loss, pictures, labels, runtime)

    def test(net: nn.Module) -> float:
        return accuracy(net, plain_batches(data, data.test, 256, runtime, workers), runtime)

    checkpoint = Checkpoint(path, recipe, runtime.checkpoint_seconds)
    if config.pretrained:
        history = History(epochs=[0], top1=[test(model)], losses=[])
    else:
        history = fit(
            model,
            batches,
            test,
            epochs=config.epochs,
            steps=batch_count(len(data.train), config.batch_size),
            tests=config.tests,
            optimizer=config.optimizer,
            lr=None,
            name=f"squeeze {backbone}",
            runtime=runtime,
            checkpoint=checkpoint,
        )
    save_teacher(path, model, backbone, data, vars(history), recipe)
    checkpoint.clear()


def _loss(pictures: Tensor, labels: Tensor, runtime: Runtime, net: nn.Module) -> Tensor:
    with runtime.autocast():
        logits = net(pictures)
    return F.cross_entropy(logits.float(), labels)
