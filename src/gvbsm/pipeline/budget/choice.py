"""Choose the settings of a run that fit into a time budget."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from gvbsm.config import Config
from gvbsm.config.build import as_config, validate
from gvbsm.config.checks import faults_of_batch_labels
from gvbsm.config.fields import replaced
from gvbsm.config.keys import nested
from gvbsm.data.class_sizes import settle_ipc
from gvbsm.data.datasets import ImageData, survey_dataset
from gvbsm.data.epochs import settle
from gvbsm.engine.device import Runtime, runtime_for
from gvbsm.engine.progress.spelling import spell_count, spell_duration
from gvbsm.pipeline.budget import rules
from gvbsm.pipeline.budget.mirror import check_mirror
from gvbsm.pipeline.budget.pictures import PRESET
from gvbsm.pipeline.budget.prediction import Prediction
from gvbsm.pipeline.budget.request import Request
from gvbsm.pipeline.budget.search import Choice, choose
from gvbsm.pipeline.planning.process_plan import ProcessPlan

log = logging.getLogger("gvbsm")

BUDGETS = {"cpu": 1800.0, "cuda": 3600.0}  # seconds of a run for which none is given


def choose_settings(
    config: Config, request: Request, processes: ProcessPlan, workdir: Path
) -> tuple[Config, dict[str, Any]]:
    """Return settings that fit into the budget, and what was found out about the pictures.

    Args:
        config: The settings of the preset, with those that are given.
        request: The budget, and what stays as it is.
        processes: The processes of the run.
        workdir: The work directory.

    Raises:
        ConfigError: If even the cheapest run takes longer.
        DataError, RunError: With one clear line.
    """
    threads = config.threads or processes.threads
    runtime = runtime_for(replace(config, threads=threads), quiet=True)
    data = survey_dataset(config.data)
    settle_ipc(config, data.class_names)  # classes without a name end here, before any timing
    budget = request.seconds or BUDGETS[runtime.device.type]
    predict = Prediction(data, runtime, processes, workdir)
    if request.preset == PRESET:
        facts = _facts(config, data, runtime)
        is_given = "data.image_size" in request.given
        sides = (data.image_size,) if is_given else rules.sides(facts, runtime.device.type)
        choice = choose(partial(_own, config, request, facts), sides, budget, predict)
    else:
        facts = None
        choice = choose(partial(_scaled, config, request), [data.image_size], budget, predict)
    _log_choice(choice, budget, data.class_names)
    return choice.config, facts._asdict() if facts else {}


def _log_choice(choice: Choice, budget: float, class_names: Sequence[str]) -> None:
    """Log the settings that the effort decides, and the time that the run takes."""
    config = settle(choice.config, class_names)  # with the epochs that the least steps ask for
    settings = [
        f"teachers of {spell_count(config.squeeze.epochs, 'epoch')}",
        spell_count(config.synthesis.iterations, "iteration"),
        f"labels of {spell_count(config.labels.epochs, 'epoch')}",
        f"students for {spell_count(config.evaluation.seeds, 'seed')}",
    ]
    if config.data.image_size:
        settings = [f"{config.data.image_size} px", *settings]
    more_time = "; more time changes nothing" if choice.effort == 1 else ""
    log.info(
        "%s: about %s of %s (effort %.2f of 1%s)",
        ", ".join(settings),
        spell_duration(choice.seconds),
        spell_duration(budget),
        choice.effort,
        more_time,
    )


def _facts(config: Config, data: ImageData, runtime: Runtime) -> rules.DataFacts:
    """What the rules have to know; whether mirror images do harm is found out by a quick test."""
    check = check_mirror(data, runtime)
    log.info(
        "flips are %s: a quick network has %.1f %% on %d held-out pictures, %.1f %% mirrored",
        "on" if check.harmless else "off",
        check.plain,
        check.pictures,
        check.mirrored,
    )
    return rules.DataFacts(len(data.class_names), len(data.train), data.image_size, check.harmless)


def _own(
    config: Config, request: Request, facts: rules.DataFacts, side: int, effort: float
) -> Config:
    """Settings for a user's own pictures at a side and an effort, with those that are given."""
    teachers, given = as_config(PRESET).squeeze.backbones, nested(request.given)
    asked = replaced(config, given)
    by_batch = not any(faults_of_batch_labels(asked))
    chosen = rules.recipe(teachers, facts, config.ipc, side, effort, by_batch, request.given)
    return validate(rules.with_forgetting(replaced(replaced(asked, chosen), given)))


def _scaled(config: Config, request: Request, _side: int, effort: float) -> Config:
    """The settings of another preset at an effort."""
    return validate(rules.with_forgetting(rules.scaled(config, effort, request.given)))
