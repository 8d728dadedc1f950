"""A figure with its title and caption."""

from __future__ import annotations

from typing import NamedTuple

from matplotlib.figure import Figure

from gvbsm.reporting.figures.images import PictureGrid


class CaptionedFigure(NamedTuple):
    """A figure with its title and caption.

    Attributes:
        name: Name of its files, without suffix.
        title: A heading.
        caption: What it shows, over how many values, and how to read it.
        alt: Description in a few words.
        figure: The figure, or a grid of images.
        motion: An animation (GIF) of the same, or None.
    """

    name: str
    title: str
    caption: str
    alt: str
    figure: Figure | PictureGrid
    motion: bytes | None = None
