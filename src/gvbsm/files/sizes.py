"""Sizes of files in units that people read."""

from __future__ import annotations

ROUNDED_UP = 0.9995  # of a power of ten: from here on, three digits are those of the power


def byte_count(value: float) -> str:
    """Format bytes in decimal units, such as 820 kB."""
    for limit, unit in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if value >= ROUNDED_UP * limit:
            return f"{three_digits(value / limit)} {unit}"
    return f"{three_digits(value)} B"


def three_digits(value: float) -> str:
    """Format a number in three digits, or in all before its point: 0.0123, 12.3, 1,234."""
    return f"{value:.3g}" if abs(value) < 1000 * ROUNDED_UP else f"{value:,.0f}"
