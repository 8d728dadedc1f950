"""Lists and tables on the command line: without brackets, and parts of a table.

`a,b` is a list, `name=2,other=1` a table. `--evaluation.lr_of.resnet18 0.1` changes an entry of a
table, `--squeeze.settings_of.resnet18.epochs 20` a setting of an entry.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from gvbsm.config import BASELINE_GROUPS, ConfigError
from gvbsm.config.keys import (
    ENTRY_SETTINGS,
    entry_path,
    fault_in_words,
    fields_by_name,
    flatten,
    merge,
    nest,
    table_of,
    unknown_field,
    value_at,
)

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser

_CLOSED = ("[", "{", "(", "null")  # values that are already written as YAML


def with_lists(argv: Sequence[str]) -> list[str]:
    """Return the arguments with the values of lists and tables in the brackets of YAML.

    Args:
        argv: The arguments. A value is the next argument, or follows `=` in the same one.

    Raises:
        ConfigError: If an entry of a table is not `name=value`.
    """
    kinds, result, option = fields_by_name(), [], ""
    for argument in argv:
        if option and not argument.startswith("--"):
            result.append(_bracketed(option, argument, kinds.get(option, "")))
            option = ""
            continue
        name, equals, value = argument.partition("=")
        option = name.removeprefix("--") if name.startswith("--") else ""
        if equals and option:
            argument = f"{name}={_bracketed(option, value, kinds.get(option, ''))}"
            option = ""
        result.append(argument)
    return result


def with_baselines(argv: Sequence[str]) -> list[str]:
    """Return the arguments with `--baselines light` as the list of baselines that it names.

    Raises:
        ConfigError: If there is no such group of baselines.
    """
    result, arguments = [], iter(argv)
    for argument in arguments:
        name, equals, value = argument.partition("=")
        if name == "--baselines":
            value = value if equals else next(arguments, "")
            if value not in BASELINE_GROUPS:
                groups = ", ".join(BASELINE_GROUPS)
                raise ConfigError(f"--baselines takes one of {groups}; found {value!r}")
            argument = f"--baselines.methods={','.join(BASELINE_GROUPS[value])}"
        result.append(argument)
    return result


def _bracketed(option: str, value: str, kind: str) -> str:
    """Write the value of a list or table in brackets; any other value stays as it is."""
    text = value.strip()
    if not kind.startswith(("tuple[", "dict[")) or text.startswith(_CLOSED):
        return value
    entries = [entry.strip() for entry in text.split(",") if entry.strip()]
    numbers = kind.startswith(("tuple[int", "tuple[float", "dict[int"))
    quoted = str if numbers else json.dumps
    if kind.startswith("tuple["):
        return f"[{', '.join(map(quoted, entries))}]"
    pairs = (_pair(option, entry) for entry in entries)
    if kind == "dict[str, str]":
        pairs = ((name, json.dumps(content)) for name, content in pairs)
    return "{" + ", ".join(f"{quoted(name)}: {content}" for name, content in pairs) + "}"


def _pair(option: str, entry: str) -> tuple[str, str]:
    name, equals, content = (text.strip() for text in entry.partition("="))
    if not equals or not name or not content:
        raise ConfigError(f"--{option} takes name=value,other=value, found {entry!r}")
    return name, content


def with_entries(
    argv: Sequence[str], parser: ArgumentParser, preset: Mapping[str, Any]
) -> list[str]:
    """Return the arguments with the whole tables in place of options for parts of them.

    Args:
        argv: The arguments. A value is the next argument, or follows `=` in the same one.
        parser: A parser of all settings, without other required arguments.
        preset: The settings that options are laid over, nested.

    Raises:
        ConfigError: If a value is faulty.
    """
    kept, tables = list[str](), dict[str, dict[str, Any]]()
    options = list(_options(argv))
    names = {words[0].removeprefix("--") for words in options}
    in_parts = {table_of(name) for name in names if table_of(name) != name}
    for words in options:
        name = words[0].removeprefix("--")
        table = table_of(name)
        if table is None or table not in in_parts or len(words) < 2:
            kept += words
            continue
        before = tables.get(table) or nest(table, flatten(preset).get(table, {}))
        tables[table] = merge(before, nest(name, _typed(name, table, words[1], parser)))
    for table, settings in tables.items():
        kept += [f"--{table}", json.dumps(value_at(settings, table))]
    return kept


def _options(argv: Sequence[str]) -> Iterator[list[str]]:
    """Yield an option for a table, or a part of one, with its value; other arguments alone."""
    arguments = iter(argv)
    for word in arguments:
        name, equals, value = word.partition("=")
        if not word.startswith("--") or table_of(name.removeprefix("--")) is None:
            yield [word]
        elif equals:
            yield [name, value]
        else:
            yield [name, *itertools.islice(arguments, 1)]


def _typed(name: str, table: str, text: str, parser: ArgumentParser) -> Any:
    """Read the value of an option for a table, an entry of it, or a setting of an entry."""
    path = entry_path(table, name) if name != table else []
    if not path:
        return _parsed(table, text, parser)
    entry, *setting = path
    if setting:
        within = ENTRY_SETTINGS[table] + ".".join(setting)
        return _parsed(within, text, parser, where=f"{table}.{entry}: ")
    if table in ENTRY_SETTINGS and "." in entry and not text.lstrip().startswith("{"):
        first, _, rest = entry.partition(".")
        raise ConfigError(unknown_field(ENTRY_SETTINGS[table] + rest, where=f"{table}.{first}"))
    value = json.dumps(text) if fields_by_name()[table] == "dict[str, str]" else text
    return _parsed(table, f"{{{json.dumps(entry)}: {value}}}", parser)[entry]


def _parsed(setting: str, text: str, parser: ArgumentParser, where: str = "") -> Any:
    from jsonargparse import ArgumentError

    try:
        parsed = parser.parse_args(with_lists([f"--{setting}", text]), defaults=False)
    except ArgumentError as error:
        raise ConfigError(where + fault_in_words(str(error), on_command_line=True)) from None
    return value_at(parsed.as_dict(), setting)
