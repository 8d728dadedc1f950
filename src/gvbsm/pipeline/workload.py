"""Count the pictures that pass through each network in a run, by kind of work."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable

from gvbsm.config import Config
from gvbsm.config.build import squeeze_of
from gvbsm.data.datasets import ImageData
from gvbsm.engine.forms import Kind
from gvbsm.pipeline.evaluated_sets import EvaluatedSet, needed_teachers

STAGES = ("squeeze", "statistics", "synthesis", "labels", "evaluation", "full")

Workload = Counter[tuple[str, Kind]]
"""Pictures that a network is called on, by its name and the kind of work."""


def workload(
    config: Config,
    sets: Iterable[EvaluatedSet],
    data: ImageData,
    stages: Collection[str] = STAGES,
) -> Workload:
    """Count the pictures of a run, or of some of its stages, from its settings.

    Tests, and the passes that record statistics and select pictures, are not counted; the pass of
    the statistics has the networks and the counts of the synthesis, whose form it takes.

    Args:
        config: The run's settings.
        sets: What it evaluates.
        data: The real pictures.
        stages: The stages to count, of `STAGES`.
    """
    sets, counts = list(sets), Workload()
    train, classes = len(data.train), len(data.class_names)
    if "squeeze" in stages:
        for name in needed_teachers(config, [image_set for image_set, _ in sets]):
            squeeze = squeeze_of(config.squeeze, name)
            if not squeeze.pretrained:
                counts[name, "training"] += squeeze.epochs * train
    if "full" in stages and "full" in config.baselines.methods:
        epochs = config.baselines.full_epochs * config.evaluation.seeds
        for student in config.evaluation.students:
            counts[student, "training"] += epochs * train
    for evaluated in sets:
        if not {"statistics", "synthesis"}.isdisjoint(stages):
            counts += _of_synthesis(evaluated, classes)
        if "evaluation" in stages:
            counts += _of_students(evaluated, classes)
        if ("labels" if evaluated.image_set.stores_labels else "evaluation") in stages:
            counts += _of_labels(evaluated, classes)
    return counts


def _of_synthesis(evaluated: EvaluatedSet, classes: int) -> Workload:
    image_set, counts = evaluated.image_set, Workload()
    config = image_set.config
    if image_set.selection is None:
        names = config.synthesis.backbones or config.squeeze.backbones
        for name in names:
            passes = classes * config.ipc * config.synthesis.iterations
            counts[name, "pixels"] += passes // len(names)
    return counts


def _of_students(evaluated: EvaluatedSet, classes: int) -> Workload:
    config, counts = evaluated.image_set.config, Workload()
    for student in config.evaluation.students:
        views = classes * config.ipc * config.labels.epochs
        counts[student, "training"] += views * len(evaluated.seeds)
    return counts


def _of_labels(evaluated: EvaluatedSet, classes: int) -> Workload:
    image_set, counts = evaluated.image_set, Workload()
    config = image_set.config
    if config.evaluation.loss == "hard":
        return counts
    views = classes * config.ipc * config.labels.epochs
    labeled = views * len(evaluated.seeds) * len(config.evaluation.students)
    if image_set.stores_labels:
        labeled = round(views / config.labels.storage.pruning) * len(image_set.label_stores)
    for name in config.labels.backbones or config.squeeze.backbones:
        counts[name, "inference"] += labeled
    return counts
