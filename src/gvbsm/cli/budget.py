"""The option `--budget`: settings that fit into the time that the user has."""

from __future__ import annotations

import logging
from typing import Any

from gvbsm.cli.parsing import Parsed
from gvbsm.cli.starting import planned_processes
from gvbsm.config import Config, ConfigError
from gvbsm.config.fields import replaced
from gvbsm.engine.launch import read_launch
from gvbsm.pipeline.budget.pictures import PRESET
from gvbsm.pipeline.budget.record import keep_settings, recorded_settings
from gvbsm.pipeline.budget.request import Request
from gvbsm.pipeline.budget.rules import SIDES

log = logging.getLogger("gvbsm")


def within_budget(parsed: Parsed, keep: bool = True) -> Parsed:
    """Return the command line with settings that fit into its budget, if it has one.

    Args:
        parsed: The command line.
        keep: Keep the settings in the work directory, so that they are chosen only once.

    Raises:
        ConfigError: If no run fits into the budget, or a launcher has started several processes.
    """
    if parsed.request is None:
        return parsed
    config = recorded_settings(parsed.config, parsed.request, parsed.workdir)
    if config is None:
        if read_launch().world > 1:
            raise ConfigError(
                "a budget is for one process: write the settings with gvbsm settings ... --budget "
                "TIME > my.yaml, then run my.yaml in all processes"
            )
        config, facts = _chosen(parsed, parsed.request)
        if keep:
            path = keep_settings(config, parsed.request, facts, parsed.workdir)
            log.info("settings: %s", path)
    return parsed._replace(config=config)


def _chosen(parsed: Parsed, request: Request) -> tuple[Config, dict[str, Any]]:
    from gvbsm.engine.torch_defaults import torch_defaults
    from gvbsm.pipeline.budget.choice import choose_settings

    # Memory limits the number of processes; own pictures are made small, however large they are.
    side = parsed.config.data.image_size or max(SIDES["cpu"])
    of_side = replaced(parsed.config, {"data": {"image_size": side}})
    processes = planned_processes(of_side if request.preset == PRESET else parsed.config)
    with torch_defaults():
        return choose_settings(parsed.config, request, processes, parsed.workdir)
