"""Make the corrupted test pictures of a run, and test the teachers on them."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

from gvbsm.config import Config
from gvbsm.config.settled import corruption_kinds
from gvbsm.data.corrupted.copies import Copies, clean_pictures, copies_of
from gvbsm.data.datasets import ImageData
from gvbsm.engine.device import Runtime
from gvbsm.engine.progress.spelling import spell_count
from gvbsm.files.artifacts import write_json
from gvbsm.files.schema import checked_header, current_history
from gvbsm.pipeline.teachers import Teachers
from gvbsm.pipeline.work_sharing import Teamwork
from gvbsm.stages.corruptions import write_copies
from gvbsm.stages.judge import Judge
from gvbsm.store.recipes import Recipes

log = logging.getLogger("gvbsm")


def corrupted_copies(
    config: Config, data: ImageData, runtime: Runtime, recipes: Recipes, work: Teamwork
) -> Copies | None:
    """Make the corrupted test pictures that are missing; several processes divide the kinds.

    Args:
        config: The run's settings.
        data: The real pictures.
        runtime: Seed, processes.
        recipes: The run's recipes.
        work: Divides the kinds between processes.

    Returns:
        The copies of all kinds; None if the settings name none.
    """
    section, path_of = config.evaluation.corruptions, work.workspace.corrupted
    if not (kinds := corruption_kinds(section)):
        return None
    copies = copies_of(section, data, config.seed, path_of)
    if section.folder is not None:
        return copies

    def is_made(kind: str) -> bool:
        return work.workspace.is_made(path_of(kind), recipes.corrupted(kind), "run", make=True)

    missing = work.missing(kinds, is_made)
    if not missing:
        return copies
    runtime = replace(runtime, seed=config.seed)
    pictures = clean_pictures(data, copies.index, runtime, runtime.workers(config.data.workers))

    def log_made(kind: str) -> None:
        log.info("corruptions: %s, %s", kind, spell_count(len(pictures), "picture"))

    for kind, team in work.deal(missing, len(kinds), "networks", path_of, log_made, "corruption"):
        with work.timed(f"corruptions/{kind}", team):
            recipe, path = recipes.corrupted(kind), path_of(kind)
            write_copies(pictures, copies.index, kind, copies.severities, runtime, path, recipe)
    return copies


def judge_teachers(
    config: Config,
    data: ImageData,
    runtime: Runtime,
    recipes: Recipes,
    work: Teamwork,
    teachers: Teachers,
) -> None:
    """Test the teachers on the corrupted pictures where they are a row of the results.

    Args:
        config: The run's settings.
        data: The real pictures.
        runtime: Device, precision, processes.
        recipes: The run's recipes.
        work: Divides the teachers between processes.
        teachers: The teachers.
    """
    if "teacher" not in config.baselines.methods:
        return
    if (copies := corrupted_copies(config, data, runtime, recipes, work)) is None:
        return
    workspace, names = work.workspace, config.squeeze.backbones

    def path_of(name: str) -> Path:
        return workspace.tested_teacher(name)

    def is_tested(name: str) -> bool:
        return current_history(path_of(name), recipes.tested_teacher(name)) is not None

    def log_tested(name: str) -> None:
        log.info("corruptions: teacher %s", name)

    missing = work.missing(names, is_tested)
    for name, team in work.deal(missing, len(names), "networks", path_of, log_tested, "teacher"):
        with work.timed(f"corruptions/teacher/{name}", team):
            judge = Judge(data, runtime, runtime.workers(config.data.workers), team, copies)
            judge(teachers[name])
            judge.test_corrupted(teachers[name])
            history = checked_header(workspace.teacher(name))["history"]
            recipe = recipes.tested_teacher(name)
            write_json(path_of(name), {"recipe": recipe, **history, **judge.record()})
