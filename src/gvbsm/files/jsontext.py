"""JSON text that somebody else may have written: its size is looked at before memory is taken."""

from __future__ import annotations

import json
from typing import Any

MOST_VALUES = 4_000_000  # a value takes up to a hundred bytes of memory, whatever it takes in text
MOST_LEVELS = 64  # of lists and objects within one another


def parse(text: str) -> Any:
    """The value that a JSON text holds.

    Args:
        text: The whole text.

    Raises:
        ValueError: If it is no JSON, holds more than `MOST_VALUES` values, or lists and objects lie
            more than `MOST_LEVELS` deep in one another.
    """
    if sum(map(text.count, ",[{")) > MOST_VALUES:
        raise ValueError(f"it holds more than {MOST_VALUES} values")
    try:
        content = json.loads(text)
    except RecursionError:
        raise ValueError(f"its values lie more than {MOST_LEVELS} deep in one another") from None
    level = [content]
    for _ in range(MOST_LEVELS):
        level = [
            value
            for outer in level
            if isinstance(outer, dict | list)
            for value in (outer.values() if isinstance(outer, dict) else outer)
        ]
    if level:
        raise ValueError(f"its values lie more than {MOST_LEVELS} deep in one another")
    return content
