"""The verbs that run stages: all of them, or one."""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gvbsm.cli.budget import within_budget
from gvbsm.cli.parsing import Parsed, parse_run, start_log
from gvbsm.cli.starting import Others
from gvbsm.config import Config
from gvbsm.config.provenance import Origin
from gvbsm.engine.launch import read_launch
from gvbsm.pipeline.checks.ranking import check_ranking

if TYPE_CHECKING:
    from gvbsm.data.datasets import ImageData

log = logging.getLogger("gvbsm")


def stage_verb(verb: str, argv: list[str], others: Others) -> int:
    """Run all stages, or one of them, and print the results."""
    if verb == "rank":
        argv = [_with_students(argument) for argument in argv]
    parsed = parse_run(verb, argv)
    if parsed is None:
        return 0
    start_log(parsed.quiet, parsed.log_format)
    parsed = _settled(verb, parsed)
    config, workdir, quiet, origin = parsed.config, parsed.workdir, parsed.quiet, parsed.origin
    from gvbsm.cli.finished import Completion

    completion = Completion(verb, config, workdir, origin)
    convert_only = "--compress" in parsed.flags
    if read_launch().world == 1 and not convert_only and completion.is_noted():
        log.info("%s is finished: nothing to do", workdir)
        _print_noted(verb, workdir, origin)
        return 0
    others.start(config)
    _import_stages()
    from gvbsm import api

    results: dict[str, Any] = {}
    if verb == "continual":
        from gvbsm.pipeline.continual import run_continual

        results = run_continual(config, workdir, quiet, origin=origin)
    elif verb == "rank":
        from gvbsm.pipeline.ranking import run_ranking

        results = run_ranking(config, workdir, quiet, origin=origin)
    elif verb == "run":
        results = api.run(config, workdir, quiet, origin=origin)
    else:
        options = {"convert_only": True} if convert_only else {}
        api.run_stage(verb, config, workdir, quiet, origin=origin, **options)
    completion.freeze()
    if read_launch().rank:
        return 0
    _print_results(verb, results, workdir, origin, lambda: _write_report(workdir, quiet))
    if not convert_only:
        completion.note()
    return 0


def _settled(verb: str, parsed: Parsed) -> Parsed:
    """Fit the settings into the budget, after the checks of the verb."""
    if verb == "rank":
        check_ranking(parsed.config)
    return within_budget(parsed, check=_check_protocol if verb == "continual" else None)


def _check_protocol(config: Config, data: ImageData) -> None:
    """Check that the run and its class-incremental protocol could succeed."""
    from gvbsm.pipeline.preflight import check_continual, check_feasible

    check_feasible(config, data)
    check_continual(config, data)


def _with_students(argument: str) -> str:
    """The argument `--models` by the name of its setting."""
    name, equals, value = argument.partition("=")
    return f"--evaluation.students{equals}{value}" if name == "--models" else argument


def _import_stages() -> None:
    """Import torch and the stages without a search for garbage, which imports hardly make."""
    gc.disable()
    try:
        import gvbsm.api  # noqa: F401
    finally:
        gc.enable()


def _write_report(workdir: Path, quiet: bool) -> Path:
    from gvbsm.reporting import report

    return report(workdir, quiet)


def _print_noted(verb: str, workdir: Path, origin: Origin) -> None:
    """Print the results of a verb that has nothing to do."""
    from gvbsm.files.artifacts import read_json
    from gvbsm.store.workdir import Workspace

    space = Workspace(workdir)
    paths = {"continual": space.continual, "rank": space.ranking, "run": space.results}
    results = read_json(paths[verb]) if verb in paths else {}
    _print_results(verb, results, workdir, origin, lambda: space.report)


def _print_results(
    verb: str,
    results: Mapping[str, Any],
    workdir: Path,
    origin: Origin,
    write_report: Callable[[], Path],
) -> None:
    """Print the results of a verb and the paths of its files; a single stage prints nothing."""
    from gvbsm.pipeline.tables import format_continual, format_ranking, format_table

    if verb == "run":
        print(format_table(results["rows"]))
        print(f"\npreset:        {origin}")
        print(f"results:       {workdir / 'results.json'}")
        print(f"distilled set: {workdir / 'synthesis' / 'images.safetensors'}")
        print(f"picture:       {workdir / 'images.png'}")
        print(f"report:        {write_report()}")  # after the table, since it takes some seconds
    elif verb in ("continual", "rank"):
        ranks = verb == "rank"
        print(format_ranking(results) if ranks else format_continual(results))
        print(f"\npreset:  {origin}")
        print(f"results: {workdir / ('rank.json' if ranks else 'continual.json')}")
