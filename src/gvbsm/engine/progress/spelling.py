"""Durations and counts for people to read."""

from __future__ import annotations

from collections.abc import Iterable

MINUTE, HOUR, DAY = 60, 3600, 86_400
UNITS = ((DAY, "d", HOUR, "h"), (HOUR, "h", MINUTE, "min"), (MINUTE, "min", 1, "s"))


def spell_duration(seconds: float) -> str:
    """Return a duration, rounded to two or three digits, in at most two units.

    Examples: `0.4 s`, `45 s`, `7 min 30 s`, `42 min`, `3 h 5 min`, `2 d 4 h`.
    """
    if seconds < 9.95:
        return f"{max(0.0, seconds):.1f}".removesuffix(".0") + " s"
    whole = round(seconds)
    if whole >= 10 * MINUTE:
        whole = MINUTE * round(whole / MINUTE)
    if whole >= DAY:
        whole = HOUR * round(whole / HOUR)
    for size, unit, smaller_size, smaller in UNITS:
        if whole >= size:
            count, rest = divmod(whole, size)
            return f"{count} {unit}" + f" {rest // smaller_size} {smaller}" * bool(rest)
    return f"{whole} s"


def spell_count(number: int, unit: str) -> str:
    """Return a number with its unit: `1 epoch`, `1,200 epochs`."""
    return f"{number:,} {unit if number == 1 else plural(unit)}"


def spell_range(numbers: Iterable[int]) -> str:
    """Return the smallest and largest of some numbers, `2 to 20`, or the one that all are."""
    numbers = {*numbers}
    low, high = min(numbers), max(numbers)
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def with_article(noun: str) -> str:
    """Return a noun behind its article, by its first letter: `a step`, `an item`."""
    return f"{'an' if noun[0].lower() in 'aeiou' else 'a'} {noun}"


def plural(unit: str) -> str:
    """Return the plural of a noun such as the unit of a loop."""
    return f"{unit}es" if unit.endswith(("tch", "sh", "s", "x")) else f"{unit}s"
