"""Declare settings with their limits and uses, and find settings by them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import Field, field, fields, is_dataclass, replace
from types import UnionType
from typing import (
    TYPE_CHECKING,
    Any,
    Literal,
    NamedTuple,
    TypedDict,
    TypeVar,
    Union,
    Unpack,
    get_args,
    get_origin,
    get_type_hints,
)

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Section = TypeVar("Section", bound="DataclassInstance")
Interval = Literal["[0, 1]", "[0, 1)", "(0, 1]", "(0, 1)"]


class SettingFacts(TypedDict, total=False):
    """What is known about a setting.

    Attributes:
        limit: What a number must be, and each number of a tuple; null is always within.
        changes_results: Whether the results depend on it (the default).
        in_recipe: Whether the recipe of its stage's artifacts holds it (the default). It does not
            where the artifact does not depend on it, or where another entry stands for it. A
            setting that does not change the results is in no recipe either.
        with_hard_labels: For `labels`: whether students that train with hard labels depend on it.
        of_a_machine: Whether the processes of a run may differ in it.
        is_path: Whether it names files of the machine, which exports leave out.
        of_one_teacher: Whether single teachers may differ in it (`squeeze.settings_of`).
        chooses_teachers: Whether it names some of `squeeze.backbones`; null names all.
        read_by_train: Whether `gvbsm train` reads it.
        reducible: Whether a smaller number makes a cheaper run of lower accuracy.
        often_changed: Whether `gvbsm run --help` shows it; `--help all` shows every setting.
    """

    limit: Literal["positive", "not negative", "64 bits"] | Interval
    changes_results: bool
    in_recipe: bool
    with_hard_labels: bool
    of_a_machine: bool
    is_path: bool
    of_one_teacher: bool
    chooses_teachers: bool
    read_by_train: bool
    reducible: bool
    often_changed: bool


def setting(default: Any, **facts: Unpack[SettingFacts]) -> Any:
    """Declare a setting and what is known about it.

    Args:
        default: Its default, or a function that makes it.
        facts: See `SettingFacts`.
    """
    if callable(default):
        return field(default_factory=default, metadata=facts)
    return field(default=default, metadata=facts)


def settings_in(section: Any, prefix: str = "") -> Iterator[tuple[str, Field[Any], Any]]:
    """Yield the dotted name, the field and the value of every setting, those of sections inside."""
    for item in fields(section):
        value, name = getattr(section, item.name), prefix + item.name
        if is_dataclass(value):
            yield from settings_in(value, f"{name}.")
        else:
            yield name, item, value


def without_effect(section: Any) -> tuple[str, ...]:
    """Return the dotted names of the settings on which the results do not depend."""
    return tuple(
        name
        for name, item, _ in settings_in(section)
        if not item.metadata.get("changes_results", True)
    )


def names_in_recipe(section: Any) -> tuple[str, ...]:
    """Return the names of the fields of one section that the recipe of its artifacts holds."""
    return tuple(
        item.name
        for item in fields(section)
        if item.metadata.get("in_recipe", True) and item.metadata.get("changes_results", True)
    )


def dotted_names_of(config: Any, fact: str) -> tuple[str, ...]:
    """Return the dotted names of the settings of which a fact is true."""
    return tuple(name for name, item, _ in settings_in(config) if item.metadata.get(fact))


def names_of(section: Any, fact: str) -> tuple[str, ...]:
    """Return the names of the fields of one section of which a fact of `setting` is true."""
    return tuple(item.name for item in fields(section) if item.metadata.get(fact))


def replaced(section: Section, settings: Mapping[str, Any]) -> Section:
    """Return a section with nested settings laid over it; a table is replaced as a whole.

    Args:
        section: A dataclass of settings.
        settings: Settings by the names of their fields, those of a section inside in a mapping.
            The values must have the types of their fields.
    """
    changes = {}
    for name, value in settings.items():
        old: Any = getattr(section, name)
        inner = is_dataclass(old) and not isinstance(old, type)
        changes[name] = replaced(old, value) if inner else value
    return replace(section, **changes)


class Description(NamedTuple):
    """What the help says about a setting.

    Attributes:
        name: Its dotted name.
        kind: Its type.
        text: Its line under `Args` in the docstring of its section.
        often_changed: The fact of `setting`.
    """

    name: str
    kind: Any
    text: str
    often_changed: bool


def descriptions(section: Any, prefix: str = "") -> Iterator[Description]:
    """Yield the description of every setting, those of sections inside."""
    from docstring_parser import parse

    texts = {item.arg_name: item.description for item in parse(type(section).__doc__ or "").params}
    kinds = get_type_hints(type(section))
    for item in fields(section):
        value, name = getattr(section, item.name), prefix + item.name
        if is_dataclass(value):
            yield from descriptions(value, f"{name}.")
        else:
            text = " ".join((texts[item.name] or "").split())
            common = item.metadata.get("often_changed", False)
            yield Description(name, kinds[item.name], text, common)


_PLAIN = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "text",
    type(None): "null",
}
_ENTRIES = {int: "whole numbers, such as 16,32", str: "names, such as resnet18,convnet128"}
_TABLES = {
    (str, float): "resnet18=0.5,wrn16_2=2",
    (int, float): "1=0.4,10=0",
    (str, int): "rare=2,common=20",
    (str, bool): "resnet18=false",
    (str, str): "NAME=PATH",
}


def kind_in_words(kind: Any) -> str:
    """Describe what a setting of this type takes on the command line, for users."""
    if kind in _PLAIN:
        return _PLAIN[kind]
    origin, of = get_origin(kind), get_args(kind)
    if origin is Literal:
        return (" or " if len(of) < 3 else ", ").join(map(str, of))
    if origin in (Union, UnionType):
        null_first = sorted(of, key=lambda part: part is not type(None))
        return " or ".join(map(kind_in_words, null_first))
    if origin is tuple and of[-1] is not Ellipsis:
        return f"{len(of)} numbers, such as 0.5,1"
    if origin is tuple:
        entries = _ENTRIES.get(of[0]) or f"any of {', '.join(map(str, choices_of(of[0])))}"
        return f"a list of {entries}"
    return f"a table, such as {_TABLES.get(of, '{NAME: {SETTING: VALUE}}')}"


def choices_of(kind: Any) -> list[Any]:
    """Return the values of a `Literal`, alone, in a list or in a union; empty without one."""
    if get_origin(kind) is Literal:
        return list(get_args(kind))
    return [value for part in get_args(kind) for value in choices_of(part)]
