"""Evaluation: train students from scratch on the set, and test them on real pictures."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gvbsm.backbones import build_backbone
from gvbsm.config import EvaluationConfig, LabelsConfig
from gvbsm.data.datasets import ImageData
from gvbsm.data.epochs import EpochPlan, batch_size_for, draw_plan, view_batch
from gvbsm.data.loading import batch_count, border_color, plain_batches, split_batches
from gvbsm.data.pixels import Normalization
from gvbsm.engine.accuracy import confusion_matrix, diagonal_percent
from gvbsm.engine.device import Runtime
from gvbsm.engine.fit import Keeper, Training, TrainingHistory, fit, shared_step
from gvbsm.engine.out_of_memory import Step
from gvbsm.engine.processes import ALONE, Processes
from gvbsm.engine.seeds import seeded
from gvbsm.files.artifacts import Recipe, write_json
from gvbsm.files.checkpoint import Checkpoint
from gvbsm.method.beyond.label_pool import redraw
from gvbsm.method.ensemble import label_batch
from gvbsm.method.losses import hard_loss, kd_loss, mse_gt_loss
from gvbsm.store.soft_labels import EpochLabels, SoftLabels

CONFUSED_CLASSES = 200  # most classes for which a student's confusion matrix is kept


class Labeler:
    """Plans and soft labels of the training batches, from the store or from the teachers.

    Both give the same batches: plans are drawn with the same seed, and the teachers' logits are
    rounded to float16 as in the store. With a pruned store, each epoch draws one of the stored
    epochs and shuffles its batches.

    Args:
        count: Images of the set.
        size: Side of an image in pixels.
        labels: Settings of the views, and of how the teachers' logits are combined.
        runtime: Device and seed.
        stored: The label store, or None.
        teachers: Networks that label if there is no store; none are needed for hard labels.
    """

    def __init__(
        self,
        count: int,
        size: int,
        labels: LabelsConfig,
        runtime: Runtime,
        stored: SoftLabels | None,
        teachers: Sequence[nn.Module],
    ) -> None:
        self._count, self._size = count, size
        self._config, self._runtime = labels, runtime
        self._stored, self._teachers = stored, teachers

    def epoch(self, epoch: int) -> tuple[EpochPlan, EpochLabels | None]:
        """Return the plan of an epoch, and its labels if they are stored."""
        if self._stored is None:
            config = self._config.views
            return draw_plan(self._count, self._size, config, epoch, self._runtime), None
        kept = self._stored.kept
        if len(kept) == self._stored.epochs:
            return self._stored.epoch(epoch)
        drawn, order = redraw(epoch, kept, self._count, self._runtime)
        plan, labels = self._stored.epoch(drawn)
        return plan._replace(order=order), labels

    def logits(self, pictures: Tensor, stored: EpochLabels | None, index: Tensor) -> Tensor | None:
        """Return a batch's logits, float32 (batch, classes), on its device, if labels are soft."""
        if stored is not None:
            return stored.logits(index, pictures.device)
        if not self._teachers:
            return None
        return label_batch(pictures, self._teachers, self._config, self._runtime).float()


class Judge:
    """Test networks on the real test pictures; the last confusion matrix is kept.

    Args:
        data: The real data.
        runtime: Device and precision.
        workers: Processes that decode pictures.
        team: Processes that share the test pictures.
    """

    def __init__(
        self, data: ImageData, runtime: Runtime, workers: int, team: Processes = ALONE
    ) -> None:
        self.data, self._runtime, self._workers, self.team = data, runtime, workers, team
        self._confusion = torch.empty(0)

    def __call__(self, net: nn.Module) -> float:
        """Return the top-1 accuracy of a network in percent."""
        data, runtime, team = self.data, self._runtime, self.team
        pictures = plain_batches(data, data.test, 256, runtime, self._workers, team)
        self._confusion = confusion_matrix(net, pictures, runtime, team)
        return diagonal_percent(self._confusion)

    def record(self) -> dict[str, Any]:
        """Return the `confusion` of the last test, a row for each true class, if small enough."""
        is_small = len(self.data.class_names) <= CONFUSED_CLASSES
        return {"confusion": self._confusion.tolist()} if is_small else {}


@dataclass(frozen=True)
class StudentTask:
    """A set and the settings that students are trained with.

    Attributes:
        images: The set, uint8 (images, channels, size, size).
        labels: Hard labels, int64 (images,).
        labeler: Plans and soft labels.
        normalization: Mean and standard deviation of the real data.
        config: Loss, batches, optimizer and tests.
        labels_config: Epochs and batches, as in labeling.
    """

    images: Tensor
    labels: Tensor
    labeler: Labeler
    normalization: Normalization
    config: EvaluationConfig
    labels_config: LabelsConfig


def train_student(
    student: str,
    seed_index: int,
    task: StudentTask,
    judge: Judge,
    runtime: Runtime,
    path: Path,
    recipe: Recipe,
) -> TrainingHistory:
    """Train one student from scratch, and write its result to `path` as JSON.

    The result holds the recipe, the history of tests and, for up to 200 classes, `confusion`: the
    confusion matrix of the test after the last epoch, a row for each true class.

    All students of a set see the same batches. They differ in their initial weights and dropout.

    Args:
        student: Name of the architecture.
        seed_index: Which of the seeds.
        task: The set, its labels and the settings.
        judge: Tests the student. Its processes train the student together; the first of them
            writes the result.
        runtime: Device, precision, seed, progress.
        path: Where the result goes; its stem names the training.
        recipe: Recipe of the result.

    Raises:
        RunError: If the training diverges, or memory runs out.
    """
    data, team = judge.data, judge.team
    with seeded(runtime.seed, "evaluation", student, seed_index):
        classes = len(data.class_names)
        model = build_backbone(student, classes, data.image_size, data.channels)
    model = runtime.place(model)
    optimizer = task.config.optimizer
    lr = task.config.lr_of.get(student, optimizer.lr)
    task = replace(task, config=replace(task.config, optimizer=replace(optimizer, lr=lr)))
    checkpoint = Checkpoint(path, recipe, runtime.checkpoint_seconds)
    name = f"evaluation {path.stem}"
    history = fit_student(model, task, name, judge, runtime, checkpoint, team)
    if not team.leads:
        return history
    write_json(path, {"recipe": recipe, **vars(history), **judge.record()})
    checkpoint.clear()
    return history


def fit_student(
    model: nn.Module,
    task: StudentTask,
    name: str,
    test: Callable[[nn.Module], float] | None,
    runtime: Runtime,
    keeper: Keeper,
    team: Processes = ALONE,
) -> TrainingHistory:
    """Train a network on a set; resume from the checkpoint if there is one.

    Args:
        model: The network, on its device; trained in place. With `task.config.ema` it ends with
            the averaged parameters.
        task: The set, its labels and the settings.
        name: Name of the training, for progress and errors.
        test: As in `engine.fit.fit`; None tests nothing.
        runtime: Device, precision, seed, progress.
        keeper: Saves the state of the unfinished training.
        team: Processes that train the network together, each on its rows of every batch. Views and
            labels are drawn for the whole batch.

    Raises:
        RunError: If the training diverges, or memory runs out.
    """
    images, labels, labeler = task.images, task.labels, task.labeler
    config, labels_config, normalization = task.config, task.labels_config, task.normalization
    size = batch_size_for(len(images), config.batch_size, labels_config.full_batch_up_to)
    border = border_color(labels_config.views, normalization, runtime.device)

    def batches(epoch: int, start: int) -> Iterator[Step]:
        plan, stored = labeler.epoch(epoch)
        for index in split_batches(plan.order, size)[start:]:
            pictures = view_batch(images, plan, index, normalization, runtime, border)
            soft = labeler.logits(pictures, stored, index)
            partners = plan.mixes.partners[index]
            kept = plan.kept(index, *images.shape[2:])
            if config.hard_target == "base":
                kept = torch.ones_like(kept)
            device = runtime.device
            rows = team.rows(len(index))
            targets = (labels[index], labels[partners], kept)
            hard = tuple(target[rows].to(device, non_blocking=True) for target in targets)
            soft_rows = None if soft is None else soft[rows]
            loss = partial(_loss, pictures[rows], soft_rows, hard, config, runtime)
            yield shared_step(team, len(index), loss)

    training = Training(
        name=name,
        section="evaluation",
        epochs=labels_config.epochs,
        steps=batch_count(len(images), size),
        tests=config.tests if test else 0,
        optimizer=config.optimizer,
        micro_batch=config.micro_batch,
        ema=config.ema,
    )
    return fit(model, batches, test or _untested, training, runtime, keeper, team)


def _untested(_: nn.Module) -> float:
    raise AssertionError("a training without tests was tested")


def _loss(
    pictures: Tensor,
    soft: Tensor | None,
    hard: tuple[Tensor, ...],
    config: EvaluationConfig,
    runtime: Runtime,
    net: nn.Module,
    rows: slice,
) -> Tensor:
    with runtime.autocast():
        logits = net(pictures[rows])
    logits = logits.float()
    first, partners, kept = (target[rows] for target in hard)
    if config.loss == "hard":
        return hard_loss(logits, first, partners, kept)
    assert soft is not None
    soft = soft[rows]
    if config.loss == "kl":
        return kd_loss(logits, soft, config.temperature)
    return mse_gt_loss(logits, soft, hard_loss(logits, first, partners, kept), config.gamma)
