"""The verbs `show` and `report`, which read a work directory."""

from __future__ import annotations

from gvbsm.cli.parsing import start_log
from gvbsm.config import ConfigError
from gvbsm.config.paths import user_path


def show_verb(argv: list[str]) -> int:
    """Print what a work directory holds."""
    if argv and argv[0] in ("-h", "--help"):
        print("usage: gvbsm show DIR")
        return 0
    if len(argv) != 1:
        raise ConfigError(f"gvbsm show DIR takes one work directory, got {len(argv)}")
    from gvbsm.reporting.show import describe

    print(describe(user_path(argv[0])))
    return 0


def report_verb(argv: list[str]) -> int:
    """Write the report of a work directory and print its path."""
    usage = "gvbsm report DIR [--quiet]"
    if {"-h", "--help"} & set(argv):
        print(f"usage: {usage}")
        return 0
    folders = [argument for argument in argv if argument != "--quiet"]
    if len(folders) != 1 or folders[0].startswith("-"):
        raise ConfigError(f"{usage} takes one work directory, got {' '.join(folders) or 'none'}")
    start_log("--quiet" in argv)
    from gvbsm.reporting import report

    print(report(user_path(folders[0]), quiet="--quiet" in argv))
    return 0
