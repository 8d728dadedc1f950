"""Each stage's step beside its bare step: what `race.py` times."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gvbsm.backbones.folding import fold_batchnorm
from gvbsm.config import OptimizerConfig
from gvbsm.config.build import as_config
from gvbsm.engine.device import Runtime
from gvbsm.engine.out_of_memory import InParts
from gvbsm.stages.evaluation import fit_student
from gvbsm.stages.labels import LabelTask, generate_labels
from gvbsm.stages.statistics import StatisticsTask, record_chunks
from gvbsm.stages.supervised import PictureTraining, fit_pictures
from gvbsm.store.batches import Labeler, StudentTask, epochs_at_once
from noise import Synthesis, network, noise_data, teacher
from timing import WARMUP, Steps, Work, repeated

BACKBONES = as_config("cifar10").squeeze.backbones
STUDENTS = ("convnet128", "resnet18", "wrn16_2", "airbench")
BATCHES = (10, 25, 50, 128)
OPTIMIZERS = {
    "adamw": OptimizerConfig(name="adamw", lr=1e-3),
    "sgd": OptimizerConfig(name="sgd", lr=1e-3, momentum=0.9),
    "muon": OptimizerConfig(name="muon", lr=1e-3, momentum=0.95),
}
LABELING = "convnet8_d1"  # labels the students' sets: any network does
STEPS = 4  # of an epoch of a teacher
PICTURES = 100  # in a batch of labels, and in each of two batches of statistics


@dataclass(frozen=True)
class Student:
    """A student's training.

    Attributes:
        name: The network.
        batch: Images in a step.
        optimizer: A key of `OPTIMIZERS`.
        size: Side of the images in pixels.
        steps: Steps of an epoch: 4 are those of 100 images in batches of 25.
    """

    name: str
    batch: int
    optimizer: str
    size: int = 32
    steps: int = 4

    def __str__(self) -> str:
        pixels = "" if self.size == 32 else f", {self.size} px"
        return f"{self.name} {self.batch} {self.optimizer}{pixels}"


@dataclass(frozen=True)
class Contest:
    """Steps of a stage, and the bare step that each contains.

    Attributes:
        stage: The stage.
        name: What differs from its other contests.
        steps: The steps.
        bare: The bare step.
        period: Steps after which the same work comes again: views are made for several at once.
    """

    stage: str
    name: str
    steps: Steps
    bare: Work
    period: int = 1


class StepKeeper:
    """Keeper of a training that saves nothing and calls `after` behind each step."""

    def __init__(self, after: Work) -> None:
        self._after = after

    def load(self) -> None:
        """Find no checkpoint."""

    def due(self) -> bool:
        """Call `after`; no checkpoint is due."""
        self._after()
        return False

    def save(self, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
        """Save nothing."""

    def clear(self) -> None:
        """Remove nothing."""


def bare_training(student: Student, runtime: Runtime) -> Work:
    """Forward, cross-entropy, backward and torch's optimizer on a batch that is ready."""
    model, size = network(student.name, runtime, size=student.size).train(), student.size
    return bare_step(model, student.optimizer, torch.randn(student.batch, 3, size, size), runtime)


def bare_step(model: nn.Module, optimizer: str, pictures: Tensor, runtime: Runtime) -> Work:
    """Training steps of a network on the same pictures, (batch, channels, size, size)."""
    solvers = torch_optimizers(model, OPTIMIZERS[optimizer])
    pictures = pictures.to(runtime.device)
    labels = torch.arange(len(pictures), device=runtime.device) % 10

    def train() -> None:
        with runtime.autocast():
            logits = model(pictures)
        model.zero_grad(set_to_none=True)
        F.cross_entropy(logits.float(), labels).backward()
        for step in solvers:
            step()

    return train


def torch_optimizers(model: nn.Module, config: OptimizerConfig) -> list[Work]:
    """Return the steps of torch's own optimizers, fused where torch has that.

    torch's Muon takes matrices alone, so convolution kernels are viewed as such; AdamW updates the
    rest, as in gvbsm.
    """
    parameters = list(model.parameters())
    if config.name == "sgd":
        momentum = config.momentum
        return [torch.optim.SGD(parameters, lr=config.lr, momentum=momentum, fused=True).step]
    if config.name == "adamw":
        return [torch.optim.AdamW(parameters, lr=config.lr, weight_decay=0.0, fused=True).step]
    kernels = [item for item in parameters if item.ndim in (2, 4) and item.requires_grad][:-1]
    matrices = [nn.Parameter(_as_matrix(kernel.detach())) for kernel in kernels]
    kernel_ids = set(map(id, kernels))
    others = [item for item in parameters if id(item) not in kernel_ids]
    muon = torch.optim.Muon(matrices, lr=config.lr, momentum=config.momentum, weight_decay=0.0)
    adamw = torch.optim.AdamW(others, lr=config.lr, weight_decay=0.0, fused=True)

    def step_matrices() -> None:
        for matrix, kernel in zip(matrices, kernels, strict=True):
            matrix.grad = _as_matrix(kernel.grad)
        muon.step()

    return [step_matrices, adamw.step]


def _as_matrix(kernel: Tensor) -> Tensor:
    """View as (output channels, all else), in the order of memory."""
    if kernel.ndim == 2 or kernel.is_contiguous():
        return kernel.flatten(1)
    return kernel.permute(0, 2, 3, 1).flatten(1)


def students(kinds: Iterable[Student], rounds: int, runtime: Runtime) -> Iterator[Contest]:
    """A student's step on stored labels with an averaged network, as in `cifar10-best`.

    Args:
        kinds: The students.
        rounds: Most periods that are timed.
        runtime: Device and precision.
    """
    for student in kinds:
        bare = bare_training(student, runtime)
        images, entries = student.steps * student.batch, 3 * student.size**2
        period = student.steps * epochs_at_once(images, entries)
        steps = student_steps(student, (rounds + WARMUP) * period, runtime)
        yield Contest("student", str(student), steps, bare, period)


def student_steps(student: Student, most_steps: int, runtime: Runtime) -> Steps:
    """Return steps of a training by `fit_student`; the set is labeled before the first.

    Args:
        student: What is trained.
        most_steps: Steps that there are labels for.
        runtime: Device and precision.
    """
    batch, size = student.batch, student.size
    data, preset = noise_data(student.steps * batch, size=size), as_config("cifar10-best")
    images, hard = data.train.images, data.train.labels
    epochs = math.ceil(most_steps / student.steps) + 1
    labels = replace(preset.labels, epochs=epochs, batch_size=batch, batchnorm="running")
    optimizer = OPTIMIZERS[student.optimizer]
    evaluation = replace(preset.evaluation, batch_size=batch, optimizer=optimizer)

    def run(after: Work) -> None:
        with tempfile.TemporaryDirectory() as folder:
            task = LabelTask(images, 10, labels, data.normalization)
            labeling = [teacher(LABELING, runtime, size=size)]
            stored = generate_labels(task, labeling, runtime, Path(folder), {})
            labeler = Labeler(len(images), size, labels, runtime, stored, [])
            task = StudentTask(images, hard, labeler, data.normalization, evaluation, labels)
            model = network(student.name, runtime, size=size)
            fit_student(model, task, "race", None, runtime, StepKeeper(after))

    return run


def squeeze(names: Sequence[str], size: int, runtime: Runtime) -> Iterator[Contest]:
    """A teacher's step on real pictures of `size` pixels."""
    config = replace(as_config("cifar10").squeeze, epochs=100, tests=1)
    config = replace(config, optimizer=OPTIMIZERS["sgd"])
    data = noise_data(STEPS * config.batch_size, size=size)
    for name in names:

        def run(after: Work, name: str = name) -> None:
            task = PictureTraining("squeeze", name, config)
            model = network(name, runtime, size=size)
            fit_pictures(model, data, task, lambda _: 0.0, runtime, StepKeeper(after))

        bare = bare_training(Student(name, config.batch_size, "sgd", size), runtime)
        yield Contest("squeeze", name, run, bare, STEPS)


def statistics(names: Sequence[str], runtime: Runtime) -> Iterator[Contest]:
    """Recording two batches of pictures by all teachers, beside their forward passes."""
    preset = as_config("cifar10")
    config, views = replace(preset.statistics, batch_size=PICTURES), preset.synthesis.views
    data = noise_data(2 * PICTURES)
    teachers = {name: teacher(name, runtime) for name in names}

    def record() -> None:
        with tempfile.TemporaryDirectory() as folder:
            record_chunks(teachers, data, StatisticsTask(config, views, Path(folder), {}), runtime)

    bare = forward_passes(list(teachers.values()), 2, runtime)
    yield Contest("statistics", "all teachers", repeated(record), bare)


def labels(names: Sequence[str], runtime: Runtime) -> Iterator[Contest]:
    """Labeling one batch of views by all teachers, beside their forward passes."""
    config = replace(as_config("cifar10").labels, epochs=1, batch_size=PICTURES)
    data = noise_data(PICTURES)
    teachers = [teacher(name, runtime) for name in names]
    folded = [InParts(fold_batchnorm(model, (3, 32, 32))) for model in teachers]

    def label() -> None:
        with tempfile.TemporaryDirectory() as folder:
            task = LabelTask(data.train.images, 10, config, data.normalization)
            generate_labels(task, folded, runtime, Path(folder), {})

    bare = forward_passes(teachers, 1, runtime)
    yield Contest("labels", "all teachers", repeated(label), bare)


def forward_passes(teachers: Sequence[nn.Module], batches: int, runtime: Runtime) -> Work:
    """Forward passes of the teachers over batches that are ready."""
    pictures = torch.randn(PICTURES, 3, 32, 32, device=runtime.device)

    def forward() -> None:
        with torch.no_grad(), runtime.autocast():
            for _ in range(batches):
                for model in teachers:
                    model(pictures)

    return forward


def synthesis(
    names: Sequence[str], compiled: Sequence[bool], runtime: Runtime
) -> Iterator[Contest]:
    """An iteration of 50 images, beside the uncompiled network alone."""
    config = as_config("cifar10").synthesis
    for name in names:
        for is_compiled in compiled:
            work = Synthesis(name, config, runtime)
            kind = f"{name}, compiled" if is_compiled else name
            yield Contest("synthesis", kind, repeated(work.full(is_compiled)), work.bare)
