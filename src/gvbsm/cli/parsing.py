"""Parse arguments into settings; a fault is one line, with the nearest known name."""

from __future__ import annotations

import logging
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from gvbsm.cli.lists import with_lists
from gvbsm.config import Config, ConfigError
from gvbsm.config.build import (
    from_parsed,
    preset_names,
    read_preset,
    settings_parser,
    usual_workdir,
)
from gvbsm.config.keys import flatten, unknown_field
from gvbsm.config.paths import user_path
from gvbsm.config.provenance import Origin
from gvbsm.config.settled import check_beta_dr
from gvbsm.engine.launch import read_launch

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser

SHORT = {"--data-root": "--data.root"}
VERB_OPTIONS = {
    "labels": {"--compress": "convert the stored labels to another storage, without the teachers"},
}


def start_log(quiet: bool = False) -> None:
    """Let the log go to the standard error stream; of several processes the first alone tells."""
    quiet = quiet or read_launch().rank > 0
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    logging.getLogger("gvbsm").setLevel(logging.WARNING if quiet else logging.INFO)
    warnings.filterwarnings(
        "ignore", module="PIL"
    )  # about broken metadata, of which gvbsm prints a line of its own


class Parsed(NamedTuple):
    """The parsed command line.

    Attributes:
        config: All settings.
        workdir: The work directory.
        quiet: No progress bars and no log.
        origin: The preset, and which of its settings the command line changed.
    """

    config: Config
    workdir: Path
    quiet: bool
    origin: Origin


def parse_run(verb: str, argv: list[str]) -> Parsed | None:
    """Parse a command line; None if it only asks for help."""
    from jsonargparse import ArgumentError

    argv = with_lists([long_option(argument) for argument in argv])
    preset = argv[0] if argv and not argv[0].startswith("-") else None
    parser = settings_parser(f"gvbsm {verb}")
    preset_settings: dict[str, Any] = {}
    if preset is not None:
        settings = read_preset(preset)
        preset_settings = check_preset(parser, settings, preset)
        _set_defaults(parser, settings)
    elif not {"-h", "--help"} & set(argv):
        raise ConfigError(f"name a preset or a YAML file first: gvbsm {verb} PRESET ...")
    parser.add_argument("preset", type=str, help=f"{', '.join(preset_names())}, or a YAML file")
    parser.add_argument(
        "--workdir", type=str, help="folder of all files of the run; runs/PRESET if left out"
    )
    parser.add_argument("--quiet", action="store_true", help="no progress bars and no log")
    for option, text in VERB_OPTIONS.get(verb, {}).items():
        parser.add_argument(option, action="store_true", help=text)
    try:
        parsed = parser.parse_args(argv)
    except ArgumentError as error:
        raise ConfigError(explain(str(error))) from None
    except SystemExit as leaving:
        if leaving.code in (0, None):
            return None
        raise
    options = {name: parsed.pop(name) for name in ("workdir", "preset", "quiet")}
    for option in VERB_OPTIONS.get(verb, {}):
        parsed.pop(option.lstrip("-"))
    workdir = (
        user_path(options["workdir"]) if options["workdir"] else usual_workdir(options["preset"])
    )
    origin = Origin.of(options["preset"], preset_settings, parsed.as_dict())
    config = from_parsed(parser, parsed)
    if "--synthesis.beta_dr" in (argument.partition("=")[0] for argument in argv):
        check_beta_dr(config)
    return Parsed(config, workdir, bool(options["quiet"]), origin)


def long_option(argument: str) -> str:
    """The argument with its option by the long name, where it is given by the short one."""
    name, equals, value = argument.partition("=")
    return SHORT.get(name, name) + equals + value


def check_preset(parser: ArgumentParser, settings: dict[str, Any], preset: str) -> dict[str, Any]:
    """Check a preset's settings, and return all settings, nested.

    A parser does not check what becomes its defaults.

    Raises:
        ConfigError: If one of the preset's is of a wrong type.
    """
    from jsonargparse import ArgumentError

    try:
        return dict(parser.parse_object(settings).as_dict())
    except ArgumentError as error:
        raise ConfigError(f"{preset}: {' '.join(str(error).split())}") from None


def _set_defaults(parser: ArgumentParser, preset: dict[str, Any]) -> None:
    for key, value in flatten(preset).items():
        parser.set_defaults({key: value})


def explain(message: str) -> str:
    """One line for a fault; an unknown option gets the nearest known one."""
    message = " ".join(message.split())
    start = "unrecognized arguments: "
    if message.startswith(start):
        option = message.removeprefix(start).split()[0]
        return unknown_field(option.lstrip("-").partition("=")[0], where="the command")
    return message
