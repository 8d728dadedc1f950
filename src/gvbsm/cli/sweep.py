"""The verb `sweep`: run a preset once for each point of a study."""

from __future__ import annotations

import itertools

from gvbsm.cli.help import asks_for_help
from gvbsm.cli.lists import with_entries, with_lists
from gvbsm.cli.parsing import check_preset, explain, given_ipc, long_option, start_log
from gvbsm.cli.starting import Others
from gvbsm.config import ConfigError
from gvbsm.config.build import settings_parser
from gvbsm.config.keys import merge
from gvbsm.config.paths import user_path
from gvbsm.config.preset_files import read_preset, usual_workdir
from gvbsm.config.provenance import Origin
from gvbsm.engine.launch import read_launch
from gvbsm.engine.progress.log import Style
from gvbsm.studies.definition import Study, read_study, read_sweep_plan, study_names


def sweep_verb(argv: list[str], others: Others) -> int:
    """Run all points of the studies, print the results of each as it ends, write the report."""
    from jsonargparse import ArgumentError

    if asks_for_help(argv):
        print(_sweep_help())
        return 0
    names = list(itertools.takewhile(lambda argument: not argument.startswith("-"), argv))
    if len(names) != 2:
        raise ConfigError(f"gvbsm sweep STUDY PRESET ..., got {' '.join(names) or 'neither'}")
    study, preset = names
    parser = settings_parser("gvbsm sweep")
    arguments = [long_option(argument) for argument in argv[2:]]
    settings = read_preset(preset, given_ipc(argv))
    arguments = with_lists(with_entries(arguments, parser, settings))
    parser.add_argument("--workdir", type=str)
    parser.add_argument("--repeat", type=int)
    parser.add_argument("--quiet", action="store_true")
    parser.add_argument("--log-format", type=Style)
    try:
        parsed = parser.parse_args(arguments, defaults=False)
    except ArgumentError as error:
        raise ConfigError(explain(str(error))) from None
    options = parsed.as_dict()
    quiet, log_format = bool(options.pop("quiet", False)), options.pop("log_format", None)
    folder = user_path(options.pop("workdir", None) or usual_workdir(preset, "sweep-"))
    repeat = options.pop("repeat", 1)
    preset_settings = check_preset(parser, settings, preset)
    plan = read_sweep_plan(study, preset, options, repeat)
    point_settings = parser.parse_object(merge(settings, options)).as_dict()
    origin = Origin.of(preset, preset_settings, point_settings)
    start_log(quiet, log_format or "text")
    others.start(plan.studies[0][1][0].config)
    from gvbsm.reporting import report
    from gvbsm.studies.sweep import run_plan
    from gvbsm.studies.table import format_study

    for content in run_plan(plan, folder, quiet, origin):
        if read_launch().rank:
            continue
        print(format_study(content))
        print(f"\nresults: {folder / content['study']}.json and .csv\n", flush=True)
    if not read_launch().rank:
        print(f"report: {report(folder, quiet)}")
    return 0


def question_of(study: Study) -> str:
    """Return the title of a study, and in brackets where the paper asks it if it does."""
    return study.title if study.source == "none" else f"{study.title} ({study.source})"


def _sweep_help() -> str:
    studies = [read_study(name) for name in study_names()]
    width = max(len(study.name) for study in studies)
    rows = [f"  {study.name:{width}}  {question_of(study)}" for study in studies]
    return "\n".join(
        [
            "usage: gvbsm sweep STUDY PRESET [--workdir DIR] [--repeat N] [--quiet]",
            "                   [--section.key value ...]",
            "",
            "Runs a preset once for each point of a study and prints the results side by side.",
            "The report and its figures are then in DIR/report/.",
            "Files that points share are made once. The same command continues a stopped sweep.",
            "",
            "  STUDY      a study of the list below, a YAML file, several joined by +, or all",
            "  PRESET     as for gvbsm run: a preset or a YAML file, several joined by +",
            "  --workdir  folder of all files of the sweep; runs/sweep-PRESET if left out",
            "  --repeat   runs of each point, with seeds counted up; their students are pooled",
            "  --quiet    no progress and no log",
            "  --log-format   format of the log's lines: text or json",
            "  --section.key value   any setting of gvbsm run --help all, for all points",
            "",
            "studies:",
            *rows,
            "",
            "example: gvbsm sweep table1-alpha digits --workdir runs/sweep-digits",
        ]
    )
