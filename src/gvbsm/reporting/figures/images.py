"""Grids of images: sets side by side, one row for each class, and the images over the steps.

Layouts are in inches and drawn without rescaling, so that pixels stay square and sharp.
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from gvbsm.files.artifacts import atomic
from gvbsm.reporting.figures.style import (
    NORMAL,
    SMALL,
    WIDTH,
    compact,
    figure_bytes,
    new_figure,
    shorten,
    styled,
    text_width,
    with_style,
)
from gvbsm.store.distilled import DistilledDataset

CELL = (0.32, 0.7)  # inches: smallest and largest side of an image
FILM_COLUMNS = 5  # images in a row of the animation
FRAME_MS, LAST_MS = 450, 2500  # milliseconds that a frame is shown, and the last one


@with_style
def draw_images(groups: Mapping[str, Tensor], class_names: Sequence[str]) -> Figure:
    """Sets side by side, a row for each class.

    Args:
        groups: Title of each set -> its images, uint8 (classes, columns, channels, size, size).
        class_names: Names of these classes.
    """
    return _draw_grid(groups, class_names, {})


@with_style
def draw_film(frames: Tensor, steps: Sequence[int], names: Sequence[str]) -> Figure:
    """Draw images over the steps of the synthesis: a row for each image, a column for each step.

    Args:
        frames: uint8 (images, frames, channels, size, size).
        steps: Step of each frame.
        names: Class of each image.
    """
    columns = ["start" if step == 0 else compact(step) for step in steps]
    return _draw_grid({"": frames}, names, {"": columns})


def _draw_grid(
    groups: Mapping[str, Tensor],
    class_names: Sequence[str],
    columns: Mapping[str, Sequence[str]],
) -> Figure:
    """Place groups from left to right; `columns` has the texts above a group's columns."""
    names = [shorten(name) for name in class_names]
    left = text_width(names, NORMAL) + 0.15
    counts = [images.shape[1] for images in groups.values()]
    gap = 0.18
    room = WIDTH - left - gap * len(counts)
    cell = min(max(room / sum(counts), CELL[0]), CELL[1])
    # A title may be wider than a single column.
    widths = [
        max(count * cell, text_width([title], NORMAL) + 0.05)
        for count, title in zip(counts, groups, strict=True)
    ]
    width = left + sum(widths) + gap * len(widths)
    height = len(names) * cell + 0.35
    figure = new_figure(width, height)
    figure.set_layout_engine("none")
    for index, (title, images) in enumerate(groups.items()):
        side = counts[index] * cell
        start = left + sum(widths[:index]) + gap * index + (widths[index] - side) / 2
        box = (start / width, 0.05 / height, side / width, len(names) * cell / height)
        axes = figure.add_axes(box)
        _show(axes, images, cell)
        axes.set_title(title, pad=4)
        if title in columns:
            axes.xaxis.tick_top()
            _label_cells(axes, "x", images, columns[title])
        if index == 0:
            _label_cells(axes, "y", images, names)
            axes.tick_params(axis="y", labelsize=NORMAL)
    return figure


def _show(axes: Axes, images: Tensor, cell: float) -> None:
    """Fill a panel, without axes, with images (rows, columns, channels, size, size)."""
    is_enlarged = images.shape[-1] <= cell * axes.figure.dpi
    axes.imshow(
        _montage(images).numpy(),
        cmap="gray",
        vmin=0,
        vmax=255,
        interpolation="nearest" if is_enlarged else "antialiased",
        aspect="auto",
    )
    axes.set(xticks=[], yticks=[])
    axes.grid(visible=False)
    axes.tick_params(length=0, pad=3)
    axes.spines[:].set_visible(False)


def _label_cells(axes: Axes, which: str, images: Tensor, texts: Sequence[str]) -> None:
    side = images.shape[-1] + 2 * _border(images.shape[-1])
    places = [(index + 0.5) * side - 0.5 for index in range(len(texts))]
    getattr(axes, f"set_{which}ticks")(places, list(texts))


def _border(size: int) -> int:
    """White pixels on each side of an image."""
    return max(1, round(size / 32))


def _montage(images: Tensor) -> Tensor:
    """Tile (rows, columns, channels, size, size) with white between: (height, width[, 3])."""
    rows, columns, channels, size, _ = images.shape
    border = _border(size)
    cell = size + 2 * border
    canvas = torch.full((rows, columns, channels, cell, cell), 255, dtype=torch.uint8)
    canvas[..., border : border + size, border : border + size] = images
    tiled = canvas.permute(0, 3, 1, 4, 2).reshape(rows * cell, columns * cell, channels)
    return tiled.squeeze(2) if channels == 1 else tiled


def first_of_classes(images: Tensor, per_class: int, classes: int, columns: int) -> Tensor:
    """The first images of the first classes: (classes, columns, channels, size, size).

    Args:
        images: Class-major, (all classes * per_class, channels, size, size).
        per_class: Images of a class.
        classes: How many classes.
        columns: How many images, at most all of them.
    """
    return images[: classes * per_class].view(classes, per_class, *images.shape[1:])[:, :columns]


def plot_images(distilled: DistilledDataset, real: Tensor, columns: int, path: Path) -> None:
    """Draw a row for each class: distilled images on the left, real ones on the right; a PNG.

    Args:
        distilled: The distilled set.
        real: Real pictures of the shown classes, class-major, uint8
            (shown classes * columns, channels, size, size).
        columns: Pictures of a class on each side.
        path: The PNG.
    """
    shown = len(real) // columns
    groups = {
        "distilled": first_of_classes(distilled.images, distilled.ipc, shown, columns),
        "real": first_of_classes(real, columns, shown, columns),
    }
    figure = draw_images(groups, distilled.class_names[:shown])
    with atomic(path) as temporary:
        temporary.write_bytes(figure_bytes(figure, "png"))


def film_gif(frames: Tensor, steps: Sequence[int], names: Sequence[str]) -> bytes:
    """The film as an animation (GIF) that repeats, with a pause at the last frame.

    Args:
        frames: uint8 (images, frames, channels, size, size).
        steps: Step of each frame.
        names: Class of each image.
    """
    with styled():
        first, *others = _film_pictures(frames, steps, names)
    times = [FRAME_MS] * len(others) + [LAST_MS]
    buffer = io.BytesIO()
    first.save(buffer, "GIF", save_all=True, append_images=others, duration=times, loop=0)
    return buffer.getvalue()


def _film_pictures(
    frames: Tensor, steps: Sequence[int], names: Sequence[str]
) -> Iterator[Image.Image]:
    """The frames, each with the images of all rows."""
    columns = min(FILM_COLUMNS, len(names))
    rows = math.ceil(len(names) / columns)
    cell = 0.9  # inches
    figure = new_figure(columns * cell + 0.1, rows * (cell + 0.2) + 0.4, dpi=100)
    panels = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axes in panels:
        axes.axis("off")
    for step, images in zip(steps, frames.unbind(1), strict=True):
        figure.suptitle(f"step {step}", fontsize=NORMAL)
        for axes, name, image in zip(panels, names, images, strict=False):
            axes.clear()
            _show(axes, image[None, None], cell)
            axes.set_aspect("equal")  # the layout leaves room of any shape
            axes.set_title(shorten(name, 13), fontsize=SMALL, pad=2)
        with Image.open(io.BytesIO(figure_bytes(figure, "png"))) as picture:
            yield picture.convert("RGB").quantize(128, dither=Image.Dither.NONE)
