"""The verbs `show` and `report`, which read a work directory."""

from __future__ import annotations

from gvbsm.cli.parsing import start_log
from gvbsm.config import ConfigError
from gvbsm.config.paths import user_path

TABLE_FORMATS = ("md", "latex", "csv")


def show_verb(argv: list[str]) -> int:
    """Print what a work directory holds, or its results in the form of `--format`."""
    usage = f"gvbsm show DIR [--format {'|'.join(TABLE_FORMATS)}]"
    if {"-h", "--help"} & set(argv):
        print(f"usage: {usage}")
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
    usage = "gvbsm report DIR [--networks file.py:Class,...] [--pdf] [--quiet]"
    if {"-h", "--help"} & set(argv):
        print(f"usage: {usage}")
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
