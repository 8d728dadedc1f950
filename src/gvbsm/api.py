"""Run the pipeline, or one of its stages, from settings or the name of a preset."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gvbsm.config import Config
from gvbsm.config.build import as_config, usual_workdir
from gvbsm.config.paths import user_path
from gvbsm.config.provenance import Origin, origin_of
from gvbsm.engine.torch_defaults import torch_defaults
from gvbsm.pipeline.run import Run
from gvbsm.reporting.picture import draw_picture
from gvbsm.reporting.result_tables import RunResults


@torch_defaults()
def run(
    config: Config | str | Mapping[str, Any],
    workdir: str | Path | None = None,
    quiet: bool = False,
    *,
    origin: Origin | None = None,
) -> RunResults:
    """Run the whole pipeline and return the content of `results.json`.

    It is a mapping, with `to_markdown()`, `to_latex()`, `to_csv()` and `to_frame()`.

    Args:
        config: Settings, the name of a preset, or a nested mapping of settings.
        workdir: The work directory; artifacts in it that match the settings are not made again.
            None is `runs/PRESET`, as on the command line, or `runs/DATA` for other settings.
        quiet: No progress bars.
        origin: Where the settings came from, kept with the results; None takes a preset's name.

    Raises:
        ConfigError, DataError, ArtifactError, RunError: With one clear line.
    """
    settings = as_config(config)
    usual = usual_workdir(config if isinstance(config, str) else settings.data.name)
    current = Run(settings, user_path(workdir or usual), quiet, origin=origin or origin_of(config))
    results = current.all_stages()
    if current.processes.leads:
        draw_picture(current.workspace, current.real_pictures())
    return RunResults(results)


@torch_defaults()
def run_stage(
    stage: str,
    config: Config | str | Mapping[str, Any],
    workdir: str | Path,
    quiet: bool = False,
    *,
    origin: Origin | None = None,
    **options: bool,
) -> None:
    """Run one stage of the run's own method; the artifacts that it builds on must exist.

    Args:
        stage: squeeze, statistics, synthesis, labels or evaluation.
        config: Settings, the name of a preset, or a nested mapping of settings.
        workdir: The work directory.
        quiet: No progress bars.
        origin: As for `run`.
        options: Options of the stage, such as `convert_only` of labels.

    Raises:
        ConfigError, DataError, ArtifactError, RunError: With one clear line.
    """
    current = Run(as_config(config), user_path(workdir), quiet, origin=origin or origin_of(config))
    with current.at_work():
        getattr(current, stage)(**options)
    current.write_results()
