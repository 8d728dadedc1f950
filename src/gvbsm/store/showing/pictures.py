"""Pictures of a distilled set: one row a class, as a tensor, a PNG and a figure."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from gvbsm.data.pictures import write_image
from gvbsm.data.views import resize
from gvbsm.engine.torch_defaults import torch_defaults

if TYPE_CHECKING:
    from matplotlib.figure import Figure

INCHES = 0.6  # side of an image in a figure
FONT_SIZE = 9.0  # points of a name; three lines are as high as an image
LINES, LINE, LETTER = 3, 20, 0.11  # lines of a name at most, letters of a line, inches of a letter
PIXELS = (32, 64)  # least and largest side of an image in a PNG
WHITE = 255


def grid(images: Tensor, labels: Tensor, classes: int, columns: int) -> Tensor:
    """Place the first images of the first classes, one row a class, on white.

    Args:
        images: uint8 (images, channels, size, size).
        labels: Their classes, int64 (images,).
        classes: Most classes.
        columns: Most images of a class.

    Returns:
        uint8 (channels, height, width).
    """
    rows = [images[labels == label][:columns] for label in _first(labels, classes)]
    channels, size = images.shape[1:3]
    gap = max(1, size // 16)
    cell = size + gap
    width = max(map(len, rows))
    placed = images.new_full((channels, len(rows) * cell - gap, width * cell - gap), WHITE)
    for row, row_images in enumerate(rows):
        for column, image in enumerate(row_images):
            top, left = row * cell, column * cell
            placed[:, top : top + size, left : left + size] = image
    return placed


def _first(labels: Tensor, classes: int) -> list[int]:
    """Return the first classes that have images."""
    return sorted(set(labels.tolist()))[:classes]


@torch_defaults()
def png(images: Tensor, labels: Tensor, classes: int = 10, columns: int = 10) -> bytes:
    """Return the grid as a small PNG; arguments as for `grid`."""
    least, largest = PIXELS
    size = images.shape[-1]
    indices = [(labels == label).nonzero()[:columns, 0] for label in _first(labels, classes)]
    shown = torch.cat(indices)
    images, labels = images[shown], labels[shown]
    if size > largest:
        images = resize(images.float(), largest).round().clamp(0, WHITE).to(torch.uint8)
    elif size < least:
        scale = -(-least // size)
        images = images.repeat_interleave(scale, dim=2).repeat_interleave(scale, dim=3)
    content = io.BytesIO()
    write_image(content, grid(images, labels, classes, columns), format="PNG")
    return content.getvalue()


def draw(
    images: Tensor, labels: Tensor, class_names: Sequence[str], classes: int, columns: int
) -> Figure:
    """Draw the grid with the names of the classes; other arguments as for `grid`.

    Long names are wrapped, and cut after `LINES` lines.
    """
    from matplotlib import pyplot

    from gvbsm.store.showing.fonts import use_fallback_fonts

    pixels = grid(images, labels, classes, columns).permute(1, 2, 0)
    names = [_wrapped(class_names[label]) for label in _first(labels, classes)]
    size = images.shape[-1]
    cell = size + max(1, size // 16)
    height, width = pixels.shape[:2]
    letters = max(len(line) for name in names for line in name.split("\n"))
    inches = (width / cell * INCHES + max(1, LETTER * letters), height / cell * INCHES)
    figure = pyplot.figure(figsize=inches, layout="constrained")
    pyplot.close(figure)  # a notebook would show an open figure twice
    axes = figure.add_subplot()
    axes.imshow(pixels.squeeze(2).numpy(), cmap="gray", vmin=0, vmax=WHITE)
    places = [row * cell + size / 2 for row in range(len(names))]
    axes.set_yticks(places, names, fontsize=FONT_SIZE, parse_math=False)
    axes.set_xticks([])
    axes.tick_params(length=0)
    axes.set_frame_on(False)
    axes.set_anchor("W")  # beside the names, for which the layout makes room at the left
    use_fallback_fonts(figure)
    return figure


def _wrapped(name: str) -> str:
    """Wrap a name to lines that fit beside an image; names of classes may contain `$` or `_`."""
    first, last = (lines := textwrap.wrap(name, LINE))[:LINES], lines[LINES:]
    if last:
        first[-1] = f"{first[-1][: LINE - 1].rstrip()}…"
    return "\n".join(first)
