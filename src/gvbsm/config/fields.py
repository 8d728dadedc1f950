"""What is known about a setting beside its type and its default: metadata at its field."""

from __future__ import annotations

from dataclasses import field
from typing import Any

LATER = {"later": True}  # metadata of a field, see `later`


def later(default: Any) -> Any:
    """A field that came later: recipes tell it where it is not `default` (`recipes.told`).

    So what was made before there was such a setting is not made again.
    """
    return field(default=default, metadata=LATER)
