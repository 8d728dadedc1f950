"""Settings that fit into a time budget: those of an earlier run of the same request, or new ones.

Nothing here imports torch before settings have to be chosen.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from gvbsm.config import Config, ConfigError
from gvbsm.engine.launch import read_launch
from gvbsm.pipeline.budget.record import check_keepable, keep_settings, recorded_settings
from gvbsm.pipeline.budget.request import Request
from gvbsm.pipeline.planning.process_plan import ProcessPlan

if TYPE_CHECKING:
    from gvbsm.data.sources.memory import InMemory
    from gvbsm.pipeline.budget.choice import Check

log = logging.getLogger("gvbsm")


def settle_budget(
    config: Config,
    request: Request,
    workdir: Path,
    processes: ProcessPlan,
    keep: bool = True,
    pictures: InMemory | None = None,
    check: Check | None = None,
) -> Config:
    """Return settings that fit into the budget.

    Args:
        config: The settings of the preset, with those that are given.
        request: The budget, and what stays as it is.
        workdir: The work directory.
        processes: The processes in which the run will compute.
        keep: Keep new settings in the work directory, so that they are chosen only once.
        pictures: Pictures from Python code, in place of those that the settings name.
        check: Checks settings against the pictures before anything is timed; None is
            `check_feasible`.

    Raises:
        ConfigError: If no run fits into the budget, or a launcher has started several processes.
        DataError, ArtifactError, RunError: With one clear line.
    """
    if (recorded := _recorded(config, request, workdir, pictures)) is not None:
        return recorded
    if read_launch().world > 1:
        raise ConfigError(
            "a budget is for one process: write the settings with gvbsm settings ... --budget "
            "TIME > my.yaml, then run my.yaml in all processes"
        )
    if keep:
        check_keepable(workdir)
    from gvbsm.engine.torch_defaults import torch_defaults
    from gvbsm.pipeline.budget.choice import choose_settings
    from gvbsm.pipeline.preflight import check_feasible, check_same_pictures

    check = check or check_feasible
    with torch_defaults():
        if pictures is not None:
            check_same_pictures(config, workdir, pictures)
        chosen, facts = choose_settings(config, request, processes, workdir, pictures, check)
    if keep:
        # The same command may have been given twice, and the other one have chosen before.
        if (recorded := _recorded(config, request, workdir, pictures)) is not None:
            return recorded
        log.info("settings: %s", keep_settings(chosen, config, request, facts, workdir))
    return chosen


def _recorded(
    config: Config, request: Request, workdir: Path, pictures: InMemory | None
) -> Config | None:
    """Return the settings that were chosen for the same request before; None if there are none.

    The record does not identify pictures from Python: data.json does, once the run has begun.
    """
    if pictures is not None and not (workdir / "data.json").is_file():
        return None
    return recorded_settings(config, request, workdir)
