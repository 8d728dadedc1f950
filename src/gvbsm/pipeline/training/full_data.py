"""Train the students on all real pictures (baseline `full`) that are missing or out of date."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

from gvbsm.files.artifacts import read_json
from gvbsm.files.schema import current_history
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
    config, recipes = context.config, context.recipes
    students = [
        (name, index)
        for name in config.evaluation.students
        for index in range(config.evaluation.seeds)
    ]

    def path_of(number: int) -> Path:
        return context.workspace.full(*students[number])

    def is_tested(number: int) -> bool:
        return current_history(path_of(number), recipes.full(*students[number])) is not None

    def log_accuracy(number: int) -> None:
        name, index = students[number]
        top1 = read_json(path_of(number))["top1"][-1]
        log.info("full, %s, seed %d: %.1f %%", name, index, top1)

    missing = context.team.missing(range(len(students)), is_tested)
    if not missing:
        return
    copies, workers = corrupted_copies(context), context.workers
    runtime = replace(context.runtime, seed=seed_of(config, "squeeze"))
    for number, team in context.team.deal(
        missing, len(students), config.evaluation.parallel, path_of, log_accuracy, "student"
    ):
        name, index = students[number]
        task = PictureTraining(f"full-{index}", name, full_training(config), workers)
        with context.team.timed(f"full/{name}/{index}", team):
            form, recipe = runtime.of(name, "training"), recipes.full(name, index)
            judge = Judge(context.data, form, workers, team, copies)
            train_on_everything(task, judge, form, path_of(number), recipe)
