"""Work with dotted keys of settings: check names, merge and flatten nested settings, suggest names.

Some settings are tables. Their keys are names of networks or numbers of images, not settings: for
example the learning rates of single students.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from typing import Any

from gvbsm.config import Config, ConfigError
from gvbsm.config.fields import descriptions, dotted_names_of, kind_in_words
from gvbsm.config.paths import MEMORY

PATH_WORDS = {  # settings that name a file or folder -> what is shown in the place of their paths
    "data.root": "DIR",
    "squeeze.weights_dir": "WEIGHTS",
    "squeeze.weights_classes": "CLASSES",
    "evaluation.corruptions.folder": "CORRUPTED",
}


ENTRY_SETTINGS = {"squeeze.settings_of": "squeeze.", "baselines.overrides": ""}
"""Table whose entries are settings -> what the dotted names of these settings begin with."""


class TableEntries(dict[Any, Any]):
    """What dotted names change in a table: single entries, or single settings of an entry.

    Laid over a table, it leaves the others as they are; a plain mapping replaces the whole table.
    """


def merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """Lay the nested settings `over` upon `base`; lists, scalars and tables are replaced whole.

    Of a table that `TableEntries` are laid over, these entries alone are.
    """
    merged = dict(base)
    for key, value in over.items():
        old: Any = merged.get(key)
        if isinstance(value, TableEntries) and isinstance(old, dict):
            merged[key] = _with_entries(old, value)
        else:
            nested = isinstance(old, dict) and _is_nested(key, value)
            merged[key] = merge(old, value) if nested else value
    return merged


def _with_entries(table: dict[Any, Any], entries: TableEntries) -> dict[Any, Any]:
    joined = type(table)(table)
    for name, value in entries.items():
        old = joined.get(name)
        if isinstance(old, dict) and isinstance(value, TableEntries):
            value = _with_entries(old, value)
        joined[name] = value
    return joined


def check_names(settings: dict[str, Any], where: str) -> None:
    """Check that all names are settings, that sections are mappings, and that null is allowed.

    Raises:
        ConfigError: One line a fault.
    """
    known = fields_by_name()
    faults = []
    for key, value in _all_keys(settings):
        if key not in known:
            faults.append(unknown_field(key, where))
        elif known[key] == "section" and not isinstance(value, dict):
            faults.append(f"{where}: {key} is a section of settings, found {value!r:.60}")
        elif value is None and "None" not in known[key]:
            faults.append(f"{where}: {key} must not be null")
    if faults:
        raise ConfigError("\n".join(faults))


@cache
def fields_by_name() -> Mapping[str, str]:
    """Return the dotted name of each setting with its type as written, or "section"."""
    return _fields_of(Config)


def _fields_of(of: type, prefix: str = "") -> dict[str, str]:
    kinds: dict[str, str] = {}
    for item in dataclasses.fields(of):
        factory = item.default_factory
        section = factory() if factory is not dataclasses.MISSING else None
        if section is not None and dataclasses.is_dataclass(section):
            kinds[prefix + item.name] = "section"
            kinds |= _fields_of(type(section), f"{prefix}{item.name}.")
        else:
            kinds[prefix + item.name] = str(item.type)
    return kinds


@cache
def _tables() -> frozenset[str]:
    """Return the last parts of the names of all tables; no section has such a name."""
    kinds = fields_by_name().items()
    return frozenset(name.rpartition(".")[2] for name, kind in kinds if kind.startswith("dict["))


def setting_of(name: str) -> str:
    """Return the setting that a dotted name belongs to: `ipc_of` for its entry `ipc_of.cat`."""
    kinds, parts = fields_by_name(), name.split(".")
    above = (".".join(parts[:count]) for count in range(1, len(parts)))
    return next((key for key in above if kinds.get(key, "").startswith("dict[")), name)


def table_of(name: str) -> str | None:
    """Return the table that a dotted name is, or belongs to; None for any other setting."""
    setting = setting_of(name)
    return setting if fields_by_name().get(setting, "").startswith("dict[") else None


def _is_nested(key: str, value: Any) -> bool:
    """Whether a value is a section of settings, not a table."""
    return isinstance(value, dict) and key not in _tables()


def _all_keys(settings: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield dotted keys and values, a section before its settings."""
    for key, value in settings.items():
        yield f"{prefix}{key}", value
        if _is_nested(key, value):
            yield from _all_keys(value, f"{prefix}{key}.")


def flat_keys(settings: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """Yield the dotted keys of nested settings; a table is one setting."""
    for key, value in settings.items():
        if _is_nested(key, value):
            yield from flat_keys(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}"


def value_at(settings: Any, key: str) -> Any:
    """Return the value at a dotted key of nested settings, of mappings or dataclasses.

    Raises:
        KeyError, AttributeError: If there is none.
    """
    for name in key.split("."):
        settings = settings[name] if isinstance(settings, Mapping) else getattr(settings, name)
    return settings


def flatten(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of nested settings by their dotted keys; a table is one value."""
    return {key: value_at(settings, key) for key in flat_keys(settings)}


def path_settings() -> tuple[str, ...]:
    """Return the dotted names of the settings that name files of the machine."""
    return dotted_names_of(Config(), "is_path")


def path_options(settings: Mapping[str, Any]) -> list[str]:
    """Return the options of a command for the settings that name files, with words for paths."""
    options: list[str] = []
    for key, word in PATH_WORDS.items():
        if value_at(settings, key) is not None:
            options += ["--data-root" if key == "data.root" else f"--{key}", word]
    if sets := value_at(settings, "baselines.sets"):
        options += ["--baselines.sets", ",".join(f"{name}=PATH" for name in sets)]
    return options


def short_command_of(data_name: str | None, file: str) -> str:
    """Return the command that runs a settings file, or the call for pictures from Python."""
    if data_name == MEMORY:
        return f"gvbsm.run({json.dumps(file)}, data=(X, y))"
    return f"gvbsm run {file}"


def command_of(settings: Mapping[str, Any], file: str, workdir: str) -> str:
    """Return the command that runs the settings of a file, or the call for pictures from Python.

    Args:
        settings: The settings, nested. Files that they name are shown as words.
        file: The settings file.
        workdir: The work directory.
    """
    if value_at(settings, "data.name") != MEMORY:
        return shlex.join(["gvbsm", "run", file, *path_options(settings), "--workdir", workdir])
    keys = (key for key in PATH_WORDS if value_at(settings, key) is not None)
    paths: dict[str, Any] = {key: PATH_WORDS[key] for key in keys}
    if sets := value_at(settings, "baselines.sets"):
        paths["baselines.sets"] = dict.fromkeys(sets, "PATH")
    more = f", **{json.dumps(paths)}" if paths else ""
    return f"gvbsm.run({json.dumps(file)}, {json.dumps(workdir)}, data=(X, y){more})"


def without_paths(settings: dict[str, Any]) -> dict[str, Any]:
    """Return nested settings in which those that name files of the machine have their defaults."""
    given = {*flat_keys(settings)}
    for key in path_settings():
        if key in given:
            settings = merge(settings, nest(key, value_at(Config(), key)))
    return settings


def nest(key: str, value: Any) -> dict[str, Any]:
    """Return nested settings that hold one value, at a dotted key.

    The key may name an entry of a table, such as `evaluation.lr_of.resnet18`, or a setting of an
    entry, such as `squeeze.settings_of.resnet18.epochs`.
    """
    table = setting_of(key)
    if table != key:
        for name in reversed(entry_path(table, key)):
            value = TableEntries({name: value})
    for name in reversed(table.split(".")):
        value = {name: value}
    return dict(value)


def entry_path(table: str, key: str) -> list[Any]:
    """Return what a dotted key names in a table: an entry, and the setting of it, if any.

    Names of networks may have dots: `squeeze.settings_of.timm/resnet18.tv_in1k.epochs` names the
    epochs of `timm/resnet18.tv_in1k`.

    Args:
        table: Dotted name of the table.
        key: The key, which begins with it.
    """
    path = key.removeprefix(f"{table}.")
    if table in ENTRY_SETTINGS:
        parts = path.split(".")
        for count in range(1, len(parts)):
            name = ENTRY_SETTINGS[table] + ".".join(parts[count:])
            if setting_of(name) in fields_by_name():
                return [".".join(parts[:count]), *parts[count:]]
    is_number = fields_by_name()[table].startswith("dict[int") and path.isdecimal()
    return [int(path) if is_number else path]


def nested(settings: Mapping[Any, Any]) -> dict[str, Any]:
    """Return settings with their dotted keys unfolded; later ones take precedence.

    Keys inside of tables, such as `torchvision/resnet18.tv`, stay as they are.
    """
    result: dict[str, Any] = {}
    for key, value in settings.items():
        name = str(key)
        inner = nested(value) if _is_nested(name.rpartition(".")[2], value) else value
        result = merge(result, nest(name, inner))
    return result


def unknown_field(name: str, where: str) -> str:
    """Return the message about an unknown setting, with the nearest known names."""
    return f"{where}: there is no setting {name!r}; {nearest(name, fields_by_name())}"


_WRONG_VALUE = re.compile(r'Parser key "(?P<name>[^"]+)":(?:.*(?:Got|Given) value: (?P<value>.*))?')
_NO_VALUE = re.compile(r"argument --(?P<name>\S+): expected one argument")


def fault_in_words(message: str, on_command_line: bool = False) -> str:
    """Return a parser's message about the value of a setting as one line without types of Python.

    Messages about anything else stay as they are.

    Args:
        message: The message.
        on_command_line: Whether lists and tables are written without brackets, as in options.
    """
    message = " ".join(message.split())
    fault = _WRONG_VALUE.match(message) or _NO_VALUE.match(message)
    if fault is None:
        return message
    name = fault["name"]
    kinds = {item.name: kind_in_words(item.kind) for item in descriptions(Config())}
    if not on_command_line:
        kinds = {key: _as_yaml(kind) for key, kind in kinds.items()}
    if name not in kinds:
        inner = next((key for key in kinds if key.startswith(f"{name}.")), None)
        is_section = f"{name} is a section of settings: name one of them, such as {inner}"
        return is_section if inner else message
    if fault.re is _NO_VALUE:
        return f"--{name} needs a value: {kinds[name]}"
    value = "null" if fault["value"] == "None" else fault["value"]
    return f"{name} must be {kinds[name]}" + (f"; found {value}" if value else "")


def _as_yaml(kind: str) -> str:
    """Write the list or table that the words of a setting's type show as YAML has it."""

    def bracketed(example: re.Match[str]) -> str:
        text = example[1].replace(",", ", ").replace("=", ": ")
        return f"such as {{{text}}}" if "=" in example[1] else f"such as [{text}]"

    return re.sub(r"such as ([^\s{]+)$", bracketed, kind)


def closest(name: str, known: Iterable[str], most: int = 1, form: str = "{}") -> str:
    """Return a question to stand in a message, `did you mean A or B? `; empty if none is close.

    Args:
        name: The name that was given.
        known: The names that exist.
        most: Largest number of names to show.
        form: How a name is shown, as for `str.format`.
    """
    near = difflib.get_close_matches(name, list(known), n=most)
    return f"did you mean {' or '.join(map(form.format, near))}? " if near else ""


def nearest(name: str, known: Iterable[str]) -> str:
    """Return a question with the known names that are most similar to `name`, or a list of all."""
    known = list(known)
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    tail = name.rpartition(".")[2]
    near = near or [key for key in known if key.rpartition(".")[2] == tail][:3]
    if near:
        return f"did you mean {' or '.join(near)}?"
    return f"known: {', '.join(known)}" if len(known) < 60 else "`gvbsm run --help all` lists all"
