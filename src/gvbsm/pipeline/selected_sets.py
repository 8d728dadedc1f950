"""Make sets of real pictures, and that of curriculum: with some of the run's own images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from gvbsm.config import Config, ConfigError
from gvbsm.config.build import selection_of
from gvbsm.data.class_sizes import image_counts
from gvbsm.data.datasets import ImageData
from gvbsm.data.loading import gather_images, picture_parts
from gvbsm.files.artifacts import Recipe, is_current
from gvbsm.files.tensors import load_tensors
from gvbsm.pipeline.context import RunContext
from gvbsm.pipeline.selection import forgetting_events, select_pictures
from gvbsm.stages.selection.coreset import select_random
from gvbsm.stages.selection.curriculum import (
    FilterTraining,
    distilled_counts,
    round_counts,
    select_by_curriculum,
)
from gvbsm.stages.selection.forgetting import classified_rightly
from gvbsm.stages.selection.starts import repeat_pictures
from gvbsm.store.distilled import stream_images
from gvbsm.store.image_set import CURRICULUM, ImageSet
from gvbsm.store.recipes import seed_of

SHOWN_CLASSES = 20  # classes of the sample of real pictures


@dataclass(frozen=True)
class _Distilled:
    """The distilled images of the set, and their classes."""

    images: Tensor  # uint8 (n, channels, size, size), class by class
    labels: Tensor  # int64 (n,)

    @classmethod
    def of(cls, context: RunContext, counts: Sequence[int]) -> _Distilled:
        """Take the first images of each class of the run's own set, as many as `counts` says."""
        own = ImageSet(context.config, context.workspace.directory)
        context.workspace.is_made(own.images, context.recipes.images(own), "synthesis", make=False)
        tensors, _ = load_tensors(own.images, "images")
        rows = torch.cat(
            [
                (tensors["labels"] == label).nonzero().flatten()[:count]
                for label, count in enumerate(counts)
            ]
        )
        return cls(tensors["images"][rows], tensors["labels"][rows])


def check_curriculum(config: Config, methods: Sequence[str], data: ImageData) -> None:
    """Check that the baseline curriculum has images to begin with, and pictures to select.

    Raises:
        ConfigError: With one clear line.
    """
    if selection_of(config.method) == CURRICULUM:
        raise ConfigError(
            f"{config.method} completes the images of a run, and cannot be the run's own method: "
            "name it in --baselines.methods"
        )
    named = [method for method in methods if selection_of(method) == CURRICULUM]
    counts = image_counts(config, data.class_names).of_class
    if named and list(counts) == distilled_counts(counts, config.coreset.distilled_share):
        raise ConfigError(
            f"{named[0]} takes {config.coreset.distilled_share} of a class's images from the run, "
            "one at least, which leaves no real picture to select here: raise --ipc, or leave it "
            "out"
        )


def keep_selected(context: RunContext, image_set: ImageSet, recipe: Recipe) -> None:
    """Select real pictures, and write the set.

    Raises:
        ArtifactError: If images or teachers that it needs have not been made.
        RunError: If a training diverges.
    """
    assert image_set.selection is not None
    if image_set.selection == CURRICULUM:
        _keep_curriculum(context, image_set, recipe)
        return
    index = select_pictures(context, image_set.selection, image_set.draw)
    _keep_real(image_set.images, image_set.method, recipe, index, context.data)


def sample_real(context: RunContext) -> Path:
    """Write a random sample of real pictures of the first classes, to be shown; return its file.

    It has as many pictures of a class as there are images, but at least 10 and at most 50, and not
    more than the smallest class.
    """
    path, recipe, data = context.workspace.real, context.recipes.real(), context.data
    if is_current(path, recipe):
        return path
    labels = data.train.labels
    shown = min(SHOWN_CLASSES, len(data.class_names))
    smallest = int(torch.bincount(labels)[:shown].min())
    count = min(max(context.config.ipc, 10), 50, smallest)
    index = select_random(labels, [count] * shown, context.runtime.generator("real"))
    _keep_real(path, "real", recipe, index, data)
    return path


def _keep_real(path: Path, method: str, recipe: Recipe, index: Tensor, data: ImageData) -> None:
    """Write training pictures, given by their indices class by class, as a set of images."""
    parts = picture_parts(data, index)
    stream_images(path, method, recipe, data.train.labels[index], parts, data)


def _keep_curriculum(context: RunContext, image_set: ImageSet, recipe: Recipe) -> None:
    data, counts, section = context.data, context.counts, context.config.coreset
    own_counts = distilled_counts(counts, section.distilled_share)
    missing = [count - own for count, own in zip(counts, own_counts, strict=True)]
    distilled = _Distilled.of(context, own_counts)
    listed = repeat_pictures(data.train.labels, missing)
    training = _filter_training(context, image_set.images.parent, recipe)
    taken = listed[
        select_by_curriculum(
            _events(context, listed),
            data.train.labels[listed],
            round_counts(missing, section.curricula),
            _candidates_of(context, distilled, listed, training),
            context.runtime.generator("selection", CURRICULUM),
        )
    ]
    labels = torch.cat([distilled.labels, data.train.labels[taken]])
    order = labels.argsort(stable=True)
    place = order.argsort()  # of each picture in the set
    first = len(distilled.labels)
    parts = [(place[:first], distilled.images)]
    real = ((place[first + rows], pictures) for rows, pictures in picture_parts(data, taken))
    method, path = image_set.method, image_set.images
    stream_images(path, method, recipe, labels[order], (*parts, *real), data)
    training.clear()


def _events(context: RunContext, listed: Tensor) -> Tensor:
    """How often each listed picture was forgotten; those that are listed again come last."""
    events, pictures = forgetting_events(context)[listed], len(context.data.train)
    again = torch.arange(len(listed) - pictures)
    events[pictures:] = events.max() + 1 + again
    return events


def _filter_training(context: RunContext, folder: Path, recipe: Recipe) -> FilterTraining:
    """The training of the filters, which is that of the first student."""
    student = context.config.evaluation.students[0]
    runtime = replace(context.runtime, seed=seed_of(context.config, "evaluation"))
    runtime = runtime.of(student, "training")
    return FilterTraining(student, context.data, runtime, folder, recipe, context.workers)


def _candidates_of(
    context: RunContext, distilled: _Distilled, listed: Tensor, training: FilterTraining
) -> Callable[[int, Tensor], Tensor]:
    """Return what trains the filter of a round on the set as it is, and finds the candidates."""
    data = context.data
    teacher = context.teachers[context.recipes.coreset_backbone]
    known = classified_rightly(teacher, data, context.runtime, context.workers)
    config = ImageSet(context.config, Path()).of_student(training.student).config

    def candidates(number: int, taken: Tensor) -> Tensor:
        real = listed[taken]
        images = torch.cat([distilled.images, gather_images(data, real)])
        labels = torch.cat([distilled.labels, data.train.labels[real]])
        task = context.student_task(config, images, labels)
        found = (known & training.classified_wrong(number, task))[listed]
        found[len(data.train) :] = False  # pictures that are listed again
        return found

    return candidates
