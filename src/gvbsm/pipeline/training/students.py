"""Train the students of several image sets that are missing or out of date."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from gvbsm.data.corrupted.copies import Copies
from gvbsm.engine.processes import Processes
from gvbsm.files.artifacts import read_json
from gvbsm.files.schema import current_history
from gvbsm.files.tensors import load_tensors
from gvbsm.pipeline.context import RunContext
from gvbsm.pipeline.evaluated_sets import EvaluatedSet
from gvbsm.pipeline.training.corruptions import corrupted_copies
from gvbsm.stages.evaluation import train_student
from gvbsm.stages.judge import Judge
from gvbsm.store.distilled import load_labels
from gvbsm.store.image_set import ImageSet
from gvbsm.store.recipes import seed_of

log = logging.getLogger("gvbsm")


class Student(NamedTuple):
    """A student to train: its image set, architecture and number of its seed."""

    image_set: ImageSet
    name: str
    seed_index: int


def train_students(sets: Sequence[EvaluatedSet], context: RunContext) -> None:
    """Train the students that are missing or out of date; several processes divide them.

    Args:
        sets: The image sets, with images and stored labels made, and the seeds of their students.
        context: The run; its teachers label during training if labels are not stored.

    Raises:
        RunError: If a training diverges.
    """
    recipes = context.recipes
    students = [
        Student(image_set, student, seed_index)
        for image_set, seeds in sets
        for student in image_set.config.evaluation.students
        for seed_index in seeds
    ]

    def path_of(number: int) -> Path:
        image_set, student, seed_index = students[number]
        return image_set.result(student, seed_index)

    def is_tested(number: int) -> bool:
        return current_history(path_of(number), recipes.student(*students[number])) is not None

    def log_accuracy(number: int) -> None:
        image_set, student, seed_index = students[number]
        top1 = read_json(path_of(number))["top1"][-1]
        method = image_set.method
        log.info("evaluation %s, %s, seed %d: %.1f %%", method, student, seed_index, top1)

    missing = context.team.missing(range(len(students)), is_tested)
    if not missing:
        return
    copies, parallel = corrupted_copies(context), context.config.evaluation.parallel
    for number, team in context.team.deal(
        missing, len(students), parallel, path_of, log_accuracy, "student"
    ):
        image_set, student, seed_index = students[number]
        with context.team.timed(f"evaluation/{image_set.method}/{student}/{seed_index}", team):
            _train(students[number], context, team, copies)


def _train(student: Student, context: RunContext, team: Processes, copies: Copies | None) -> None:
    data, runtime = context.data, context.runtime
    image_set = student.image_set.of_student(student.name)
    config = image_set.config
    tensors, _ = load_tensors(image_set.images, "images")
    stored = load_labels(image_set.labels) if image_set.stores_labels else None
    task = context.student_task(config, tensors["images"], tensors["labels"], stored)
    runtime = replace(runtime, seed=seed_of(config, "evaluation")).of(student.name, "training")
    judge = Judge(data, runtime, context.workers, team, copies)
    name, seed_index = student.name, student.seed_index
    recipe = context.recipes.student(image_set, name, seed_index)
    path = image_set.result(name, seed_index)
    train_student(name, seed_index, task, judge, runtime, path, recipe)
