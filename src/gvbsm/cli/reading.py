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
    folder, form = _folder_and_format(argv)
    if folder is None or (form is not None and form not in TABLE_FORMATS):
        raise ConfigError(f"{usage} takes one work directory, got {' '.join(argv) or 'none'}")
    from gvbsm.reporting.show import describe, result_table

    workdir = user_path(folder)
    print(describe(workdir) if form is None else result_table(workdir, form).rstrip("\n"))
    return 0


def _folder_and_format(argv: list[str]) -> tuple[str | None, str | None]:
    """Return the folder and the format that a command names; a folder of None is a fault."""
    words, form = [], None
    remaining = iter(argv)
    for word in remaining:
        option, _, value = word.partition("=")
        if option == "--format":
            form = value or next(remaining, "")
        else:
            words.append(word)
    is_folder = len(words) == 1 and not words[0].startswith("-")
    return (words[0] if is_folder else None), form


def report_verb(argv: list[str]) -> int:
    """Write the report of a work directory and print its path."""
    usage = "gvbsm report DIR [--networks file.py:Class,...] [--quiet]"
    if {"-h", "--help"} & set(argv):
        print(f"usage: {usage}")
        return 0
    argv, networks = _without_networks(argv)
    folders = [argument for argument in argv if argument != "--quiet"]
    if len(folders) != 1 or folders[0].startswith("-"):
        raise ConfigError(f"{usage} takes one work directory, got {' '.join(folders) or 'none'}")
    start_log("--quiet" in argv)
    from gvbsm.reporting import report

    print(report(user_path(folders[0]), quiet="--quiet" in argv, networks=networks))
    return 0


def _without_networks(argv: list[str]) -> tuple[list[str], list[str]]:
    """The other arguments, and the names that `--networks` gives."""
    others: list[str] = []
    networks: list[str] = []
    waiting = iter(argv)
    for argument in waiting:
        option, equals, value = argument.partition("=")
        if option != "--networks":
            others.append(argument)
            continue
        names = value if equals else next(waiting, "")
        networks += [name for name in names.strip("[]").split(",") if name]
    return others, [name.strip() for name in networks]
