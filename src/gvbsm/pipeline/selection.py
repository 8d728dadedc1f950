"""Select real pictures, for baselines and for the start of synthesis."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Literal, cast

import torch
from torch import Tensor

from gvbsm.backbones import build_empty
from gvbsm.backbones.features import Features, feature_batches, teacher_features
from gvbsm.config import BY_DIFFICULTY, BY_FEATURES, Config, ConfigError
from gvbsm.config.build import forgetting_training
from gvbsm.config.settled import matched_teachers
from gvbsm.data.datasets import ImageData
from gvbsm.data.loading import plain_batches
from gvbsm.data.pictures import DataError
from gvbsm.data.starts import Start
from gvbsm.engine.out_of_memory import InParts
from gvbsm.engine.progress.spelling import spell_count
from gvbsm.files.artifacts import Recipe, remove_all
from gvbsm.files.tensors import load_tensors, save
from gvbsm.method.beyond.difficulty_groups import group_ends, group_numbers
from gvbsm.pipeline.context import RunContext
from gvbsm.stages.group_files import remove_group_files
from gvbsm.stages.selection.balanced import select_balanced
from gvbsm.stages.selection.coreset import (
    select_forgetting,
    select_herding,
    select_k_center,
    select_random,
)
from gvbsm.stages.selection.difficulty import measure_difficulty, with_batchnorm
from gvbsm.stages.selection.forgetting import record_forgetting
from gvbsm.stages.selection.nearest import NearestPictures
from gvbsm.stages.selection.starts import (
    choose_crops,
    repeat_pictures,
    select_lowest,
    start_from,
    training_losses,
)
from gvbsm.store.image_set import ImageSet
from gvbsm.store.recipes import seed_of

BATCH = 256  # pictures in a batch; the selection does not depend on it


def select_pictures(context: RunContext, method: str, draw: int = 0) -> Tensor:
    """Select as many training pictures of each class as it has images: indices, int64 (images,).

    They lie class by class. Of a class that has fewer pictures, all are taken, and again until
    there are enough.

    Args:
        context: Data, settings and teachers of the selection.
        method: random, herding, k-center, balanced or forgetting.
        draw: Number of the random selection; read with `random` alone.

    Raises:
        ArtifactError: If the teacher whose features are compared has not been trained.
        RunError: If the training for forgetting diverges.
    """
    listed = _listed(context)
    return listed[_select(context, listed, method, draw)]


def start_of(context: RunContext, image_set: ImageSet) -> Start | None:
    """Choose the real pictures that the images of a set start from; None is noise.

    All processes call it. Process 0 chooses what takes long, and writes it.
    """
    init = context.config.synthesis.init
    if init == "noise":
        return None
    if init == "real":  # cheap: each process draws it
        return draw_start(context, image_set.draw)
    if init in BY_DIFFICULTY:
        listed, end = _listed(context), cast(Literal["front", "back"], init.removeprefix("group_"))
        values, labels = picture_difficulty(context)[listed], context.data.train.labels[listed]
        entries = group_ends(values, labels, context.counts, end)
        return start_from(entries, listed, context.data, context.runtime)
    path = image_set.images.with_name("start.safetensors")
    if context.runtime.processes.leads:
        keep_start(context, path, context.recipes.images(image_set))
    context.team.meet([path])
    return Start(**load_tensors(path, "start")[0])


def nearest_pictures(context: RunContext, image_set: ImageSet) -> NearestPictures | None:
    """Return what finds the pictures that are mixed into images, if the set retrieves them."""
    if not image_set.retrieves:
        return None
    model, runtime = context.teachers[context.recipes.coreset_backbone], context.runtime

    def features(pictures: Tensor) -> Tensor:
        return teacher_features(model, [pictures], runtime).features

    return NearestPictures(context.data, features, runtime.device, runtime.seed)


def picture_difficulty(context: RunContext) -> Tensor:
    """Return the difficulty of each training picture, float64 (pictures,).

    All processes call it. Process 0 measures and writes it, unless a current file exists.
    """
    path, recipe = context.workspace.difficulty, context.recipes.difficulty()
    made = context.workspace.is_made
    if context.runtime.processes.leads and not made(path, recipe, "statistics", make=True):
        names = context.recipes.difficulty_backbones
        teachers = {name: context.teachers.matched(name) for name in names}
        values = measure_difficulty(teachers, context.data, context.runtime, context.workers)
        save(path, {"difficulty": values}, {"kind": "difficulty", "recipe": recipe})
    context.team.meet([path])
    return load_tensors(path, "difficulty")[0]["difficulty"]


def picture_divisions(context: RunContext) -> dict[str, Tensor]:
    """Return the divisions of the training pictures whose statistics are recorded, by name.

    All processes call it.

    Returns:
        Class and difficulty group of each picture, int64 (pictures,), as the settings ask for.
    """
    config, labels, parts = context.config.synthesis, context.data.train.labels, dict[str, Tensor]()
    if config.weight_class:
        parts["class"] = labels
    if config.difficulty_groups:
        parts["group"] = group_numbers(picture_difficulty(context), labels, context.counts)
    return parts


def check_difficulty(config: Config, data: ImageData) -> None:
    """Check that the difficulty of pictures can be measured, and that no group is without any.

    Args:
        config: The settings, settled for the classes.
        data: The real pictures.

    Raises:
        ConfigError, DataError: With one clear line.
    """
    synthesis, classes = config.synthesis, len(data.class_names)
    if synthesis.difficulty_groups or synthesis.init in BY_DIFFICULTY:
        shape = (classes, data.image_size, data.channels)
        with_batchnorm({name: build_empty(name, *shape) for name in matched_teachers(config)})
    if not synthesis.difficulty_groups:
        return
    if config.ipc_of:
        raise ConfigError(
            "synthesis.difficulty_groups divides each class into as many groups as it has images, "
            "and the k-th groups of all classes belong together: leave it out, or ipc_of"
        )
    largest = int(torch.bincount(data.train.labels, minlength=classes).max())
    if largest < config.ipc:
        raise DataError(
            f"synthesis.difficulty_groups divides each class into {config.ipc} groups of pictures, "
            f"but none has more than {spell_count(largest, 'training picture')}; lower --ipc"
        )


def draw_start(context: RunContext, draw: int) -> Start:
    """Start from random pictures of the class (`synthesis.init=real`)."""
    listed = _listed(context)
    entries = _select(context, listed, "random", draw)
    return start_from(entries, listed, context.data, context.runtime)


def _listed(context: RunContext) -> Tensor:
    """List all training pictures, those of small classes again: as many as images at least."""
    return repeat_pictures(context.data.train.labels, context.counts)


def _select(context: RunContext, listed: Tensor, method: str, draw: int = 0) -> Tensor:
    """Select entries of the list for each class; see `select_pictures`."""
    labels, counts = context.data.train.labels[listed], context.counts
    if method == "random":
        generator = context.runtime.generator("selection", draw)
        return select_random(labels, counts, generator)
    if method == "forgetting":
        generator = context.runtime.generator("selection", "forgetting")
        events = forgetting_events(context)[listed]
        return select_forgetting(events, labels, counts, generator)
    outputs = _outputs(context, listed)
    if method == "balanced":
        return select_balanced(outputs, labels, counts)
    choose = {"herding": select_herding, "k-center": select_k_center}[method]
    return choose((features for features, _ in outputs), labels, counts)


def keep_start(context: RunContext, path: Path, recipe: Recipe) -> None:
    """Choose the start of the pixels and write it, unless a current file exists.

    Raises:
        ArtifactError: If the teacher whose features are compared has not been trained, or a file is
            in the way.
    """
    if context.workspace.is_made(path, recipe, "synthesis", make=True):
        return
    start = _choose_start(context)
    tensors = {"pictures": start.pictures}
    if start.boxes is not None:
        tensors["boxes"] = start.boxes
    save(path, tensors, {"kind": "start", "recipe": recipe})


def remove_work_files(images: Path) -> None:
    """Remove what a finished synthesis of a file of images no longer needs."""
    remove_all([images.with_name("start.safetensors")])
    remove_group_files(images)


def _choose_start(context: RunContext) -> Start:
    config, data, runtime = context.config.synthesis, context.data, context.runtime
    if config.init in BY_FEATURES:
        listed = _listed(context)
        return start_from(_select(context, listed, config.init), listed, data, runtime)
    teachers = [InParts(context.teachers[name]) for name in matched_teachers(context.config)]
    counts, workers = context.counts, context.workers
    if config.init == "crops":
        return choose_crops(
            data, counts, config.crop_tiles, config.crop_scale, teachers, runtime, workers
        )
    listed = _listed(context)
    losses = training_losses(data, teachers, runtime, BATCH, workers)[listed]
    entries = select_lowest(losses, data.train.labels[listed], counts)
    return start_from(entries, listed, data, runtime)


def _outputs(context: RunContext, listed: Tensor) -> Iterator[Features]:
    """The teacher's features and logits of the listed pictures without augmentation, by batch."""
    backbone, data, runtime = context.recipes.coreset_backbone, context.data, context.runtime
    repeated = len(listed) > len(data.train)
    split = data.train.select(listed) if repeated else data.train
    batches = plain_batches(data, split, BATCH, runtime, context.workers)
    images = (images for images, _ in batches)
    count = math.ceil(len(split) / BATCH)
    pictures = runtime.track(images, f"features of {backbone}", "batch", count)
    try:
        yield from feature_batches(context.teachers[backbone], pictures, runtime)
    except DataError:
        raise
    except ValueError as error:
        raise ConfigError(f"coreset.backbone {backbone}: {error}") from None


def forgetting_events(context: RunContext) -> Tensor:
    """How often each training picture was forgotten, int64 (pictures,); recorded if need be.

    Raises:
        RunError: If the training diverges.
    """
    backbone, recipe = context.recipes.coreset_backbone, context.recipes.forgetting()
    path = context.workspace.forgetting(backbone)
    if not context.workspace.is_made(path, recipe, "synthesis", make=True):
        training = forgetting_training(context.config)
        runtime = replace(context.runtime, seed=seed_of(context.config, "squeeze"))
        with context.workspace.timed("forgetting"):
            data, workers = context.data, context.workers
            record_forgetting(backbone, data, training, runtime, path, recipe, workers)
    return load_tensors(path, "forgetting")[0]["events"]
