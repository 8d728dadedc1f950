"""Forgetting: train a fresh network and note which real pictures it knows after each epoch."""

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
from gvbsm.files.artifacts import Recipe, is_current, load_tensors, remove_all, save
from gvbsm.files.checkpoint import Checkpoint
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
    """Train a network as the teachers are, and save how often each picture was forgotten.

    It starts from random weights, also where the teachers are pretrained. Until all is done, what
    was right after an epoch lies in a file of its own, so that a stopped run ends the same.

    Args:
        backbone: Name of the architecture.
        data: The real pictures.
        config: The teachers' settings, with the epochs of this run.
        runtime: Device, precision, seed.
        path: Where the result goes: `events` of `count_forgetting`, int64 (training pictures,).
        recipe: What it is made from.
        workers: Processes that decode pictures.

    Raises:
        RunError: If the training diverges.
    """
    with seeded(runtime.seed, "forgetting", backbone, "weights"):
        model = build_backbone(backbone, len(data.class_names), data.image_size, data.channels)
    model = runtime.place(model)
    checkpoint = Checkpoint(path, recipe, runtime.checkpoint_seconds)
    parts = path.with_suffix("")  # a folder
    files = [parts / f"epoch-{epoch:05d}.safetensors" for epoch in range(config.epochs)]
    steps = batch_count(len(data.train), config.batch_size)
    waiting = iter(files[_epochs_done(checkpoint, files, recipe, steps) :])

    def record(net: nn.Module) -> float:
        right = classified_rightly(net, data, runtime, workers)
        save(next(waiting), {"right": right}, {"kind": "forgetting epoch", "recipe": recipe})
        return 100.0 * float(right.float().mean())

    every_epoch = replace(config, tests=config.epochs)
    task = PictureTraining("forgetting", backbone, every_epoch, workers)
    history = fit_pictures(model, data, task, record, runtime, checkpoint)
    right = (load_tensors(file, "forgetting epoch")[0]["right"] for file in files)
    header = {"kind": "forgetting", "recipe": recipe, "backbone": backbone}
    save(path, {"events": count_forgetting(right)}, {**header, "history": vars(history)})
    checkpoint.clear()
    remove_all(files)
    with suppress(OSError):  # it holds a file that gvbsm did not make
        parts.rmdir()


def _epochs_done(checkpoint: Checkpoint, files: Sequence[Path], recipe: Recipe, steps: int) -> int:
    """Epochs that the checkpoint is past; it is cleared if the file of one of them is lost."""
    found = checkpoint.load()
    done = 0 if found is None else int(found[1]["step"]) // steps
    if all(is_current(file, recipe) for file in files[:done]):
        return done
    checkpoint.clear()
    return 0


def count_forgetting(right: Iterable[Tensor]) -> Tensor:
    """How often each picture was forgotten: right after one epoch, and wrong after the next.

    Toneva et al. (ICLR 2019) look at a picture whenever it is in a training batch. Here all are
    looked at after each epoch, without augmentation, so that one state of the network judges all.

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
    """Whether each training picture, unchanged, is given its class; leaves the net in eval mode.

    Args:
        model: A network on its device.
        data: The real pictures.
        runtime: Device and precision.
        workers: Processes that decode pictures.

    Returns:
        bool (training pictures,), on the CPU.
    """
    answer = InParts(model.eval())
    right = []
    with torch.inference_mode(), runtime.autocast():
        for pictures, labels in plain_batches(data, data.train, 256, runtime, workers):
            right.append(answer(pictures).argmax(dim=1) == labels)
    return torch.cat(right).cpu()
