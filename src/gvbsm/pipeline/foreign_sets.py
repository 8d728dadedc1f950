"""Sets of other methods as rows beside the run's own (`baselines.sets`)."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from gvbsm.config import ConfigError
from gvbsm.config.paths import user_path
from gvbsm.data.class_sizes import ImageCounts
from gvbsm.data.classes import matched_by_place, renumbered
from gvbsm.data.datasets import ImageData
from gvbsm.engine.progress.spelling import spell_range
from gvbsm.files.artifacts import is_current
from gvbsm.pipeline.run import Run
from gvbsm.store.distilled import DistilledDataset, stream_images
from gvbsm.store.image_set import FOREIGN

log = logging.getLogger("gvbsm")


def import_sets(run: Run, load: Callable[[Path], DistilledDataset]) -> None:
    """Copy the images of `baselines.sets` into the work directory; labels are made anew.

    A set whose content has changed is copied again, and what was made from it is made again.

    Raises:
        ConfigError: If a set has other classes or shapes than the pictures, or another number of
            images than the run's own.
        DataError, ArtifactError: If a set cannot be read.
    """
    places = run.config.baselines.sets
    sets = [image_set for image_set, _ in run.evaluated_sets if image_set.selection == FOREIGN]
    if not sets:
        return
    with run.team.begun(), run.processes.checking():
        for image_set in sets if run.processes.leads else ():
            name = image_set.method
            distilled = load(user_path(places[name]))
            where = f"baselines.sets {name} ({places[name]})"
            images, labels = fitting_images(distilled, run.data, run.counts, where)
            digest = hashlib.sha256(images.numpy().data)
            digest.update(labels.numpy().data)
            recipe = run.recipes.foreign(digest.hexdigest()[:20])
            if not is_current(image_set.images, recipe):
                batches = [(torch.arange(len(images)), images)]
                stream_images(image_set.images, name, recipe, labels, batches, run.data)
                log.info("baselines %s: %d images from %s", name, len(images), places[name])
    run.team.meet([image_set.images for image_set in sets])


def fitting_images(
    distilled: DistilledDataset, data: ImageData, counts: ImageCounts, where: str
) -> tuple[Tensor, Tensor]:
    """Return the images of a set, and their labels by the classes of the data, class by class.

    Classes are matched by name. If the names differ but not their number, the orders are assumed to
    agree (`matched_by_place`).

    Args:
        distilled: The set.
        data: The real pictures.
        counts: Images of each class that it must have, for a fair comparison.
        where: The set, for messages.

    Returns:
        uint8 (N, channels, side, side), and int64 (N,).

    Raises:
        ConfigError: If it does not fit.
    """
    images, names, classes = distilled.images, distilled.class_names, data.class_names
    expected = (data.channels, data.image_size, data.image_size)
    if tuple(images.shape[1:]) != expected:
        raise ConfigError(
            f"{where} has images of {list(images.shape[1:])} (channels, height, width), the "
            f"pictures are {list(expected)}: convert the set, or set data.image_size"
        )
    if len(names) != len(classes):
        raise ConfigError(f"{where} has {len(names)} classes, the pictures {len(classes)}")
    labels = renumbered(distilled.labels, names, classes)
    if labels is None:
        log.warning("%s: its class names differ, so the order of classes is assumed", where)
        labels = matched_by_place(distilled.labels, names, classes)
    found = torch.bincount(labels, minlength=len(classes)).tolist()
    if tuple(found) != counts.of_class:
        raise ConfigError(
            f"{where} has {spell_range(found)} images per class, the run "
            f"{spell_range(counts.of_class)}: choose another --ipc or set"
        )
    order = torch.argsort(labels, stable=True)
    return images[order].contiguous(), labels[order].contiguous()
