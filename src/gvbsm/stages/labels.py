"""Labels: the ensemble of teachers labels every view of every epoch (Eq. 8), as in FKD.

Labels are stored in the format of `store/soft_labels.py`. A store can be converted to a smaller one
without the teachers.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from gvbsm.config import LabelsConfig
from gvbsm.data.epochs import (
    EpochPlan,
    batch_size_for,
    draw_plan,
    join_plans,
    view_batch,
)
from gvbsm.data.loading import border_color
from gvbsm.data.pixels import Normalization
from gvbsm.engine.device import RunError, Runtime
from gvbsm.engine.out_of_memory import even_slices
from gvbsm.files.artifacts import ArtifactError, Recipe, check_replaceable
from gvbsm.method.beyond.label_pool import pooled_epochs
from gvbsm.method.fast.batches import Ensemble
from gvbsm.store.distilled import load_labels
from gvbsm.store.label_codec import row_bytes
from gvbsm.store.label_store import STORAGE, Shard
from gvbsm.store.plan_codec import plan_fields
from gvbsm.store.soft_labels import Encoded, EpochLabels, LabeledEpochs, SoftLabels

log = logging.getLogger("gvbsm")

SHARD_BYTES = 32 * 1024**2  # largest shard; a stop loses one, and a shard is read as a whole
SHARD_EPOCHS = 100  # most epochs of a shard
PIXELS = 2**15  # of small batches that are labeled at once: 512 views of 8 pixels, 32 of 32

Labeled = Callable[[Shard, Callable[[int], object]], Iterator[LabeledEpochs]]
"""Gives the epochs of a shard; calls its second argument with a number of finished batches."""


@dataclass(frozen=True)
class LabelTask:
    """Images to label, and the settings.

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
    """Convert the labels of a folder if that is possible, else label with the teachers.

    Args:
        task: The images and the settings.
        teachers: Loads the networks, in eval mode; called only if they are needed.
        runtime: Device, precision, seed, progress.
        directory: Folder of the store.
        recipe: Recipe of the labels.
        method: Method that made the images, for the log.
        convert_only: Raise if the labels cannot be converted.

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
    """Label all epochs of the store with the teachers, except those in finished shards.

    Args:
        task: The images and the settings.
        teachers: Networks in eval mode.
        runtime: Device, precision, seed, progress.
        directory: Folder of the store.
        recipe: Recipe of the labels.

    Raises:
        RunError: If a teacher's logits are not finite.
    """
    images, config, normalization = task.images, task.config, task.normalization
    count, size = len(images), images.shape[-1]
    store = new_store(directory, config, count, task.classes, size, runtime, recipe)
    border = border_color(config.views, normalization, runtime.device)
    ensemble = Ensemble(teachers, config, runtime)

    def labeled(shard: Shard, done: Callable[[int], object]) -> Iterator[LabeledEpochs]:
        for some in even_slices(len(shard.epochs), max(1, PIXELS // (count * size**2))):
            epochs = shard.epochs[some]
            plans = [draw_plan(count, size, config.views, epoch, runtime) for epoch in epochs]
            yield plans, labels_of(shard, epochs, join_plans(plans), done)

    def labels_of(
        shard: Shard, epochs: Sequence[int], plan: EpochPlan, done: Callable[[int], object]
    ) -> Iterator[Encoded]:
        batches = [
            (epoch, index)
            for epoch, order in zip(epochs, torch.split(plan.order, count), strict=True)
            for index in torch.split(order[shard.start : shard.stop], store.batch)
        ]
        at_once = max(1, PIXELS // (min(count, store.batch) * size**2))
        for several in even_slices(len(batches), at_once):
            numbers, indices = zip(*batches[several], strict=True)
            sizes = [len(index) for index in indices]
            pictures = view_batch(images, plan, torch.cat(indices), normalization, runtime, border)
            logits = ensemble.label(pictures, sizes).cpu()
            for epoch, rows in zip(numbers, torch.split(logits, sizes), strict=True):
                _check_logits(rows, epoch)
            yield store.encode(logits)
            done(len(sizes))

    if runtime.processes.leads:
        store.tidy()
        store.write_index()
    runtime.processes.barrier()
    _write_shards(store, labeled, runtime)
    return store


def _check_logits(logits: Tensor, epoch: int) -> None:
    if not bool(torch.isfinite(logits).all()):
        raise RunError(
            f"labels of epoch {epoch}: logits of the teachers are not finite in float16; train the "
            "teachers again with a lower squeeze.optimizer.lr"
        )


def convert_labels(
    directory: Path, config: LabelsConfig, size: int, runtime: Runtime, recipe: Recipe
) -> SoftLabels:
    """Convert a store to a smaller one, without teachers.

    The old store is removed when the new one is complete. Its bytes are those that
    `generate_labels` writes with these settings. `make_labels` checks beforehand that the old store
    holds all that the new one needs.

    Args:
        directory: Folder of the store.
        config: The stage's settings.
        size: Side of an image in pixels.
        runtime: Seed, progress.
        recipe: Recipe of the new store.
    """
    source = load_labels(directory)
    store = new_store(directory, config, source.images, source.classes, size, runtime, recipe)
    codes = [(labels.storage.top_k, labels.storage.bits) for labels in (source, store)]

    def labeled(shard: Shard, done: Callable[[int], object]) -> Iterator[LabeledEpochs]:
        for epoch in shard.epochs:
            plan, labels = source.epoch(epoch)
            yield [plan], converted(plan.order[shard.start : shard.stop], labels, done)

    def converted(
        order: Tensor, labels: EpochLabels, done: Callable[[int], object]
    ) -> Iterator[Encoded]:
        for index in torch.split(order, store.batch):
            if codes[0] == codes[1]:
                yield labels.encoded(index)
            else:
                yield store.encode(labels.logits(index).half())
            done(1)

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
    """Return the layout of a store; nothing is written.

    Args:
        directory: Folder of the store.
        config: Epochs, batches, views and storage.
        count: Images of the set.
        classes: Number of classes.
        size: Side of an image in pixels.
        runtime: Seed, with which a pool of epochs is drawn.
        recipe: Recipe of the labels.
    """
    kept = tuple(range(config.epochs))
    if config.storage.pruning > 1:
        kept = pooled_epochs(config.epochs, config.storage.pruning, runtime)
    fields = plan_fields(count, size, config.views)
    batch = batch_size_for(count, config.batch_size, config.full_batch_up_to)
    row = row_bytes(fields, classes, config.storage)
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
    """Return the reason why the labels of a folder cannot be converted, or None."""
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
    """Return the reason why `source` cannot be converted to `store`, or None."""
    old, new = ({**labels.recipe, STORAGE: None} for labels in (source, store))
    if old != new:
        return "they were made with other settings than labels.storage alone"
    if source.missing():
        return f"{len(source.missing())} of {len(source.shards)} shards are missing"
    if not set(store.kept) <= set(source.kept):
        return f"they hold {source.describe()}, fewer than the settings ask for"
    exact = source.storage.top_k is None and source.storage.bits == 16
    codes = [(labels.storage.top_k, labels.storage.bits) for labels in (source, store)]
    if not exact and codes[0] != codes[1]:
        return f"they hold {source.describe()}, which is not all that was labeled"
    return None


def _write_shards(store: SoftLabels, labeled: Labeled, runtime: Runtime) -> None:
    """Write the missing shards; several processes share them.

    Raises:
        ArtifactError: If a file of the user has the name of a missing shard. Nothing is labeled
            then.
    """
    missing = {shard.path for shard in store.shards if not store.is_made(shard)}
    for path in sorted(missing):
        check_replaceable(path)
    total = sum(map(store.batches, store.shards))
    with runtime.shared_progress(total, "labels", "batch") as bar:
        for shard in runtime.processes.deal(store.shards, len(store.shards)):
            if shard.path in missing:
                store.write(shard, labeled(shard, bar.update))
            else:
                bar.skip(store.batches(shard))
