"""Parse arguments into settings; a fault is one line, with the nearest known name."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from gvbsm.cli.first_word import read_first_word
from gvbsm.cli.help import asks_for_all, asks_for_help, verb_help
from gvbsm.cli.lists import with_baselines, with_entries, with_lists
from gvbsm.config import Config, ConfigError
from gvbsm.config.build import from_parsed, settings_parser, to_dict
from gvbsm.config.keys import fault_in_words, flatten, merge, unknown_field
from gvbsm.config.paths import user_path
from gvbsm.config.provenance import Origin
from gvbsm.config.settled import check_beta_dr
from gvbsm.engine.launch import read_launch
from gvbsm.engine.progress import log
from gvbsm.engine.progress.log import Style
from gvbsm.pipeline.budget.pictures import PRESET
from gvbsm.pipeline.budget.request import Request, make_request

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser

SHORT = {"--data-root": "--data.root"}


STAGE_VERBS = (
    "run",
    "squeeze",
    "statistics",
    "synthesis",
    "labels",
    "evaluation",
    "continual",
    "rank",
)
PLANNING_VERBS = (*STAGE_VERBS, "plan")  # know a work directory
SETTINGS_VERBS = (*PLANNING_VERBS, "settings")


class Option(NamedTuple):
    """An option that is no setting.

    Attributes:
        name: Its name.
        verbs: The verbs that have it.
        value: What it takes: a word for the help, or the words to choose from; none is a flag.
        text: What it does.
    """

    name: str
    verbs: tuple[str, ...]
    value: str
    text: str

    @property
    def key(self) -> str:
        """Its name among the parsed arguments."""
        return self.name.lstrip("-").replace("-", "_")


OPTIONS = (
    Option(
        "--workdir", PLANNING_VERBS, "DIR", "folder of all files of the run; runs/NAME if left out"
    ),
    Option("--quiet", PLANNING_VERBS, "", "no progress and no log"),
    Option("--log-format", PLANNING_VERBS, "text|json", "format of the log's lines"),
    Option(
        "--compress",
        ("labels",),
        "",
        "convert the stored labels to another storage, without the teachers",
    ),
    Option("--json", ("plan",), "", "print the plan as JSON"),
    Option(
        "--budget",
        SETTINGS_VERBS,
        "TIME",
        "time that a run may take, such as 30m or 2h; settings are chosen to fit",
    ),
    Option("--changed", ("settings",), "", "only the settings that differ from their defaults"),
)


def options_of(verb: str) -> list[Option]:
    """Return the options of a verb that are no settings."""
    return [option for option in OPTIONS if verb in option.verbs]


def start_log(quiet: bool = False, style: Style = "text") -> None:
    """Let the log go to the standard error stream; of several processes only the first logs."""
    log.start_log(quiet or read_launch().rank > 0, style)


class Parsed(NamedTuple):
    """The parsed command line.

    Attributes:
        config: All settings.
        workdir: The work directory.
        quiet: No progress and no log.
        origin: The preset, and which of its settings the command line changed.
        request: The time budget that the settings have yet to be fitted into; None is no budget.
        log_format: Format of the log's lines.
        flags: Names of the options without a value that are given, such as `--json`.
    """

    config: Config
    workdir: Path
    quiet: bool
    origin: Origin
    request: Request | None = None
    log_format: Style = "text"
    flags: frozenset[str] = frozenset()


def parse_run(verb: str, argv: list[str]) -> Parsed | None:
    """Parse a command line; None if it only asks for help."""
    from jsonargparse import ArgumentError

    named = bool(argv) and not argv[0].startswith("-")
    start = read_first_word(argv[0], given_ipc(argv)) if named else None
    if asks_for_help(argv):
        values = merge(to_dict(Config()), start.settings if start else {})
        rows = [(f"{item.name} {item.value}".strip(), item.text) for item in options_of(verb)]
        print("\n".join(verb_help(verb, rows, values, asks_for_all(argv))))
        return None
    if start is None:
        raise ConfigError(f"name a preset, a YAML file or your pictures: gvbsm {verb} PRESET ...")
    parser = settings_parser(f"gvbsm {verb}")
    preset_settings = check_preset(parser, start.settings, argv[0])
    parser.set_defaults(flatten(start.settings))
    argv = with_baselines([long_option(argument) for argument in argv])
    argv = with_lists(with_entries(argv, parser, start.settings))
    _add_options(parser, verb)
    try:
        parsed = parser.parse_args(argv)
    except ArgumentError as error:
        raise ConfigError(explain(str(error))) from None
    options = {item.name: parsed.pop(item.key) for item in options_of(verb)}
    parsed.pop("preset")
    workdir = user_path(options["--workdir"]) if options.get("--workdir") else start.workdir
    origin = Origin.of(start.preset, preset_settings, parsed.as_dict())
    config = from_parsed(parser, parsed)
    given = {argument.removeprefix("--").partition("=")[0] for argument in argv}
    if "synthesis.beta_dr" in given:
        check_beta_dr(config)
    request, budget = None, options.get("--budget")
    if budget is not None or start.preset == PRESET:  # own pictures have the usual budget
        request = make_request(start.preset, config, given, budget)
    log_format: Style = options.get("--log-format") or "text"
    flags = frozenset(name for name, value in options.items() if value is True)
    return Parsed(config, workdir, "--quiet" in flags, origin, request, log_format, flags)


def given_ipc(argv: list[str]) -> int | None:
    """Images per class by the last `--ipc`; None if there is none, or it is not a number."""
    try:
        return int(last_value(argv, "--ipc"))
    except ValueError:
        return None


def last_value(argv: list[str], option: str) -> str:
    """What an option has where it stands last; empty if it does not stand there."""
    text = ""
    for argument, following in itertools.zip_longest(argv, argv[1:], fillvalue=""):
        name, equals, value = argument.partition("=")
        if name == option:
            text = value if equals else following
    return text


def _add_options(parser: ArgumentParser, verb: str) -> None:
    parser.add_argument("preset", type=str)
    for option in options_of(verb):
        kind: dict[str, Any] = {"type": str} if option.value else {"action": "store_true"}
        if "|" in option.value:
            kind = {"choices": option.value.split("|")}
        parser.add_argument(option.name, **kind)


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
        raise ConfigError(f"{preset}: {fault_in_words(str(error))}") from None


def explain(message: str) -> str:
    """One line for a fault; an unknown option gets the nearest known one."""
    message = " ".join(message.split())
    start = "unrecognized arguments: "
    if message.startswith(start):
        option = message.removeprefix(start).split()[0]
        return unknown_field(option.lstrip("-").partition("=")[0], where="the command")
    return fault_in_words(message, on_command_line=True)
