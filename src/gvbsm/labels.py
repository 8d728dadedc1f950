"""Labels: the teachers' ensemble labels every view of every epoch (Eq. 8), as FKD stores them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from gvbsm.artifacts import Recipe, is_current, save, write_json
from gvbsm.config import LabelsConfig
from gvbsm.distilled import SoftLabels
from gvbsm.epochs import batch_size_for, draw_plan, label_batch, pack_plan, view_batch
from gvbsm.runtime import Runtime, check_finite

SHARD_BYTES = 32 * 1024**2  # lost at most when stopped, and read at once when opened


def generate_labels(
    images: Tensor,
    classes: int,
    teachers: Sequence[nn.Module],
    config: LabelsConfig,
    normalization: tuple[Sequence[float], Sequence[float]],
    runtime: Runtime,
    directory: Path,
    recipe: Recipe,
) -> SoftLabels:
    """Label all epochs and store views and logits; shards that are there already are kept.

    Args:
        images: The distilled images, uint8 (images, channels, size, size).
        classes: Number of classes.
        teachers: Networks in eval mode.
        config: The stage's settings.
        normalization: Mean and deviation of the data.
        runtime: Device, precision, seed, progress.
        directory: Where the shards go.
        recipe: What the labels are made from.

    Raises:
        RunError: If a teacher's logits are not finite.
    """
    count = len(images)
    shard_epochs = max(1, min(100, SHARD_BYTES // (count * classes * 2), config.epochs))
    labels = SoftLabels(directory, config.epochs, shard_epochs, count, classes)
    with runtime.progress(config.epochs, "labels", "epoch") as bar:
        shards = range(0, config.epochs, shard_epochs)
        for start in runtime.processes.deal(shards):
            path, stop = labels.shard_path(start), min(start + shard_epochs, config.epochs)
            if not is_current(path, recipe):
                rows = []
                for epoch in range(start, stop):
                    rows.append(
                        _label_epoch(images, teachers, config, normalization, epoch, runtime)
                    )
                    bar.update()
                tensors = {name: torch.stack([row[name] for row in rows]) for name in rows[0]}
                header = {"kind": "labels", "recipe": recipe, "epochs": [start, stop]}
                save(path, tensors, header)
            else:
                bar.update(stop - start)
    runtime.processes.barrier()
    if not runtime.processes.leads:
        return labels
    for stale in set(directory.glob("shard-*")) - {
        labels.shard_path(epoch) for epoch in range(config.epochs)
    }:
        stale.unlink()
    index = {
        name: getattr(labels, name) for name in ("epochs", "shard_epochs", "images", "classes")
    }
    write_json(directory / "index.json", {"recipe": recipe, **index})
    return labels


def _label_epoch(
    images: Tensor,
    teachers: Sequence[nn.Module],
    config: LabelsConfig,
    normalization: tuple[Sequence[float], Sequence[float]],
    epoch: int,
    runtime: Runtime,
) -> dict[str, Tensor]:
    """One epoch's plan and logits float16 (images, classes), indexed by image."""
    plan = draw_plan(len(images), images.shape[-1], config.views, epoch, runtime)
    size = batch_size_for(len(images), config.batch_size, config.full_batch_up_to)
    logits: Tensor | None = None
    for index in torch.split(plan.order, size):
        pictures = view_batch(images, plan, index, normalization, runtime)
        batch = label_batch(pictures, teachers, config.logit_normalization, runtime).cpu()
        check_finite(batch.float().sum(), f"labels of epoch {epoch}", "retrain the teachers")
        if logits is None:
            logits = torch.zeros(len(images), batch.shape[1], dtype=torch.float16)
        logits[index] = batch
    assert logits is not None
    return {"logits": logits, **pack_plan(plan)}
