"""Count the pictures that pass through each network in a run, by kind of work."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable

from gvbsm.config import Config
from gvbsm.config.build import squeeze_of
from gvbsm.config.settled import labeling_teachers, matched_teachers
from gvbsm.data.class_sizes import image_counts
from gvbsm.data.datasets import ImageData
from gvbsm.engine.forms import Kind
from gvbsm.method.beyond.hard_phase import hard_epochs
from gvbsm.pipeline.evaluated_sets import EvaluatedSet, needed_teachers
from gvbsm.store.image_set import ImageSet

STAGES = ("squeeze", "statistics", "synthesis", "labels", "evaluation", "full")
"""Stages of a run, with which the names of times begin; `full` trains on all real pictures."""

TIMED = (*STAGES, "corruptions")
"""What names of times begin with: also the corrupted copies, and the teachers' tests on them."""

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
    """
    sets, counts = list(sets), Workload()
    images = image_counts(config, data.class_names).total  # of each set
    if "squeeze" in stages:
        for name in needed_teachers(config, [image_set for image_set, _ in sets]):
            if pictures := teacher_pictures(config, name, data):
                counts[name, "training"] += pictures
    if "full" in stages and "full" in config.baselines.methods:
        epochs = config.baselines.full_epochs * config.evaluation.seeds
        for student in config.evaluation.students:
            counts[student, "training"] += epochs * len(data.train)
    if not {"statistics", "synthesis"}.isdisjoint(stages):
        image_sets = {image_set.images: image_set for image_set, _ in sets}  # shared ones once
        for image_set in image_sets.values():
            counts += synthesis_pictures(image_set, images)
    for evaluated in sets:
        counts += _of_set(evaluated, images, stages)
    return counts


def _of_set(evaluated: EvaluatedSet, images: int, stages: Collection[str]) -> Workload:
    """Count the views of a set that its students and their teachers get."""
    (image_set, seeds), counts = evaluated, Workload()
    config = image_set.config
    students = config.evaluation.students
    if "evaluation" in stages:
        for student in students:
            counts[student, "training"] += student_views(config, images) * len(seeds)
    if image_set.stores_labels:
        labeled = stored_views(config, images) * len(image_set.label_stores)
        counts += label_pictures(config, labeled if "labels" in stages else 0)
    elif "evaluation" in stages:
        labeled = online_views(config, images) * len(seeds) * len(students)
        counts += label_pictures(config, labeled)
    return counts


def teacher_pictures(config: Config, name: str, data: ImageData) -> int:
    """Count the pictures that a teacher is trained on; 0 if its weights are published ones."""
    squeeze = squeeze_of(config.squeeze, name)
    return 0 if squeeze.pretrained else squeeze.epochs * len(data.train)


def synthesis_pictures(image_set: ImageSet, images: int) -> Workload:
    """Count the pictures that the teachers get in the synthesis of a set; none are selected."""
    config, counts = image_set.config, Workload()
    if image_set.selection is None:
        names = matched_teachers(config)
        for name in names:
            passes = images * config.synthesis.iterations
            counts[name, "pixels"] += passes // len(names)
    return counts


def student_views(config: Config, images: int) -> int:
    """Count the views of a set of so many images that one student is trained on."""
    return images * config.labels.epochs


def online_views(config: Config, images: int) -> int:
    """Count the views of so many images that are labeled during the training of one student."""
    epochs = config.labels.epochs
    return images * (epochs - len(hard_epochs(epochs, config.evaluation)))


def stored_views(config: Config, images: int) -> int:
    """Count the views whose labels one label store of so many images holds."""
    return round(student_views(config, images) / config.labels.storage.pruning)


def label_pictures(config: Config, views: int) -> Workload:
    """Count the views that each teacher labels, of so many; none for hard labels."""
    counts = Workload()
    if config.evaluation.loss != "hard":
        for name in labeling_teachers(config):
            counts[name, "inference"] += views
    return counts
