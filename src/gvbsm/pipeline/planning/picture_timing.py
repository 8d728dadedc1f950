"""Time the loading of pictures, and the writing and reading of soft labels, without networks."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gvbsm.config import EvaluationConfig, LabelsConfig, LabelStorageConfig
from gvbsm.data.corrupted.library import check_library, corrupt
from gvbsm.data.datasets import ImageData
from gvbsm.data.loading import plain_batches, view_batches
from gvbsm.data.pictures import Split
from gvbsm.engine.forms.race import timed
from gvbsm.pipeline.planning.peak_memory import PeakMemory
from gvbsm.pipeline.planning.timing_task import TimingTask, repetitions
from gvbsm.pipeline.planning.work import Cost, Work
from gvbsm.stages.labels import SHARD_EPOCHS, LabelTask, generate_labels
from gvbsm.store.batches import Labeler, StudentTask

VIEWS = 1500  # views that are drawn, labeled and read to time a label store


def without_network(
    seconds_of: Callable[[TimingTask, Work], float],
) -> Callable[[TimingTask, Work, PeakMemory], Cost]:
    """Measure the memory of a timing that calls no network, at its own peak."""

    def timing(task: TimingTask, work: Work, memory: PeakMemory) -> Cost:
        memory.begin()
        seconds = seconds_of(task, work)
        return Cost(seconds, memory.taken())

    return timing


def time_real_views(task: TimingTask, work: Work) -> float:
    """Return the seconds a picture of loading training pictures and of their views."""
    views: Any = dict(work.settings)["views"]
    data = _resized(task, work)

    def load(batches: int) -> None:
        index = torch.arange(batches * work.batch) % len(data.train)
        list(view_batches(data, views, torch.split(index, work.batch), task.runtime, ("cost",)))

    return _loading(task, work, load)


def time_test_pictures(task: TimingTask, work: Work) -> float:
    """Return the seconds a picture of loading test pictures."""
    data = _resized(task, work)

    def load(batches: int) -> None:
        index = torch.arange(batches * work.batch) % len(data.train)
        split = data.train.select(index)
        list(plain_batches(data, split, work.batch, task.runtime, workers=0))

    return _loading(task, work, load)


def _loading(task: TimingTask, work: Work, load: Callable[[int], None]) -> float:
    """Seconds a picture of a loader; processes that decode share the pictures of files."""
    shared = max(1, task.workers) if task.data.train.images is None else 1
    load(1)
    first = timed(partial(load, 1), task.runtime)
    batches = repetitions(first)
    return timed(partial(load, batches), task.runtime) / (batches * work.batch * shared)


def _resized(task: TimingTask, work: Work) -> ImageData:
    """The training pictures at the side of a work: noise where they are in memory."""
    data = replace(task.data, image_size=work.side)
    if data.train.images is None:
        return data
    count = min(len(data.train), 2 * work.batch)
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (count, *task.shape(work)), generator=generator)
    return replace(data, train=Split(data.train.labels[:count], images.to(torch.uint8)))


def time_corrupting(task: TimingTask, work: Work) -> float:
    """Return the seconds of a corrupted copy of a picture, on the average over severities.

    Raises:
        ConfigError: If the library is missing: a budget is predicted before the run is checked.
    """
    check_library()
    settings: dict[str, Any] = dict(work.settings)
    noise = torch.randint(256, task.shape(work), generator=torch.Generator().manual_seed(0))
    picture = noise.to(torch.uint8)

    def make_copies() -> None:
        for severity in settings["severities"]:
            corrupt(picture, settings["kind"], severity, seed=0)

    make_copies()  # some kinds are compiled at their first call
    return timed(make_copies, task.runtime) / len(settings["severities"])


class _Fixed(nn.Module):
    """Answers every picture with the same logits, in no time."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.logits: Tensor
        self.register_buffer("logits", torch.linspace(-1, 1, classes)[None])

    def forward(self, pictures: Tensor) -> Tensor:
        return self.logits.expand(len(pictures), -1)


def time_label_store(task: TimingTask, work: Work) -> float:
    """Return the seconds a view of drawing it and storing its label, without the teachers."""
    labeling, runtime = _set_of(task, work), task.quiet(task.runtime)
    teachers = [_Fixed(task.classes).to(runtime.device)]

    def write(epochs: int) -> None:
        config = replace(labeling.config, epochs=epochs)
        with tempfile.TemporaryDirectory() as folder:
            generate_labels(replace(labeling, config=config), teachers, runtime, Path(folder), {})

    write(1)
    epochs = labeling.config.epochs
    return timed(partial(write, epochs), runtime) / (epochs * len(labeling.images))


def time_set_batches(task: TimingTask, work: Work) -> float:
    """Return the seconds a view of drawing it and reading its label, for a student."""
    labeling, runtime = _set_of(task, work), task.quiet(task.runtime)
    images, config = labeling.images, labeling.config
    with tempfile.TemporaryDirectory() as folder:
        stored = None
        if dict(work.settings)["stored"]:
            teachers = [_Fixed(task.classes).to(runtime.device)]
            stored = generate_labels(labeling, teachers, runtime, Path(folder), {})
        labeler = Labeler(len(images), work.side, config, runtime, stored, [])
        labels = torch.arange(len(images)) % task.classes
        evaluation = EvaluationConfig(batch_size=work.batch)
        student = StudentTask(images, labels, labeler, labeling.normalization, evaluation, config)

        def read(first: int) -> None:
            for _ in student.batches_from(first, 0, runtime):
                pass

        read(config.epochs - 1)
        seconds = timed(partial(read, 0), runtime)
    return seconds / (config.epochs * len(images))


def _set_of(task: TimingTask, work: Work) -> LabelTask:
    """A set of noise images with the settings of its labels, for about `VIEWS` views."""
    settings: dict[str, Any] = dict(work.settings)
    count = min(settings["images"], max(VIEWS // 2, work.batch))
    storage = LabelStorageConfig(top_k=settings["top_k"], bits=settings["bits"])
    config = LabelsConfig(
        epochs=max(2, min(SHARD_EPOCHS, VIEWS // count)),
        batch_size=work.batch,
        full_batch_up_to=0,
        views=settings["views"],
        logit_normalization=settings["normalized"],
        storage=storage,
    )
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (count, *task.shape(work)), generator=generator)
    return LabelTask(images.to(torch.uint8), task.classes, config, task.data.normalization)
