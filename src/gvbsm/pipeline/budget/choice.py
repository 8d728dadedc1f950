"""Choose the settings of a run that fit into a time budget."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from gvbsm.config import Config, ConfigError
from gvbsm.config.build import as_config, validate
from gvbsm.config.checks import faults_of_batch_labels
from gvbsm.config.errors import first_line
from gvbsm.config.fields import replaced
from gvbsm.config.keys import nested
from gvbsm.data.datasets import ImageData, survey_dataset
from gvbsm.data.epochs import settle
from gvbsm.data.pictures import DataError
from gvbsm.data.sources.memory import InMemory
from gvbsm.engine.device import Runtime, runtime_for
from gvbsm.engine.progress.spelling import spell_count, spell_duration
from gvbsm.pipeline.budget import rules
from gvbsm.pipeline.budget.mirror import check_mirror
from gvbsm.pipeline.budget.pictures import PRESET
from gvbsm.pipeline.budget.prediction import Prediction
from gvbsm.pipeline.budget.request import Request
from gvbsm.pipeline.budget.search import Choice, choose
from gvbsm.pipeline.planning.process_plan import ProcessPlan
from gvbsm.pipeline.preflight import check_places

log = logging.getLogger("gvbsm")

Check = Callable[[Config, ImageData], None]

BUDGETS = {"cpu": 1800.0, "cuda": 3600.0}  # seconds of a run for which none is given


def choose_settings(
    config: Config,
    request: Request,
    processes: ProcessPlan,
    workdir: Path,
    pictures: InMemory | None,
    check: Check,
) -> tuple[Config, dict[str, Any]]:
    """Return settings that fit into the budget, and what was found out about the pictures.

    Args:
        config: The settings of the preset, with those that are given.
        request: The budget, and what stays as it is.
        processes: The processes of the run.
        workdir: The work directory.
        pictures: Pictures from Python code, in place of those that the settings name.
        check: Checks settings against the pictures before anything is timed.

    Raises:
        ConfigError: If even the cheapest run takes longer, or if no run could succeed.
        DataError, RunError: With one clear line.
    """
    check_places(config)
    threads = config.threads or processes.threads
    runtime = runtime_for(replace(config, threads=threads), quiet=True)
    data = survey_dataset(config.data, pictures)
    predict, device = Prediction(data, runtime, processes, workdir), runtime.device.type
    if request.preset == PRESET:
        facts = rules.DataFacts(len(data.class_names), len(data.train), data.image_size)
        is_given = "data.image_size" in request.given
        sides = (data.image_size,) if is_given else rules.sides(facts, device)
        sides = _feasible(partial(_own, config, request, facts, effort=0.0), sides, data, check)
        facts = facts._replace(mirror=_is_mirror_harmless(data, runtime))
        settings = partial(_own, config, request, facts)
        budget = request.seconds or _usual_budget(settings, sides, device)
    else:
        facts, sides = None, (data.image_size,)
        check(settle(config, data.class_names), data)
        settings = partial(_scaled, config, request)
        budget = request.seconds or BUDGETS[device]
    choice = choose(settings, sides, budget, predict)
    _log_choice(choice, budget, data.class_names)
    return choice.config, facts._asdict() if facts else {}


def _usual_budget(
    settings: Callable[[int, float], Config], sides: Sequence[int], device: str
) -> float:
    """Return the seconds of a run for which none are given: any where nothing is left to choose.

    Args:
        settings: The settings at a side in pixels and an effort.
        sides: Sides that may be chosen, in pixels.
        device: cpu or cuda.
    """
    is_given = len(sides) == 1 and settings(sides[0], 0.0) == settings(sides[0], 1.0)
    return math.inf if is_given else BUDGETS[device]


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
    of_budget = f" of {spell_duration(budget)}" if budget < math.inf else ""
    more_time = "; more time changes nothing" if choice.effort == 1 else ""
    log.info(
        "%s: about %s%s (effort %.2f of 1%s)",
        ", ".join(settings),
        spell_duration(choice.seconds),
        of_budget,
        choice.effort,
        more_time,
    )


def _feasible(
    settings: Callable[[int], Config], sides: Sequence[int], data: ImageData, check: Check
) -> tuple[int, ...]:
    """Return the sides at which a run could succeed: what is given may exclude some of them.

    Args:
        settings: The settings at a side in pixels.
        sides: Sides that may be chosen, in pixels.
        data: The pictures, listed but not read.
        check: Checks settings against the pictures.

    Raises:
        ConfigError, DataError: If there is no such side.
    """
    faults: dict[int, ConfigError | DataError] = {}
    for side in sides:
        try:
            config = settle(settings(side), data.class_names)
            check(config, replace(data, image_size=side))
        except (ConfigError, DataError) as error:
            faults[side] = error
    if len(faults) == len(sides):
        raise faults[sides[0]]
    for side, fault in faults.items():
        log.info("%d px are not tried: %s", side, first_line(fault))
    return tuple(side for side in sides if side not in faults)


def _is_mirror_harmless(data: ImageData, runtime: Runtime) -> bool:
    """Find out by a quick test whether mirrored pictures still show their classes."""
    check = check_mirror(data, runtime)
    log.info(
        "flips are %s: a quick network has %.1f %% on %d held-out pictures, %.1f %% mirrored",
        "on" if check.harmless else "off",
        check.plain,
        check.pictures,
        check.mirrored,
    )
    return check.harmless


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
