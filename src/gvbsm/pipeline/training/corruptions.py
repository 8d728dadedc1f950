"""Make the corrupted test pictures of a run, and test the teachers on them."""

from __future__ import annotations

import logging
from dataclasses import replace

from gvbsm.config.settled import corruption_kinds
from gvbsm.data.corrupted.copies import Copies, clean_pictures, copies_of
from gvbsm.engine.progress.spelling import spell_count
from gvbsm.files.artifacts import write_json
from gvbsm.files.schema import checked_header
from gvbsm.pipeline.artifacts import Artifact
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
    section = config.evaluation.corruptions
    if not (kinds := corruption_kinds(section)):
        return None
    copies = copies_of(section, data, config.seed, context.workspace.corrupted)
    if section.folder is not None:
        return copies

    def is_made(made: Artifact[str]) -> bool:
        return context.workspace.is_made(made.path, made.recipe, "run", make=True)

    artifacts = list(map(context.artifacts.corrupted, kinds))
    missing = context.team.missing(artifacts, is_made)
    if not missing:
        return copies
    runtime = replace(context.runtime, seed=config.seed)
    pictures = clean_pictures(data, copies.index, runtime, context.workers)

    def log_made(made: Artifact[str]) -> None:
        log.info("corruptions: %s, %s", made.of, spell_count(len(pictures), "picture"))

    for made, team in context.team.deal(missing, len(kinds), "networks", log_made, "corruption"):
        with context.team.timed(made.clock, team):
            kind, index, severities = made.of, copies.index, copies.severities
            write_copies(pictures, index, kind, severities, runtime, made.path, made.recipe)
    return copies


def judge_teachers(context: RunContext) -> None:
    """Test the teachers on the corrupted pictures where they are a row of the results."""
    if "teacher" not in context.config.baselines.methods:
        return
    if (copies := corrupted_copies(context)) is None:
        return
    tests = list(map(context.artifacts.tested_teacher, context.config.squeeze.backbones))
    missing = context.team.missing(tests, Artifact.is_tested)

    def log_tested(test: Artifact[str]) -> None:
        log.info("corruptions: teacher %s", test.of)

    for test, team in context.team.deal(missing, len(tests), "networks", log_tested, "teacher"):
        with context.team.timed(test.clock, team):
            teacher = context.teachers[test.of]
            judge = Judge(context.data, context.runtime, context.workers, team, copies)
            judge(teacher)
            judge.test_corrupted(teacher)
            history = checked_header(context.workspace.teacher(test.of))["history"]
            write_json(test.path, {"recipe": test.recipe, **history, **judge.record()})
