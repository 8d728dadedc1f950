"""Lists and tables on the command line without brackets: `a,b` and `name=2,other=1`."""

from __future__ import annotations

import json
from collections.abc import Sequence

from gvbsm.config import BASELINE_GROUPS, ConfigError
from gvbsm.config.keys import fields_by_name

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
