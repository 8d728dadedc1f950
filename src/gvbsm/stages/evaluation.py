"""Evaluation: train students from scratch on the set, and test them on real pictures."""

from __future__ import annotations

from pathlib import Path

from gvbsm.backbones import build_backbone
from gvbsm.engine.device import Runtime
from gvbsm.engine.fit import TrainingHistory
from gvbsm.engine.seeds import seeded
from gvbsm.files.artifacts import Recipe, write_json
from gvbsm.files.checkpoint import Checkpoint
from gvbsm.stages.distilled_training import fit_student
from gvbsm.stages.judge import Judge
from gvbsm.store.batches import StudentTask


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
