"""Train the students of several image sets that are missing or out of date."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace

from gvbsm.data.corrupted.copies import Copies
from gvbsm.engine.processes import Processes
from gvbsm.files.artifacts import read_json
from gvbsm.files.tensors import load_tensors
from gvbsm.pipeline.artifacts import Artifact
from gvbsm.pipeline.context import RunContext
from gvbsm.pipeline.evaluated_sets import EvaluatedSet
from gvbsm.pipeline.training.corruptions import corrupted_copies
from gvbsm.stages.evaluation import train_student
from gvbsm.stages.judge import Judge
from gvbsm.store.distilled import load_labels
from gvbsm.store.image_set import ImageSet
from gvbsm.store.recipes import seed_of

log = logging.getLogger("gvbsm")


Student = Artifact[tuple[ImageSet, str, int]]


def train_students(sets: Sequence[EvaluatedSet], context: RunContext) -> None:
    """Train the students that are missing or out of date; several processes divide them.

    Args:
        sets: The image sets, with images and stored labels made, and the seeds of their students.
        context: The run; its teachers label during training if labels are not stored.

    Raises:
        RunError: If a training diverges.
    """
    students = context.artifacts.students(sets)
    missing = context.team.missing(students, Artifact.is_tested)
    if not missing:
        return

    def log_accuracy(student: Student) -> None:
        image_set, name, seed_index = student.of
        top1 = read_json(student.path)["top1"][-1]
        log.info("evaluation %s, %s, seed %d: %.1f %%", image_set.method, name, seed_index, top1)

    copies, parallel = corrupted_copies(context), context.config.evaluation.parallel
    for student, team in context.team.deal(
        missing, len(students), parallel, log_accuracy, "student"
    ):
        with context.team.timed(student.clock, team):
            _train(student, context, team, copies)


def _train(student: Student, context: RunContext, team: Processes, copies: Copies | None) -> None:
    image_set, name, seed_index = student.of
    image_set = image_set.of_student(name)
    config = image_set.config
    tensors, _ = load_tensors(image_set.images, "images")
    stored = load_labels(image_set.labels) if image_set.stores_labels else None
    task = context.student_task(config, tensors["images"], tensors["labels"], stored)
    runtime = replace(context.runtime, seed=seed_of(config, "evaluation")).of(name, "training")
    judge = Judge(context.data, runtime, context.workers, team, copies)
    train_student(name, seed_index, task, judge, runtime, student.path, student.recipe)
