"""Forgetting: train a network and record which real pictures it classifies right each epoch."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from gvbsm.backbones import build_backbone
from gvbsm.config import SqueezeConfig
from gvbsm.data.datasets import ImageData
from gvbsm.data.loading import batch_count, plain_batches
from gvbsm.engine.device import Runtime
from gvbsm.engine.out_of_memory import InParts
from gvbsm.engine.seeds import seeded
from gvbsm.files.artifacts import Recipe, is_current, remove_all
from gvbsm.files.checkpoint import Checkpoint
from gvbsm.files.tensors import load_tensors, save
from gvbsm.stages.supervised import PictureTraining, fit_pictures


def record_forgetting(
    backbone: str,
    data: ImageData,
    config: SqueezeConfig,
    runtime: Runtime,
    path: Path,
    recipe: Recipe,
    workers: int = 0,
) -> None:
    """Train a network as the teachers are trained, and save how often each picture was forgotten.

    The network starts from random weights, even if the teachers are pretrained. During the
    training, the right predictions of each epoch are saved in a file, so that a run can be resumed.

    Args:
        backbone: Name of the architecture.
        data: The real pictures.
        config: The teachers' settings, with the epochs of this run.
        runtime: Device, precision, seed.
        path: File of the result: `events` of `count_forgetting`, int64 (training pictures,).
        recipe: Recipe of the result.
        workers: Processes that decode pictures.

    Raises:
        RunError: If the training diverges.
    """
    with seeded(runtime.seed, "forgetting", backbone, "weights"):
        model = build_backbone(backbone, len(data.class_names), data.image_size, data.channels)
    model = runtime.place(model)
    checkpoint = Checkpoint(path, recipe, runtime.checkpoint_seconds)
    folder = path.with_suffix("")
    files = [folder / f"epoch-{epoch:05d}.safetensors" for epoch in range(config.epochs)]
    steps = batch_count(len(data.train), config.batch_size)
    next_files = iter(files[_epochs_done(checkpoint, files, recipe, steps) :])

    def record(net: nn.Module) -> float:
        right = classified_rightly(net, data, runtime, workers)
        save(next(next_files), {"right": right}, {"kind": "forgetting epoch", "recipe": recipe})
        return 100.0 * float(right.float().mean())

    every_epoch = replace(config, tests=config.epochs)
    task = PictureTraining("forgetting", backbone, every_epoch, workers)
    history = fit_pictures(model, data, task, record, runtime, checkpoint)
    right = (load_tensors(file, "forgetting epoch")[0]["right"] for file in files)
    header = {"kind": "forgetting", "recipe": recipe, "backbone": backbone}
    save(path, {"events": count_forgetting(right)}, {**header, "history": vars(history)})
    checkpoint.clear()
    remove_all(folder.glob("epoch-*"))  # those of a stopped run of more epochs, too
    with suppress(OSError):  # the folder holds a file of the user
        folder.rmdir()


def _epochs_done(checkpoint: Checkpoint, files: Sequence[Path], recipe: Recipe, steps: int) -> int:
    """Count the epochs before the checkpoint; clear it if the file of one of them is missing."""
    saved = checkpoint.load()
    done = 0 if saved is None else int(saved[1]["step"]) // steps
    if all(is_current(file, recipe) for file in files[:done]):
        return done
    checkpoint.clear()
    return 0


def count_forgetting(right: Iterable[Tensor]) -> Tensor:
    """Count how often each picture was forgotten: right after one epoch, wrong after the next.

    Toneva et al. (ICLR 2019) test a picture when it is in a training batch. Here all pictures are
    tested after each epoch, without augmentation, by the same weights.

    Args:
        right: For each epoch, whether each picture was given its class, bool (pictures,).

    Returns:
        int64 (pictures,). A picture that was never right counts as forgotten `epochs` times, which
        is more than any other can be.
    """
    epochs = iter(right)
    before = ever = next(epochs)
    events, count = torch.zeros(len(before), dtype=torch.int64), 1
    for now in epochs:
        events += before & ~now
        before, ever, count = now, ever | now, count + 1
    return events.masked_fill(~ever, count)


def classified_rightly(
    model: nn.Module, data: ImageData, runtime: Runtime, workers: int = 0
) -> Tensor:
    """Test which training pictures are classified right, without augmentation.

    The network is in eval mode afterwards.

    Args:
        model: A network on its device.
        data: The real pictures.
        runtime: Device and precision.
        workers: Processes that decode pictures.

    Returns:
        bool (training pictures,), on the CPU.
    """
    predict = InParts(model.eval())
    right = []
    with torch.inference_mode(), runtime.autocast():
        for pictures, labels in plain_batches(data, data.train, 256, runtime, workers):
            right.append(predict(pictures).argmax(dim=1) == labels)
    return torch.cat(right).cpu()
