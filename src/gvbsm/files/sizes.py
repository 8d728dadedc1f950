"""Sizes of files in units that people read."""

from __future__ import annotations


def byte_count(value: float) -> str:
    """Format bytes in decimal units, such as 820 kB."""
    for limit, unit in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if value >= limit:
            return f"{value / limit:.3g} {unit}"
    return f"{value:.3g} B"
