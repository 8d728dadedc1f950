"""Train the students on all real pictures (baseline `full`) that are missing or out of date."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

from gvbsm.config import Config
from gvbsm.data.datasets import ImageData
from gvbsm.engine.device import Runtime
from gvbsm.files.artifacts import read_json
from gvbsm.files.schema import current_history
from gvbsm.pipeline.training.corruptions import corrupted_copies
from gvbsm.pipeline.work_sharing import Teamwork
from gvbsm.stages.full_data import train_on_everything
from gvbsm.stages.judge import Judge
from gvbsm.stages.supervised import PictureTraining
from gvbsm.store.recipes import Recipes, full_training, seed_of

log = logging.getLogger("gvbsm")


def train_full(
    config: Config, data: ImageData, runtime: Runtime, recipes: Recipes, work: Teamwork
) -> None:
    """Train the students of the baseline `full` that are missing or out of date.

    Args:
        config: The run's settings.
        data: The real pictures.
        runtime: Device, precision, processes.
        recipes: The run's recipes.
        work: Divides the students between processes.

    Raises:
        RunError: If a training diverges.
    """
    workspace = work.workspace
    students = [
        (name, index)
        for name in config.evaluation.students
        for index in range(config.evaluation.seeds)
    ]

    def path_of(number: int) -> Path:
        return workspace.full(*students[number])

    def is_tested(number: int) -> bool:
        return current_history(path_of(number), recipes.full(*students[number])) is not None

    def log_accuracy(number: int) -> None:
        name, index = students[number]
        top1 = read_json(path_of(number))["top1"][-1]
        log.info("full, %s, seed %d: %.1f %%", name, index, top1)

    missing = work.missing(range(len(students)), is_tested)
    if not missing:
        return
    copies = corrupted_copies(config, data, runtime, recipes, work)
    workers = runtime.workers(config.data.workers)
    runtime = replace(runtime, seed=seed_of(config, "squeeze"))
    for number, team in work.deal(
        missing, len(students), config.evaluation.parallel, path_of, log_accuracy, "student"
    ):
        name, index = students[number]
        task = PictureTraining(f"full-{index}", name, full_training(config), workers)
        with work.timed(f"full/{name}/{index}", team):
            form, recipe = runtime.of(name, "training"), recipes.full(name, index)
            judge = Judge(data, form, workers, team, copies)
            train_on_everything(task, judge, form, path_of(number), recipe)
