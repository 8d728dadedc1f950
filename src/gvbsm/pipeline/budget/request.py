"""What is asked of a run in a time budget."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from gvbsm.config.errors import ConfigError

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


def parse_duration(text: str) -> float:
    """Return the seconds of a duration such as `90s`, `30m`, `1.5h` or `1h30m`.

    Raises:
        ConfigError: If it is none, or 0.
    """
    compact = text.replace(" ", "").lower()
    parts = re.findall(r"(\d+(?:\.\d+)?)([smh])", compact)
    seconds = sum(float(number) * UNITS[unit] for number, unit in parts)
    if "".join(map("".join, parts)) != compact or not seconds:
        raise ConfigError(f"--budget takes a duration such as 90s, 30m or 2h, found {text!r}")
    return seconds
