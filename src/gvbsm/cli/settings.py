"""The verb `settings`: print the settings of a run as a YAML file."""

from __future__ import annotations

import os
import shlex

from gvbsm.cli.budget import within_budget
from gvbsm.cli.first_word import read_first_word
from gvbsm.cli.lists import with_baselines
from gvbsm.cli.parsing import long_option, parse_run, start_log
from gvbsm.config import Config
from gvbsm.config.build import settings_lines, to_dict
from gvbsm.config.keys import flatten, setting_of
from gvbsm.config.preset_files import sources


def settings_verb(argv: list[str]) -> int:
    """Print all settings of a run, or with `--changed` those that differ from their defaults.

    Each one that differs has its default and its place beside it: a preset, a number of images per
    class in its table `at_ipc`, or the command.
    """
    parsed = parse_run("settings", argv)
    if parsed is None:
        return 0
    start_log()
    config = within_budget(parsed, keep=False).config
    places = _places(argv, parsed.config, config)
    print(f"# Made by: gvbsm settings {' '.join(map(_shell_word, argv))}")
    print("# Run it:  gvbsm run FILE.yaml")
    print("\n".join(settings_lines(config, "--changed" in parsed.flags, places)))
    return 0


def _shell_word(word: str) -> str:
    """Quote a word for the shell; line breaks and other control characters become escapes.

    The form `$'...'` of bash, zsh and POSIX (2024) has such escapes.
    """
    if word.isprintable():
        return shlex.quote(word)
    return "$'" + "".join(map(_escaped, word)) + "'"


def _escaped(character: str) -> str:
    if character in "\\'":
        return f"\\{character}"
    is_plain = character.isprintable()
    return character if is_plain else "".join(f"\\x{byte:02x}" for byte in os.fsencode(character))


def _places(argv: list[str], before: Config, after: Config) -> dict[str, str]:
    """Where the settings are from, by their dotted names.

    Args:
        argv: The command line.
        before: The settings before they were fitted into a time budget.
        after: The settings.
    """
    places = sources(read_first_word(argv[0]).preset, after.ipc)
    unfitted, fitted = flatten(to_dict(before)), flatten(to_dict(after))
    places |= {key: "the budget" for key in fitted if fitted[key] != unfitted[key]}
    options = [argument.partition("=")[0] for argument in with_baselines(argv[1:])]
    given = (long_option(option).removeprefix("--") for option in options if option[:2] == "--")
    return places | {setting_of(name): "the command" for name in given}
