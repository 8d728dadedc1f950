"""Evaluation: train students from scratch on the set, and test them on real pictures."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from torch import Tensor, nn

from gvbsm.backbones import build_backbone
from gvbsm.engine.device import Runtime
from gvbsm.engine.fit import Keeper, Training, TrainingHistory, fit, shared_step
from gvbsm.engine.out_of_memory import Step
from gvbsm.engine.processes import ALONE, Processes
from gvbsm.engine.seeds import seeded
from gvbsm.files.artifacts import Recipe, write_json
from gvbsm.files.checkpoint import Checkpoint
from gvbsm.stages.judge import Judge
from gvbsm.store.batches import Batch, StudentTask


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

    The result holds the recipe, the history of tests, and what the test after the last epoch
    measured (`Judge.record`).

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
    task = task.with_rate_of(student)
    checkpoint = Checkpoint(path, recipe, runtime.checkpoint_seconds)
    name = f"evaluation {path.stem}"
    history = fit_student(model, task, name, judge, runtime, checkpoint, team)
    judge.test_corrupted(model)
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

    def batches(epoch: int, start: int) -> Iterator[Step]:
        for batch in task.batches_from(epoch, start, runtime):
            count = len(batch.labels)
            loss = partial(_loss, batch.rows(team.rows(count)), task, runtime)
            yield shared_step(team, count, loss)

    config = task.config
    training = Training(
        name=name,
        section="evaluation",
        epochs=task.labels_config.epochs,
        steps=task.steps,
        tests=config.tests,
        optimizer=config.optimizer,
        micro_batch=config.micro_batch,
        ema=config.ema,
    )
    return fit(model, batches, test, training, runtime, keeper, team)


def _loss(batch: Batch, task: StudentTask, runtime: Runtime, net: nn.Module, rows: slice) -> Tensor:
    batch = batch.rows(rows)
    with runtime.autocast():
        logits = net(batch.views)
    return task.loss(logits.float(), batch)
