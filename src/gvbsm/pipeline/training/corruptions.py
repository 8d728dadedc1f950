"""Make the corrupted test pictures of a run, and test the teachers on them."""

from __future__ import annotations

import logging
from dataclasses import replace

from gvbsm.config.settled import corruption_kinds
from gvbsm.data.corrupted.copies import Copies, clean_pictures, copies_of
from gvbsm.engine.progress.spelling import spell_count
from gvbsm.files.artifacts import write_json
from gvbsm.files.schema import checked_header, current_history
from gvbsm.pipeline.context import RunContext
from gvbsm.stages.corruptions import write_copies
from gvbsm.stages.judge import Judge

log = logging.getLogger("gvbsm")


def corrupted_copies(context: RunContext) -> Copies | None:
    """Make the corrupted test pictures that are missing; several processes divide the kinds.

    Returns:
        The copies of all kinds; None if the settings name none.
    """
    config, data = context.config, context.data
    section, path_of = config.evaluation.corruptions, context.workspace.corrupted
    if not (kinds := corruption_kinds(section)):
        return None
    copies = copies_of(section, data, config.seed, path_of)
    if section.folder is not None:
        return copies

    def is_made(kind: str) -> bool:
        recipe = context.recipes.corrupted(kind)
        return context.workspace.is_made(path_of(kind), recipe, "run", make=True)

    missing = context.team.missing(kinds, is_made)
    if not missing:
        return copies
    runtime = replace(context.runtime, seed=config.seed)
    pictures = clean_pictures(data, copies.index, runtime, context.workers)

    def log_made(kind: str) -> None:
        log.info("corruptions: %s, %s", kind, spell_count(len(pictures), "picture"))

    for kind, team in context.team.deal(
        missing, len(kinds), "networks", path_of, log_made, "corruption"
    ):
        with context.team.timed(f"corruptions/{kind}", team):
            recipe, path = context.recipes.corrupted(kind), path_of(kind)
            write_copies(pictures, copies.index, kind, copies.severities, runtime, path, recipe)
    return copies


def judge_teachers(context: RunContext) -> None:
    """Test the teachers on the corrupted pictures where they are a row of the results."""
    config, recipes, workspace = context.config, context.recipes, context.workspace
    if "teacher" not in config.baselines.methods:
        return
    if (copies := corrupted_copies(context)) is None:
        return
    names, teachers = config.squeeze.backbones, context.teachers

    def is_tested(name: str) -> bool:
        recipe = recipes.tested_teacher(name)
        return current_history(workspace.tested_teacher(name), recipe) is not None

    def log_tested(name: str) -> None:
        log.info("corruptions: teacher %s", name)

    missing, path_of = context.team.missing(names, is_tested), workspace.tested_teacher
    for name, team in context.team.deal(
        missing, len(names), "networks", path_of, log_tested, "teacher"
    ):
        with context.team.timed(f"corruptions/teacher/{name}", team):
            judge = Judge(context.data, context.runtime, context.workers, team, copies)
            judge(teachers[name])
            judge.test_corrupted(teachers[name])
            history = checked_header(workspace.teacher(name))["history"]
            recipe = recipes.tested_teacher(name)
            write_json(path_of(name), {"recipe": recipe, **history, **judge.record()})
