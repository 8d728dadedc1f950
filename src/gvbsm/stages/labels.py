"""Labels: the teachers' ensemble labels every view of every epoch (Eq. 8), as FKD stores them.

The format is that of `store/soft_labels.py`. An existing store can be converted to a smaller one
without its teachers.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from gvbsm.config import LabelsConfig
from gvbsm.data.epochs import (
    batch_size_for,
    draw_plan,
    view_batch,
)
from gvbsm.data.loading import border_color
from gvbsm.data.pixels import Normalization
from gvbsm.engine.device import Runtime
from gvbsm.engine.finite import check_finite
from gvbsm.files.artifacts import ArtifactError, Recipe, check_replaceable
from gvbsm.method.beyond.label_pool import pooled_epochs
from gvbsm.method.ensemble import label_batch
from gvbsm.store.distilled import load_labels
from gvbsm.store.label_codec import encode_logits, packed_bytes
from gvbsm.store.plan_codec import plan_fields
from gvbsm.store.soft_labels import STORAGE, Encoded, LabeledEpoch, SoftLabels

log = logging.getLogger("gvbsm")

SHARD_BYTES = 32 * 1024**2  # lost at most when stopped, and read at once when first opened
SHARD_EPOCHS = 100  # likewise


@dataclass(frozen=True)
class LabelTask:
    """What is labeled, and how.

    Attributes:
        images: The distilled images, uint8 (images, channels, size, size).
        classes: Number of classes.
        config: The stage's settings.
        normalization: Mean and standard deviation of the data.
    """

    images: Tensor
    classes: int
    config: LabelsConfig
    normalization: Normalization


def make_labels(
    task: LabelTask,
    teachers: Callable[[], Sequence[nn.Module]],
    runtime: Runtime,
    directory: Path,
    recipe: Recipe,
    method: str,
    convert_only: bool = False,
) -> SoftLabels:
    """Convert the labels of a folder if they hold enough, else let the teachers label.

    Args:
        task: What is labeled, and how.
        teachers: Gives the networks, in eval mode, if they are needed.
        runtime: Device, precision, seed, progress.
        directory: Where the shards go.
        recipe: What the labels are made from.
        method: Whose images they are, for the log.
        convert_only: Do not let the teachers label.

    Raises:
        ArtifactError: If `convert_only` and the labels cannot be converted.
        RunError: If a teacher's logits are not finite.
    """
    config, size = task.config, task.images.shape[-1]
    check_replaceable(directory / "index.json")
    fault = runtime.processes.same(lambda: _why_not(directory, config, size, runtime, recipe))
    if fault and convert_only:
        raise ArtifactError(fault)
    before = 0 if fault else load_labels(directory).nbytes()
    if fault is None:
        store = convert_labels(directory, config, size, runtime, recipe)
    else:
        store = generate_labels(task, teachers(), runtime, directory, recipe)
    size_before = "" if fault else f", before {before}"
    if runtime.processes.leads:
        summary = store.describe()
        log.info("labels %s: %s, %d bytes%s", method, summary, store.nbytes(), size_before)
    return store


def generate_labels(
    task: LabelTask,
    teachers: Sequence[nn.Module],
    runtime: Runtime,
    directory: Path,
    recipe: Recipe,
) -> SoftLabels:
    """Label all epochs that are kept; shards that exist already are left as they are.

    Args:
        task: What is labeled, and how.
        teachers: Networks in eval mode.
        runtime: Device, precision, seed, progress.
        directory: Where the shards go.
        recipe: What the labels are made from.

    Raises:
        RunError: If a teacher's logits are not finite.
    """
    images, config, normalization = task.images, task.config, task.normalization
    count, size = len(images), images.shape[-1]
    store = new_store(directory, config, count, task.classes, size, runtime, recipe)
    border = border_color(config.views, normalization, runtime.device)

    def labeled(epoch: int) -> LabeledEpoch:
        plan = draw_plan(count, size, config.views, epoch, runtime)

        def label(index: Tensor) -> Encoded:
            pictures = view_batch(images, plan, index, normalization, runtime, border)
            logits = label_batch(pictures, teachers, config, runtime).cpu()
            check_finite(logits.float().sum(), f"labels of epoch {epoch}", "retrain the teachers")
            return store.encode(logits)

        return plan, label

    if runtime.processes.leads:
        store.tidy()
        store.write_index()
    runtime.processes.barrier()
    _write_shards(store, labeled, runtime)
    return store


def convert_labels(
    directory: Path, config: LabelsConfig, size: int, runtime: Runtime, recipe: Recipe
) -> SoftLabels:
    """Make a folder's store smaller, without teachers; it stays until the new one is whole.

    The outcome is what `generate_labels` makes with these settings, to the byte. `make_labels` asks
    first whether what is there holds what the new store needs.

    Args:
        directory: The folder.
        config: The stage's settings.
        size: Side of an image in pixels.
        runtime: Seed, progress.
        recipe: What the new store is made from.
    """
    source = load_labels(directory)
    store = new_store(directory, config, source.images, source.classes, size, runtime, recipe)
    codes = [(kept.storage.top_k, kept.storage.bits) for kept in (source, store)]

    def labeled(epoch: int) -> LabeledEpoch:
        plan, labels = source.epoch(epoch)
        if codes[0] == codes[1]:
            return plan, labels.encoded
        return plan, lambda index: store.encode(labels.logits(index).half())

    _write_shards(store, labeled, runtime)
    if runtime.processes.leads:
        store.write_index()
        store.tidy()
    return store


def new_store(
    directory: Path,
    config: LabelsConfig,
    count: int,
    classes: int,
    size: int,
    runtime: Runtime,
    recipe: Recipe,
) -> SoftLabels:
    """Lay out a store; nothing is written.

    Args:
        directory: Its folder.
        config: Epochs, batches, views and how they are kept.
        count: Images of the set.
        classes: Number of classes.
        size: Side of an image in pixels.
        runtime: Holds the seed, from which a pool of epochs is drawn.
        recipe: What the labels are made from.
    """
    kept = tuple(range(config.epochs))
    if config.storage.pruning > 1:
        kept = pooled_epochs(config.epochs, config.storage.pruning, runtime)
    fields = plan_fields(count, size, config.views)
    batch = batch_size_for(count, config.batch_size, config.full_batch_up_to)
    empty = torch.zeros(1, classes, dtype=torch.float16)
    encoded = encode_logits(empty, config.storage.top_k, config.storage.bits).values()
    row = packed_bytes(fields) + sum(code.nbytes for code in encoded)
    together = SHARD_BYTES // (row * count)  # epochs in a shard; 0 cuts an epoch between batches
    cut = batch * max(1, SHARD_BYTES // (row * batch))
    return SoftLabels(
        directory,
        config.epochs,
        count,
        classes,
        kept,
        config.storage,
        fields,
        batch,
        shard_epochs=max(1, min(together, SHARD_EPOCHS, len(kept))),
        shard_images=count if together else min(count, cut),
        recipe=recipe,
    )


def _why_not(
    directory: Path, config: LabelsConfig, size: int, runtime: Runtime, recipe: Recipe
) -> str | None:
    """Why the labels of a folder cannot be converted; None if they can."""
    if not (directory / "index.json").is_file():
        return f"there are no labels in {directory} to convert"
    try:
        source = load_labels(directory)
    except ArtifactError as error:
        return str(error)
    store = new_store(directory, config, source.images, source.classes, size, runtime, recipe)
    fault = _unfit(source, store)
    return fault and f"the labels in {directory} cannot be converted: {fault}"


def _unfit(source: SoftLabels, store: SoftLabels) -> str | None:
    """Why a store cannot be made from another one; None if it can."""
    old, new = ({**kept.recipe, STORAGE: None} for kept in (source, store))
    if old != new:
        return "they were made with other settings than labels.storage alone"
    if source.missing():
        return f"{len(source.missing())} of {len(source.shards)} shards are missing"
    if not set(store.kept) <= set(source.kept):
        return f"they hold {source.describe()}, fewer than are wanted"
    was, wanted = source.storage, store.storage
    exact = was.top_k is None and was.bits == 16
    if not exact and (was.top_k, was.bits) != (wanted.top_k, wanted.bits):
        return f"they hold {source.describe()}, which is not all that was labeled"
    return None


def _write_shards(
    store: SoftLabels, labeled: Callable[[int], LabeledEpoch], runtime: Runtime
) -> None:
    """Write the shards that are missing; several processes share them out."""
    total = sum(map(store.batches, store.shards))
    with runtime.progress(total, "labels", "batch") as bar:
        for shard in runtime.processes.deal(store.shards):
            if store.is_made(shard):
                bar.update(store.batches(shard))
            else:
                store.write(shard, labeled, bar.update)
    runtime.processes.barrier()
