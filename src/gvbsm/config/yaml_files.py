"""Read and write settings as YAML files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import yaml

from gvbsm.config import ConfigError
from gvbsm.config.keys import flatten

MOST_YAML_BYTES = 1024**2
MOST_YAML_VALUES = 100_000
NOWHERE: Mapping[str, str] = MappingProxyType({})


def format_yaml(settings: dict[str, Any]) -> str:
    """Write nested settings as YAML that `read_yaml` reads."""
    text: str = yaml.safe_dump(
        settings, sort_keys=False, allow_unicode=True, default_flow_style=None, width=88
    )
    return text


def yaml_lines(
    settings: dict[str, Any],
    defaults: dict[str, Any],
    only_changed: bool = False,
    places: Mapping[str, str] = NOWHERE,
) -> Iterator[str]:
    """Yield the lines of a YAML file of settings, one setting a line.

    A value that differs from its default has the default beside it, in a comment, and the place
    that it is from.

    Args:
        settings: All settings, nested.
        defaults: Their defaults, nested.
        only_changed: Leave out the settings that have their defaults.
        places: Where settings are from, by their dotted names, as far as it is known.
    """
    usual = flatten(defaults)
    above: list[str] = []
    for key, value in flatten(settings).items():
        is_changed = value != usual[key]
        if only_changed and not is_changed:
            continue
        *sections, name = key.split(".")
        for depth, section in enumerate(sections):
            if above[: depth + 1] != sections[: depth + 1]:
                yield f"{'  ' * depth}{section}:"
        above = sections
        place = f"; from {places[key]}" if key in places else ""
        comment = f"  # default: {one_line(usual[key])}{place}" if is_changed else ""
        yield f"{'  ' * len(sections)}{name}: {one_line(value)}{comment}"


def one_line(value: Any) -> str:
    """Write a value as YAML in one line."""
    text: str = yaml.dump(
        value, Dumper=_OneLine, default_flow_style=True, allow_unicode=True, width=float("inf")
    )
    return text.removesuffix("...\n").rstrip("\n")


class _OneLine(yaml.SafeDumper):
    """Writes texts of several lines in double quotes, where line breaks are escaped."""


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = '"' if text.splitlines() not in ([], [text]) else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style)


_OneLine.add_representer(str, _represent_text)


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML file that holds a mapping.

    Raises:
        ConfigError: If the file is too large, is not valid YAML, or holds something else.
    """
    if path.stat().st_size > MOST_YAML_BYTES:
        raise ConfigError(f"{path} has more than {MOST_YAML_BYTES} bytes; is it a settings file?")
    try:
        text = path.read_text(encoding="utf-8")
        if (root := yaml.compose(text, yaml.SafeLoader)) is not None:
            _count_values(root, {})
        content = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict):
        found = "nothing" if content is None else type(content).__name__
        raise ConfigError(f"{path} must hold a mapping of settings, found {found}")
    return content


def _count_values(node: yaml.Node, known: dict[int, int]) -> int:
    """Count the values in a YAML node; an alias counts each time it is used.

    Args:
        node: The node.
        known: Counts of the nodes that are done, by `id`; it is filled.

    Raises:
        ValueError: If there are more than `MOST_YAML_VALUES`, the node contains itself, or a
            mapping in it names a key twice.
    """
    if id(node) not in known:
        known[id(node)] = MOST_YAML_VALUES  # a node that contains itself finds this
        if isinstance(node, yaml.MappingNode):
            _check_keys(node)
        inner: list[Any] = node.value if isinstance(node, yaml.CollectionNode) else []
        parts = (part for item in inner for part in (item if isinstance(item, tuple) else (item,)))
        known[id(node)] = 1 + sum(_count_values(part, known) for part in parts)
    if known[id(node)] > MOST_YAML_VALUES:
        raise ValueError(f"its aliases make more than {MOST_YAML_VALUES} values")
    return known[id(node)]


def _check_keys(node: yaml.MappingNode) -> None:
    """Check that a mapping names each key once: YAML would keep the last value and drop the first.

    Raises:
        ValueError: Naming the first key that is there again.
    """
    keys = [key for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
    known: set[tuple[str, str]] = set()
    for key in keys:
        if (name := (key.tag, key.value)) in known:
            line = key.start_mark.line + 1
            raise ValueError(f"line {line} names {key.value!r} again; join both entries")
        known.add(name)
