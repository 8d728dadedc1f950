"""What labels, evaluation, squeeze and the data pipeline cost beside the bare networks."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gvbsm.backbones import build_backbone
from gvbsm.bench.predictions import SIZES
from gvbsm.bench.synthesis import STUDENT, Bench
from gvbsm.bench.timing import Pair, Work, compare, seconds_of
from gvbsm.config import BenchConfig, LabelsConfig, ViewConfig
from gvbsm.config.build import as_config
from gvbsm.data.datasets import ImageData
from gvbsm.data.loading import training_batches, view_batches
from gvbsm.data.pictures import Split, write_image
from gvbsm.data.pixels import Normalization
from gvbsm.engine.device import Runtime
from gvbsm.stages.evaluation import Judge, train_student
from gvbsm.stages.labels import LabelTask, generate_labels
from gvbsm.stages.squeeze import squeeze_teacher
from gvbsm.stages.supervised import PictureTraining
from gvbsm.store.batches import Labeler, StudentTask
from gvbsm.store.soft_labels import SoftLabels

STEPS = 12  # of a training that is timed
FILES, FILE_SIZE = 64, (375, 500)  # JPEG files of ImageNet's usual size


def measure_labels(config: BenchConfig, runtime: Runtime) -> Pair:
    """Labels of a few epochs of 100 CIFAR images against the five teachers' forward passes."""
    preset = as_config("cifar10")
    names, labels = preset.squeeze.backbones, replace(preset.labels, epochs=3)
    teachers = [Bench("cifar10", name, runtime, batch=100) for name in names]
    data = noise_data()

    def forward() -> None:
        for _ in range(labels.epochs):
            for teacher in teachers:
                teacher.forward()

    with tempfile.TemporaryDirectory() as name:

        def label() -> None:
            with tempfile.TemporaryDirectory(dir=name) as folder:
                _label(data, [teacher.model for teacher in teachers], labels, runtime, folder)

        return compare(forward, label, config.repeats, runtime)


def measure_evaluation(config: BenchConfig, runtime: Runtime) -> Pair:
    """Training a ConvNet-128 on 100 labeled CIFAR images against its bare training steps."""
    preset = as_config("cifar10")
    labels = replace(preset.labels, epochs=STEPS)
    data = noise_data()
    teacher = Bench("cifar10", STUDENT, runtime).model
    with tempfile.TemporaryDirectory() as name:
        store = _label(data, [teacher], labels, runtime, name)
        labeler = Labeler(100, 32, labels, runtime, store, [])
        path = Path(name) / "student.json"

        def evaluate() -> None:
            images, hard = _distilled(data)
            evaluation = replace(preset.evaluation, tests=1)
            task = StudentTask(images, hard, labeler, data.normalization, evaluation, labels)
            train_student(STUDENT, 0, task, Judge(data, runtime, 0), runtime, path, {})

        return compare(_training(100, runtime), evaluate, config.repeats, runtime)


def measure_squeeze(config: BenchConfig, runtime: Runtime) -> Pair:
    """Training a ConvNet-128 on CIFAR-sized pictures against its bare training steps."""
    squeeze = replace(as_config("cifar10").squeeze, epochs=1, tests=1)
    data = noise_data(STEPS * squeeze.batch_size)
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "teacher.safetensors"
        task = PictureTraining("squeeze", STUDENT, squeeze)
        train = partial(squeeze_teacher, task, data, runtime, path, {})
        return compare(_training(squeeze.batch_size, runtime), train, config.repeats, runtime)


def measure_pooling(config: BenchConfig, runtime: Runtime) -> Pair:
    """Training steps of a ConvNet-128 as it is built against those with torch's AvgPool2d in it."""
    batch = as_config("cifar10").squeeze.batch_size
    usual = _training(batch, runtime, torch_pooling=True)
    return compare(usual, _training(batch, runtime), config.repeats, runtime)


def measure_data(config: BenchConfig, runtime: Runtime) -> dict[str, Any]:
    """Pictures a second that the data pipeline yields by itself, without a network.

    From memory: cropped and mirrored batches of CIFAR-sized pictures, on the device. From files:
    JPEG pictures of ImageNet's size that one worker decodes, crops and resizes; workers add up, as
    long as there are cores for them.
    """
    cifar, imagenet = as_config("cifar10"), as_config("imagenet-1k")
    held = noise_data(STEPS * cifar.squeeze.batch_size)
    with tempfile.TemporaryDirectory() as name:
        streamed = _noise_files(Path(name))
        rates = {}
        for source, data, squeeze in (
            ("memory", held, cifar.squeeze),
            ("files", streamed, imagenet.squeeze),
        ):

            def read(data: ImageData = data, views: ViewConfig = squeeze.views) -> None:
                path, size = ("bench",), cifar.squeeze.batch_size
                batches = training_batches(data, size, runtime, path)
                for _ in view_batches(data, views, batches, runtime, path):
                    pass

            read()
            seconds = median(seconds_of(read, runtime) for _ in range(config.repeats))
            rates[source] = len(data.train) / seconds
    return {"pictures_per_second": rates}


def _training(batch: int, runtime: Runtime, *, torch_pooling: bool = False) -> Work:
    """Bare training steps on one batch."""
    model = build_backbone(STUDENT, 10, 32)
    if torch_pooling:
        for block in model.children():
            if hasattr(block, "pool"):
                block.pool = nn.AvgPool2d(2)
    model = runtime.place(model).train()
    solver = torch.optim.AdamW(model.parameters(), lr=1e-3)
    pictures = torch.randn(batch, 3, 32, 32, device=runtime.device)
    labels = torch.arange(batch, device=runtime.device) % 10

    def train() -> None:
        for _ in range(STEPS):
            with runtime.autocast():
                logits = model(pictures)
            solver.zero_grad(set_to_none=True)
            F.cross_entropy(logits.float(), labels).backward()  # type: ignore[no-untyped-call]
            solver.step()

    return train


def noise_data(count: int = 100) -> ImageData:
    """Pictures of noise in CIFAR's shape; hardly any to test on, as tests are not timed."""
    generator = torch.Generator().manual_seed(0)

    def split(size: int) -> Split:
        pixels = torch.randint(0, 256, (size, 3, 32, 32), generator=generator, dtype=torch.uint8)
        return Split(torch.arange(size) % 10, pixels)

    names = tuple(map(str, range(10)))
    half = Normalization((0.5,) * 3, (0.5,) * 3)
    return ImageData("noise", names, 3, 32, split(count), split(10), half, "noise")


def _noise_files(folder: Path) -> ImageData:
    """JPEG files of smoothed noise, about as long as photographs are."""
    generator = torch.Generator().manual_seed(0)
    height, width = FILE_SIZE
    paths = []
    for number in range(FILES):
        coarse = torch.rand(1, 3, height // 4, width // 4, generator=generator)
        picture = F.interpolate(coarse, FILE_SIZE, mode="bilinear")[0]
        paths.append(folder / f"{number}.jpg")
        write_image(paths[-1], (255 * picture).to(torch.uint8), quality=90)
    size = SIZES["imagenet-1k"][2]
    split = Split(torch.arange(FILES) % 10, paths=tuple(paths))
    half = Normalization((0.5,) * 3, (0.5,) * 3)
    return ImageData("noise", tuple(map(str, range(10))), 3, size, split, split, half, "noise")


def _distilled(data: ImageData) -> tuple[Tensor, Tensor]:
    assert data.train.images is not None
    return data.train.images, data.train.labels


def _label(
    data: ImageData,
    teachers: Sequence[nn.Module],
    labels: LabelsConfig,
    runtime: Runtime,
    folder: str,
) -> SoftLabels:
    task = LabelTask(_distilled(data)[0], 10, labels, data.normalization)
    return generate_labels(task, teachers, runtime, Path(folder), {})
