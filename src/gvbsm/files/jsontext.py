"""Parse JSON text of unknown origin within limits of memory and depth."""

from __future__ import annotations

import json
from typing import Any

MOST_VALUES = 4_000_000  # a value takes up to a hundred bytes of memory, however short its text
MOST_LEVELS = 64  # of nested lists and objects


def parse(text: str) -> Any:
    """Parse a JSON text; its values are counted before memory is taken for them.

    Raises:
        ValueError: If it is no JSON, holds more than `MOST_VALUES` values, or nests lists and
            objects more than `MOST_LEVELS` deep.
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
