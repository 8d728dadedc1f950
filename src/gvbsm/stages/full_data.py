"""Train students on all real pictures with hard labels: the upper reference of a distilled set."""

from __future__ import annotations

from pathlib import Path

from gvbsm.backbones import build_backbone
from gvbsm.engine.device import Runtime
from gvbsm.engine.seeds import seeded
from gvbsm.files.artifacts import Recipe, write_json
from gvbsm.files.checkpoint import Checkpoint
from gvbsm.stages.judge import Judge
from gvbsm.stages.supervised import PictureTraining, fit_pictures


def train_on_everything(
    task: PictureTraining,
    judge: Judge,
    runtime: Runtime,
    path: Path,
    recipe: Recipe,
) -> None:
    """Train a student on all real pictures and write its tests; resume from its checkpoint.

    Args:
        task: The architecture and the settings; the seed depends on its stage.
        judge: Tests the student, and has the real pictures. Its processes train the student
            together; the first of them writes the result.
        runtime: Device, precision, seed.
        path: File of the result, JSON.
        recipe: Recipe of the result.

    Raises:
        RunError: If the training diverges, or memory runs out.
    """
    data, team = judge.data, judge.team
    classes = len(data.class_names)
    with seeded(runtime.seed, task.stage, task.backbone, "weights"):
        model = build_backbone(task.backbone, classes, data.image_size, data.channels)
    model = runtime.place(model)

    checkpoint = Checkpoint(path, recipe, runtime.checkpoint_seconds)
    history = fit_pictures(model, data, task, judge, runtime, checkpoint, team)
    judge.test_corrupted(model)
    if team.leads:
        write_json(path, {"recipe": recipe, **vars(history), **judge.record()})
        checkpoint.clear()
