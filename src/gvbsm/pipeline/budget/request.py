"""What is asked of a run in a time budget."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from gvbsm.config import Config, ConfigError
from gvbsm.config.fields import without_effect
from gvbsm.config.keys import fields_by_name, setting_of, value_at

UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0}


@dataclass(frozen=True)
class Request:
    """A run that is to fit into a time budget.

    Attributes:
        preset: Name of the preset whose settings are fitted into the budget.
        given: Settings that the user has fixed: dotted names and values. Those on which the results
            do not depend are not among them.
        seconds: The budget; none takes the usual one of the device.
    """

    preset: str
    given: Mapping[str, Any]
    seconds: float | None = None

    def as_json(self) -> dict[str, Any]:
        """Return the request as JSON has it."""
        content: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return content


def make_request(preset: str, config: Config, names: Iterable[str], budget: str | None) -> Request:
    """Return the request of a command or a call.

    Args:
        preset: Name of the preset.
        config: The settings, with those that the user has fixed.
        names: Dotted names of the settings that the user has fixed, or of entries of tables; others
            are left out.
        budget: The budget as the user writes it.

    Raises:
        ConfigError: If the budget is no duration.
    """
    settings = {name for name, kind in fields_by_name().items() if kind != "section"}
    fixed = sorted(settings.intersection(map(setting_of, names)) - {*without_effect(Config())})
    seconds = None if budget is None else parse_duration(budget)
    return Request(preset, {name: value_at(config, name) for name in fixed}, seconds)


def parse_duration(text: str) -> float:
    """Return the seconds of a duration such as `90s`, `30m`, `1.5h` or `1h30m`.

    Raises:
        ConfigError: If it is none, or 0.
    """
    compact = str(text).replace(" ", "").lower()
    parts = re.findall(r"(\d+(?:\.\d+)?)([smh])", compact)
    seconds = sum(float(number) * UNITS[unit] for number, unit in parts)
    if "".join(map("".join, parts)) != compact or not seconds:
        raise ConfigError(f"--budget takes a duration such as 90s, 30m or 2h, found {text!r}")
    return seconds
