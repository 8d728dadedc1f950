"""The option `--budget`: settings that fit into the time that the user has."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gvbsm.cli.parsing import Parsed
from gvbsm.cli.starting import planned_processes
from gvbsm.config.fields import replaced
from gvbsm.pipeline.budget.pictures import PRESET
from gvbsm.pipeline.budget.rules import SIDES

if TYPE_CHECKING:
    from gvbsm.pipeline.budget.choice import Check


def within_budget(parsed: Parsed, keep: bool = True, check: Check | None = None) -> Parsed:
    """Return the command line with settings that fit into its budget, if it has one.

    Args:
        parsed: The command line.
        keep: Keep the settings in the work directory, so that they are chosen only once.
        check: As for `settle_budget`.

    Raises:
        ConfigError, DataError, ArtifactError, RunError: As `settle_budget`.
    """
    config, request = parsed.config, parsed.request
    if request is None:
        return parsed
    from gvbsm.pipeline.budget.settle import settle_budget  # with the schemas of files

    # Memory limits the number of processes; own pictures are made small, however large they are.
    side = config.data.image_size or max(SIDES["cpu"])
    of_side = replaced(config, {"data": {"image_size": side}})
    processes = planned_processes(of_side if request.preset == PRESET else config)
    settled = settle_budget(config, request, parsed.workdir, processes, keep, check=check)
    return parsed._replace(config=settled)
