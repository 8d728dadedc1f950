"""Count the pictures that pass through each network in a run, by kind of work."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from gvbsm.config import Config
from gvbsm.config.build import squeeze_of
from gvbsm.data.datasets import ImageData
from gvbsm.engine.forms import Kind
from gvbsm.pipeline.evaluated_sets import EvaluatedSet, needed_teachers

Workload = Counter[tuple[str, Kind]]
"""Pictures that a network is called on, by its name and the kind of work."""


def workload(config: Config, sets: Iterable[EvaluatedSet], data: ImageData) -> Workload:
    """Count the pictures of a whole run from its settings.

    Tests, and the passes that record statistics and select pictures, are not counted.

    Args:
        config: The run's settings.
        sets: What it evaluates.
        data: The real pictures.
    """
    sets, counts = list(sets), Workload()
    train, classes = len(data.train), len(data.class_names)
    for name in needed_teachers(config, [image_set for image_set, _ in sets]):
        squeeze = squeeze_of(config.squeeze, name)
        if not squeeze.pretrained:
            counts[name, "training"] += squeeze.epochs * train
    for student in config.evaluation.students:
        if "full" in config.baselines.methods:
            epochs = config.baselines.full_epochs * config.evaluation.seeds
            counts[student, "training"] += epochs * train
    for evaluated in sets:
        counts += _of_set(evaluated, classes)
    return counts


def _of_set(evaluated: EvaluatedSet, classes: int) -> Workload:
    """Count the pictures of a set's synthesis, labels and students."""
    image_set, seeds = evaluated
    config, counts = image_set.config, Workload()
    images, backbones = classes * config.ipc, config.squeeze.backbones
    if image_set.selection is None:
        names = config.synthesis.backbones or backbones
        for name in names:
            counts[name, "pixels"] += images * config.synthesis.iterations // len(names)
    views, students = images * config.labels.epochs, config.evaluation.students
    for student in students:
        counts[student, "training"] += views * len(seeds)
    if config.evaluation.loss == "hard":
        return counts
    labeled = views * len(seeds) * len(students)
    if image_set.stores_labels:
        labeled = round(views / config.labels.storage.pruning) * len(image_set.label_stores)
    for name in config.labels.backbones or backbones:
        counts[name, "inference"] += labeled
    return counts
