"""The command line: argv -> settings -> stage -> one table and one exit code.

Exit codes: 0 done; 1 the run failed; 2 a fault in the command, the settings, the data or the work
directory; 130 stopped by Ctrl-C. torch is imported only when a stage really runs.
"""

from __future__ import annotations

import itertools
import logging
import sys
from collections.abc import Callable, Sequence
from functools import reduce
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gvbsm._version import __version__
from gvbsm.config import BenchConfig, Config, ConfigError
from gvbsm.settings import (
    flat_keys,
    from_parsed,
    preset_names,
    read_preset,
    settings_parser,
    unknown_field,
    usual_workdir,
)
from gvbsm.studies import read_plan, read_study, study_names

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser

VERBS = {
    "run": "all stages, for G-VBSM and its baselines, then the table, the picture and the report",
    "squeeze": "train the teachers",
    "statistics": "record the teachers' statistics on the real data",
    "synthesis": "optimise the images",
    "labels": "make the soft labels",
    "evaluation": "train students on images and labels and test them",
    "continual": "test the sets as classes arrive in steps (class-incremental learning)",
    "report": "write the results, pictures and warnings of a work directory as one HTML file",
    "sweep": "vary settings: the studies of the paper's tables and figures, or your own",
    "show": "tell what a work directory holds",
    "bench": "measure what the method costs beside the bare networks, on this machine",
}
SHORT = {"--data-root": "--data.root"}


def entry() -> None:
    """Entry point of the `gvbsm` command."""
    sys.exit(main(sys.argv[1:]))


def main(argv: Sequence[str]) -> int:
    """Run a command and return its exit code."""
    if not argv or argv[0] in ("-h", "--help"):
        print(_overview())
        return 0 if argv else 2
    if argv[0] == "--version":
        print(f"gvbsm {__version__}")
        return 0
    try:
        return _dispatch(argv[0], list(argv[1:]))
    except KeyboardInterrupt:
        print("\nstopped; the same command goes on from the last checkpoint", file=sys.stderr)
        return 130
    except Exception as error:
        code = _exit_code(error)
        if code is None:
            raise
        for line in str(error).splitlines() or [type(error).__name__]:
            print(f"gvbsm: {line}", file=sys.stderr)
        return code


def _exit_code(error: Exception) -> int | None:
    """2 for a fault of the user's, 1 for a failed run, None for a bug: it keeps its traceback."""
    if isinstance(error, ConfigError):
        return 2
    from gvbsm.artifacts import ArtifactError
    from gvbsm.pictures import DataError
    from gvbsm.runtime import RunError

    if isinstance(error, (ArtifactError, DataError)):
        return 2
    return 1 if isinstance(error, (RunError, OSError)) else None


def _overview() -> str:
    width = max(map(len, VERBS))
    lines = ["usage: gvbsm VERB ... (gvbsm VERB --help for all settings)", "", "verbs:"]
    lines += [f"  {verb:{width}}  {text}" for verb, text in VERBS.items()]
    lines += [
        "",
        f"presets: {', '.join(preset_names())}",
        "  join them with +, as in cifar10+sre2l",
    ]
    lines += ["", "example: gvbsm run digits --workdir runs/digits", "version: gvbsm --version"]
    return "\n".join(lines)


def _dispatch(verb: str, argv: list[str]) -> int:
    if verb not in VERBS:
        import difflib

        near = difflib.get_close_matches(verb, VERBS, n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        raise ConfigError(f"there is no verb {verb!r}; {hint}verbs: {', '.join(VERBS)}")
    if verb in COMMANDS:
        return COMMANDS[verb](argv)
    return _run(verb, argv)


def _run(verb: str, argv: list[str]) -> int:
    """All stages, or one of them."""
    parsed = _parse(verb, argv)
    if parsed is None:
        return 0
    config, workdir, quiet = parsed
    _start_log(quiet)
    from gvbsm import pipeline
    from gvbsm.results import format_continual, format_table

    if verb == "continual":
        from gvbsm.continual import run_continual

        print(format_continual(run_continual(config, workdir, quiet)))
        print(f"\nresults: {workdir / 'continual.json'}")
        return 0
    if verb != "run":
        pipeline.run_stage(verb, config, workdir, quiet)
        return 0
    from gvbsm.reporting import report

    results = pipeline.run(config, workdir, quiet)
    print(format_table(results["rows"]))
    print(f"\nresults:       {workdir / 'results.json'}")
    print(f"distilled set: {workdir / 'synthesis' / 'images.safetensors'}")
    print(f"picture:       {workdir / 'images.png'}")
    print(f"report:        {report(workdir, quiet)}")
    return 0


def _start_log(quiet: bool = False) -> None:
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    logging.getLogger("gvbsm").setLevel(logging.WARNING if quiet else logging.INFO)


def _parse(verb: str, argv: list[str]) -> tuple[Config, Path, bool] | None:
    """Settings, work directory and quiet; None if only help was asked for."""
    from jsonargparse import ArgumentError

    argv = [_expand(argument) for argument in argv]
    preset = argv[0] if argv and not argv[0].startswith("-") else None
    parser = settings_parser(f"gvbsm {verb}")
    parser.add_argument("preset", type=str, help=f"{', '.join(preset_names())}, or a YAML file")
    parser.add_argument(
        "--workdir", type=str, help="where everything is kept; runs/PRESET if left out"
    )
    parser.add_argument("--quiet", action="store_true", help="no progress bars and no log")
    if preset is not None:
        _set_defaults(parser, _checked(read_preset(preset), preset))
    elif not {"-h", "--help"} & set(argv):
        raise ConfigError(f"name a preset or a YAML file first: gvbsm {verb} PRESET ...")
    try:
        parsed = parser.parse_args(argv)
    except ArgumentError as error:
        raise ConfigError(_explain(str(error))) from None
    except SystemExit as leaving:
        if leaving.code in (0, None):
            return None
        raise
    given = parsed.pop("workdir")
    workdir = Path(given) if given else usual_workdir(parsed.pop("preset"))
    return from_parsed(parser, parsed), workdir, bool(parsed.pop("quiet"))


def _expand(argument: str) -> str:
    name, equals, value = argument.partition("=")
    return SHORT.get(name, name) + equals + value


def _checked(settings: dict[str, Any], preset: str) -> dict[str, Any]:
    """The settings, once their types are found right: a parser does not check its defaults."""
    from jsonargparse import ArgumentError

    try:
        settings_parser("gvbsm").parse_object(settings)
    except ArgumentError as error:
        raise ConfigError(f"{preset}: {' '.join(str(error).split())}") from None
    return settings


def _set_defaults(parser: ArgumentParser, preset: dict[str, Any]) -> None:
    for key in flat_keys(preset):
        value = reduce(lambda nested, name: nested[name], key.split("."), preset)
        parser.set_defaults({key: value})


def _explain(message: str) -> str:
    """One line; an unknown option gets the nearest known one."""
    message = " ".join(message.split())
    start = "unrecognized arguments: "
    if message.startswith(start):
        option = message.removeprefix(start).split()[0]
        return unknown_field(option.lstrip("-").partition("=")[0], where="the command")
    return message


def _show(argv: list[str]) -> int:
    if argv and argv[0] in ("-h", "--help"):
        print("usage: gvbsm show DIR")
        return 0
    if len(argv) != 1:
        raise ConfigError(f"gvbsm show DIR takes one work directory, got {len(argv)}")
    from gvbsm.show import describe

    print(describe(Path(argv[0])))
    return 0


def _report(argv: list[str]) -> int:
    usage = "gvbsm report DIR [--quiet]"
    if {"-h", "--help"} & set(argv):
        print(f"usage: {usage}")
        return 0
    folders = [argument for argument in argv if argument != "--quiet"]
    if len(folders) != 1 or folders[0].startswith("-"):
        raise ConfigError(f"{usage} takes one work directory, got {' '.join(folders) or 'none'}")
    _start_log("--quiet" in argv)
    from gvbsm.reporting import report

    print(report(Path(folders[0]), quiet="--quiet" in argv))
    return 0


def _sweep(argv: list[str]) -> int:
    from jsonargparse import ArgumentError

    if {"-h", "--help"} & set(argv):
        print(_sweep_help())
        return 0
    names = list(itertools.takewhile(lambda argument: not argument.startswith("-"), argv))
    if len(names) != 2:
        raise ConfigError(f"gvbsm sweep STUDY PRESET ..., got {' '.join(names) or 'neither'}")
    parser = settings_parser("gvbsm sweep")
    parser.add_argument("--workdir", type=str)
    parser.add_argument("--repeat", type=int)
    parser.add_argument("--quiet", action="store_true")
    try:
        parsed = parser.parse_args([_expand(argument) for argument in argv[2:]], defaults=False)
    except ArgumentError as error:
        raise ConfigError(_explain(str(error))) from None
    options = parsed.as_dict()
    quiet = bool(options.pop("quiet", False))
    folder = options.pop("workdir", None) or f"runs/sweep-{Path(names[1]).stem}"
    repeat = options.pop("repeat", 1)
    study, preset = names
    plan = read_plan(study, _checked(read_preset(preset), preset), options, repeat)
    _start_log(quiet)
    from gvbsm.comparison import format_study
    from gvbsm.sweeping import run_plan

    for content in run_plan(plan, Path(folder), quiet):
        print(format_study(content))
        print(f"\nresults: {Path(folder) / content['study']}.json and .csv\n", flush=True)
    return 0


def _sweep_help() -> str:
    studies = [read_study(name) for name in study_names()]
    width = max(len(study.name) for study in studies)
    rows = [f"  {study.name:{width}}  {study.title} ({study.source})" for study in studies]
    return "\n".join(
        [
            "usage: gvbsm sweep STUDY PRESET [--workdir DIR] [--repeat N] [--quiet]",
            "                   [--section.key value ...]",
            "",
            "Runs a preset once for each point of a study and tells the results side by side. What",
            "points have in common is made once; the same command goes on where it was stopped.",
            "",
            "  STUDY      one of those below, a YAML file, several joined by +, or all",
            "  PRESET     as for gvbsm run: a preset or a YAML file, several joined by +",
            "  --workdir  where everything is kept; runs/sweep-PRESET if left out",
            "  --repeat   runs of each point, with seeds counted up; their students are pooled",
            "  --quiet    no progress bars and no log",
            "  --section.key value   any setting of gvbsm run --help, for all points",
            "",
            "studies:",
            *rows,
            "",
            "example: gvbsm sweep table1-alpha digits --workdir runs/sweep-digits",
        ]
    )


def _bench(argv: list[str]) -> int:
    from jsonargparse import ArgumentError, ArgumentParser

    parser = ArgumentParser(prog="gvbsm bench", exit_on_error=False)
    parser.add_class_arguments(BenchConfig)
    try:
        config = BenchConfig(**vars(parser.parse_args(argv)))
    except ArgumentError as error:
        raise ConfigError(_explain(str(error))) from None
    except SystemExit as leaving:
        return int(leaving.code or 0)
    counts = [config.repeats, *(config.groups or [0])]
    if config.threads is not None:
        counts.append(config.threads)
    if min(counts) < 1:
        raise ConfigError("repeats, groups and threads must be at least 1")
    if not config.settings:
        raise ConfigError("settings must name a preset, as in --settings '[cifar10]'")
    file = None if config.json is None else Path(config.json)
    if file is not None and (file.is_dir() or not file.name):
        raise ConfigError(f"--json must name a file, {file} is a folder")
    _start_log()
    from gvbsm.artifacts import write_json
    from gvbsm.bench import run_bench
    from gvbsm.performance import format_bench

    found = run_bench(config)
    print(format_bench(found))
    if file is not None:
        write_json(file, found)
    return 0


COMMANDS: dict[str, Callable[[list[str]], int]] = {
    "report": _report,
    "show": _show,
    "sweep": _sweep,
    "bench": _bench,
}
