"""Parse JSON text of unknown origin within limits of memory and depth; write JSON to a cache."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from pathlib import Path
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


def write_cache(path: Path, content: Any) -> None:
    """Write a file of a cache in one step; one that cannot be written is left out.

    Nothing depends on a cache but the time that it saves. So its files have no checksum, are in no
    manifest, and are not synced.
    """
    draft = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        draft.write_text(json.dumps(content), encoding="utf-8")
        draft.replace(path)
