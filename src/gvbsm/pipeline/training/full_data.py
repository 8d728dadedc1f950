"""Train the students on all real pictures (baseline `full`) that are missing or out of date."""

from __future__ import annotations

import logging
from dataclasses import replace

from gvbsm.files.artifacts import read_json
from gvbsm.pipeline.artifacts import Artifact
from gvbsm.pipeline.context import RunContext
from gvbsm.pipeline.training.corruptions import corrupted_copies
from gvbsm.stages.full_data import train_on_everything
from gvbsm.stages.judge import Judge
from gvbsm.stages.supervised import PictureTraining
from gvbsm.store.recipes import full_training, seed_of

log = logging.getLogger("gvbsm")


def train_full(context: RunContext) -> None:
    """Train the students of the baseline `full` that are missing or out of date.

    Raises:
        RunError: If a training diverges.
    """
    config = context.config
    students = context.artifacts.full()
    missing = context.team.missing(students, Artifact.is_tested)
    if not missing:
        return

    def log_accuracy(student: Artifact[tuple[str, int]]) -> None:
        name, index = student.of
        top1 = read_json(student.path)["top1"][-1]
        log.info("full, %s, seed %d: %.1f %%", name, index, top1)

    copies, workers = corrupted_copies(context), context.workers
    runtime = replace(context.runtime, seed=seed_of(config, "squeeze"))
    for student, team in context.team.deal(
        missing, len(students), config.evaluation.parallel, log_accuracy, "student"
    ):
        name, index = student.of
        task = PictureTraining(f"full-{index}", name, full_training(config), workers)
        with context.team.timed(student.clock, team):
            form = runtime.of(name, "training")
            judge = Judge(context.data, form, workers, team, copies)
            train_on_everything(task, judge, form, student.path, student.recipe)
