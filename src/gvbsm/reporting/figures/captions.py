"""A figure with its words."""

from __future__ import annotations

from typing import NamedTuple

from matplotlib.figure import Figure


class CaptionedFigure(NamedTuple):
    """A figure with its words.

    Attributes:
        name: Of its files.
        title: A heading.
        caption: What is shown, of how many, and how to read it.
        alt: What is seen, in a few words.
        figure: The figure.
        motion: A moving picture (GIF) of the same, if there is one.
    """

    name: str
    title: str
    caption: str
    alt: str
    figure: Figure
    motion: bytes | None = None


def count(number: int, one: str, more: str | None = None) -> str:
    """`1 student`, `2 students`."""
    return f"{number} {one if number == 1 else more or f'{one}s'}"
