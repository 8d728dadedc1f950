"""Squeeze: train the teachers, of different architectures, on the real pictures."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from gvbsm.backbones import build_backbone
from gvbsm.backbones.pretrained import Pretrained
from gvbsm.data.datasets import ImageData
from gvbsm.data.loading import plain_batches
from gvbsm.engine.accuracy import accuracy
from gvbsm.engine.device import Runtime
from gvbsm.engine.fit import TrainingHistory
from gvbsm.engine.processes import ALONE, Processes
from gvbsm.engine.seeds import seeded
from gvbsm.files.artifacts import Recipe
from gvbsm.files.checkpoint import Checkpoint
from gvbsm.stages.class_order import check_class_order
from gvbsm.stages.supervised import PictureTraining, fit_pictures
from gvbsm.store.teachers import save_teacher


def squeeze_teacher(
    task: PictureTraining,
    data: ImageData,
    runtime: Runtime,
    path: Path,
    recipe: Recipe,
    team: Processes = ALONE,
) -> None:
    """Train one teacher and save it; resume from its checkpoint if there is one.

    The weights after the last epoch are saved. Before commit 1ed80b0, the authors' code saved an
    epoch only if its index was a multiple of ten, so that its "5 epochs" saved the weights after 1
    (Branch_CIFAR_10/squeeze/train.py).

    Args:
        task: The backbone and the stage's settings.
        data: The real pictures.
        runtime: Device, precision, seed.
        path: File of the teacher.
        recipe: Recipe of the teacher.
        team: Processes that train the teacher together; the first of them saves it.

    Raises:
        DataError: If pre-trained weights have another order of the classes.
        RunError: If the training diverges, or memory runs out.
    """
    backbone, config, workers = task.backbone, task.config, task.workers
    shape = (data.image_size, data.channels)
    with seeded(runtime.seed, "squeeze", backbone, "weights"):
        if config.pretrained:
            model = Pretrained.of(backbone, config, data.class_names, *shape).build()
        else:
            model = build_backbone(backbone, len(data.class_names), *shape)
    model = runtime.place(model)

    def test(net: nn.Module) -> float:
        pictures = plain_batches(data, data.test, 256, runtime, workers, team)
        return accuracy(net, pictures, runtime, team)

    checkpoint = Checkpoint(path, recipe, runtime.checkpoint_seconds)
    if config.pretrained:
        check_class_order(model, backbone, data, runtime, workers)
        history = TrainingHistory(epochs=[0], top1=[test(model)], losses=[])
    else:
        history = fit_pictures(model, data, task, test, runtime, checkpoint, team)
    if team.leads:
        save_teacher(path, model, backbone, data, vars(history), recipe)
        checkpoint.clear()
