"""The verbs `show` and `report`, which read a work directory, and `list`."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from gvbsm.cli.help import asks_for_help, opening, table
from gvbsm.cli.parsing import start_log
from gvbsm.cli.sweep import question_of
from gvbsm.config import ConfigError
from gvbsm.config.keys import closest
from gvbsm.config.paths import user_path
from gvbsm.config.preset_files import preset_summaries
from gvbsm.studies.definition import read_study, study_names

TABLE_FORMATS = ("md", "latex", "csv")
SHOW = f"DIR [--format {'|'.join(TABLE_FORMATS)}]"
REPORT = "DIR [--networks file.py:Class,...] [--pdf] [--quiet]"
DIR = ("DIR", "the work directory of a run")


def show_verb(argv: list[str]) -> int:
    """Print what a work directory holds, or its results in the form of `--format`."""
    usage = f"gvbsm show {SHOW}"
    if asks_for_help(argv):
        print("\n".join(_show_help()))
        return 0
    words, forms = _without(argv, "--format")
    form = forms[-1] if forms else None
    is_folder = len(words) == 1 and not words[0].startswith("-")
    if not is_folder or (form is not None and form not in TABLE_FORMATS):
        raise ConfigError(f"{usage} takes one work directory, got {' '.join(argv) or 'none'}")
    from gvbsm.reporting.show import describe, result_table

    workdir = user_path(words[0])
    print(describe(workdir) if form is None else result_table(workdir, form).rstrip("\n"))
    return 0


def report_verb(argv: list[str]) -> int:
    """Write the report of a work directory and print its path."""
    usage = f"gvbsm report {REPORT}"
    if asks_for_help(argv):
        print("\n".join(_report_help()))
        return 0
    argv, lists = _without(argv, "--networks")
    names = (name.strip() for names in lists for name in names.strip("[]").split(","))
    networks = [name for name in names if name]
    folders = [argument for argument in argv if argument not in ("--pdf", "--quiet")]
    if len(folders) != 1 or folders[0].startswith("-"):
        raise ConfigError(f"{usage} takes one work directory, got {' '.join(folders) or 'none'}")
    start_log("--quiet" in argv)
    from gvbsm.reporting import report

    pdf, quiet = "--pdf" in argv, "--quiet" in argv
    print(report(user_path(folders[0]), quiet, networks, pdf))
    return 0


def list_verb(argv: list[str]) -> int:
    """Print what the settings of a run can name."""
    usage = f"gvbsm list {'|'.join(LISTS)}"
    if asks_for_help(argv):
        print("\n".join(_list_help()))
        return 0
    if len(argv) != 1 or argv[0] not in LISTS:
        message = f"{usage} takes one of these, got {' '.join(argv) or 'none'}"
        hint = closest(argv[0], LISTS) if argv else ""
        raise ConfigError(f"{message}; {hint}".rstrip("; "))
    print("\n".join(LISTS[argv[0]]()))
    return 0


def _show_help() -> Iterator[str]:
    forms = "print only the table of results: Markdown, LaTeX or CSV"
    yield from opening("show", SHOW, [DIR, ("--format", forms)])
    yield ""
    yield "example: gvbsm show runs/digits --format latex"


def _report_help() -> Iterator[str]:
    yield from opening(
        "report",
        REPORT,
        [
            DIR,
            ("--networks", "your own networks whose code may run; the page leaves others out"),
            ("--pdf", "write each figure as a PDF file, too"),
            ("--quiet", "no progress bars and no log"),
        ],
    )
    yield ""
    yield "The page is DIR/report/index.html. gvbsm run writes it, too."
    yield ""
    yield "example: gvbsm report runs/digits --pdf"


def _list_help() -> Iterator[str]:
    rows = [
        ("backbones", "networks by name, with their size and the smallest picture they take"),
        ("presets", "settings by name: recipes, and what can be joined to them"),
        ("data", "data sets, and what --data-root must hold"),
        ("studies", "studies of gvbsm sweep"),
    ]
    yield from opening("list", "|".join(LISTS), rows)
    yield ""
    yield "example: gvbsm list presets"


def _presets() -> Iterator[str]:
    titles = {
        "recipe": "whole recipes: gvbsm run NAME",
        "overlay": "overlays, joined to a recipe: gvbsm run RECIPE+NAME",
        "baseline": "baselines instead of G-VBSM, joined to a recipe: gvbsm run RECIPE+NAME",
    }
    summaries = list(preset_summaries())
    for kind, title in titles.items():
        yield title
        yield from table((item.name, item.text) for item in summaries if item.kind == kind)
        yield ""
    yield "gvbsm settings NAME prints all settings of a preset."


def _data() -> Iterator[str]:
    from gvbsm.data.sources.catalog import SOURCES

    yield "data, as --data.name, and what --data-root must hold"
    for source in SOURCES.values():
        side = f" at {source.image_size} px" if source.image_size else ""
        yield from table([(source.name, f"{source.description}{side}; root: {source.root}")])


def _studies() -> Iterator[str]:
    yield "studies: gvbsm sweep NAME PRESET"
    for study in map(read_study, study_names()):
        yield from table([(study.name, question_of(study))])


def _backbones() -> Iterator[str]:
    from gvbsm.backbones import BACKBONES, FURTHER_NAMES, OWN_NAMES
    from gvbsm.backbones.cost import size_of
    from gvbsm.pipeline.tables import aligned

    side = 32
    rows = []
    for name, spec in BACKBONES.items():
        size = size_of(name, side)
        numbers = [f"{size.parameters / 1e6:.2f}", f"{size.multiply_adds / 1e6:.0f}"]
        rows.append([name, *numbers, f"{size.smallest} px", spec.summary])
    head = ["network", "M parameters", f"M multiply-adds at {side} px", "smallest picture", "what"]
    yield aligned(head, rows)
    yield ""
    yield f"also: {FURTHER_NAMES}"
    yield f"your own: {OWN_NAMES}"


LISTS: dict[str, Callable[[], Iterator[str]]] = {
    "backbones": _backbones,
    "presets": _presets,
    "data": _data,
    "studies": _studies,
}


def _without(argv: list[str], option: str) -> tuple[list[str], list[str]]:
    """The other arguments, and the values that an option has in them."""
    others: list[str] = []
    values: list[str] = []
    remaining = iter(argv)
    for argument in remaining:
        name, equals, value = argument.partition("=")
        if name == option:
            values.append(value if equals else next(remaining, ""))
        else:
            others.append(argument)
    return others, values
