"""Grids of images: sets side by side, one row for each class, and the images over the steps.

Images are arrays of pixels, so that a grid is tiled, not drawn: as strips for a page, as a sheet
with text for a file, and as frames of an animation.
"""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from gvbsm.files.artifacts import atomic
from gvbsm.reporting.figures.style import shorten
from gvbsm.store.distilled import DistilledDataset
from gvbsm.store.showing.fonts import DEJAVU, font_runs

STRIP_CELL = (64, 128)  # pixels: smallest and largest side of an image in a strip
SHEET_WIDTH = 1080  # pixels
SHEET_CELL = (64, 140)  # pixels: smallest and largest side of an image on a sheet
SHEET_HEIGHT = 1000  # pixels, above which images are not enlarged
SHEET_TEXT, FILM_TEXT = 25, 13  # pixels
TITLE_HEIGHT, MARGIN, GAP = 60, 10, 36  # pixels of a sheet
FILM_COLUMNS, FILM_CELL = 5, 90  # images in a row of the animation, and pixels of one
FRAME_MS, LAST_MS = 450, 2500  # milliseconds that a frame is shown, and the last one


@dataclass(frozen=True)
class PictureGrid:
    """Sets of images side by side, a row for each class.

    Attributes:
        groups: Title of each set -> its images, for each row uint8 (columns, channels, size, size).
            Rows may have different numbers of columns.
        rows: Names of the rows.
        columns: Title of a set -> texts above its columns.
    """

    groups: Mapping[str, Sequence[Tensor]]
    rows: Sequence[str]
    columns: Mapping[str, Sequence[str]] = field(default_factory=dict)


def strips(images: Sequence[Tensor]) -> list[bytes]:
    """Return a PNG file for each row of images, with transparent gaps between them.

    Small images are enlarged by a whole number, so that their pixels stay squares; large ones are
    reduced.

    Args:
        images: For each row uint8 (columns, channels, size, size).
    """
    size = images[0].shape[-1]
    times = max(1, math.ceil(STRIP_CELL[0] / size))
    side = min(size * times, STRIP_CELL[1])
    gap = max(1, side // 20)
    files = []
    for row in images:
        mode = "LA" if row.shape[1] == 1 else "RGBA"
        width = len(row) * (side + gap) - gap
        strip = Image.new(mode, (width, side))
        for place, image in enumerate(row):
            strip.paste(_resized(image, side).convert(mode), (place * (side + gap), 0))
        files.append(_encoded(strip))
    return files


def sheet(grid: PictureGrid) -> Image.Image:
    """Return a grid as one picture, with names of the rows at the left and titles above."""
    names = [shorten(name) for name in grid.rows]
    counts = [max(map(len, images)) for images in grid.groups.values()]
    left, cell = _left_of(grid), _cell_of(grid)
    widths = [  # a title may be wider than a single column
        max(count * cell, math.ceil(_text_width(title)) + MARGIN)
        for count, title in zip(counts, grid.groups, strict=True)
    ]
    width = left + sum(widths) + GAP * len(widths)
    picture = Image.new("RGB", (width, TITLE_HEIGHT + len(names) * cell + MARGIN), "white")
    draw = ImageDraw.Draw(picture)
    for row, name in enumerate(names):
        place = (left - MARGIN, TITLE_HEIGHT + (row + 0.5) * cell)
        _write(draw, place, name, "rm")
    start = left
    for (title, images), count, group_width in zip(
        grid.groups.items(), counts, widths, strict=True
    ):
        first = start + (group_width - count * cell) // 2
        _tile(picture, images, (first, TITLE_HEIGHT), cell)
        middle = start + group_width / 2
        _write(draw, (middle, TITLE_HEIGHT - MARGIN), title, "ms")
        for column, text in enumerate(grid.columns.get(title, ())):
            middle = first + (column + 0.5) * cell
            _write(draw, (middle, TITLE_HEIGHT - MARGIN), text, "ms")
        start += group_width + GAP
    return picture


def _left_of(grid: PictureGrid) -> int:
    """Width in pixels of the names of the rows."""
    return math.ceil(max(_text_width(shorten(name)) for name in grid.rows)) + 3 * MARGIN


def _cell_of(grid: PictureGrid) -> int:
    """Side of an image on the sheet, with its border, in pixels."""
    counts = [max(map(len, images)) for images in grid.groups.values()]
    room = SHEET_WIDTH - _left_of(grid) - GAP * len(counts)
    largest = min(room // sum(counts), SHEET_HEIGHT // len(grid.rows), SHEET_CELL[1])
    return max(largest, SHEET_CELL[0])


def sheet_png(grid: PictureGrid) -> bytes:
    """Return a grid as a PNG file (`sheet`)."""
    return _encoded(sheet(grid))


def _tile(
    picture: Image.Image, images: Sequence[Tensor], corner: tuple[int, int], cell: int
) -> None:
    """Paste rows of images, (columns, channels, size, size) each, as squares of `cell` pixels."""
    border = max(1, cell // 34)
    for row, row_images in enumerate(images):
        for column, image in enumerate(row_images):
            place = (corner[0] + column * cell + border, corner[1] + row * cell + border)
            picture.paste(_resized(image, cell - 2 * border).convert("RGB"), place)


def _resized(image: Tensor, side: int) -> Image.Image:
    """Resize an image, (channels, size, size); the pixels of an enlarged one stay sharp."""
    pixels = image[0] if image.shape[0] == 1 else image.permute(1, 2, 0)
    method = Image.Resampling.NEAREST if image.shape[-1] <= side else Image.Resampling.BOX
    return Image.fromarray(pixels.contiguous().numpy()).resize((side, side), method)


def _encoded(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()


def _write(
    draw: ImageDraw.ImageDraw,
    place: tuple[float, float],
    text: str,
    anchor: str,
    size: int = SHEET_TEXT,
) -> None:
    """Write a text in one line, with installed fonts for what DejaVu Sans lacks.

    Args:
        draw: Where.
        place: Position of the anchor in pixels, (x, y).
        text: The text.
        anchor: Pillow's: m or r (middle, right), then a, m or s (top, middle, baseline).
        size: Size of the text in pixels.
    """
    runs = font_runs(text)
    if len(runs) < 2:
        file = runs[0][0].file if runs else DEJAVU.file
        draw.text(place, text, "black", _font(file, size), anchor=anchor)
        return
    ascent, descent = _font(DEJAVU.file, size).getmetrics()
    x = place[0] - {"m": 0.5, "r": 1.0}[anchor[0]] * _text_width(text, size)
    baseline = place[1] + {"a": ascent, "m": (ascent - descent) / 2, "s": 0}[anchor[1]]
    for font, run in runs:
        draw.text((x, baseline), run, "black", _font(font.file, size), anchor="ls")
        x += _font(font.file, size).getlength(run)


@cache
def _font(file: str, size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(file, size)


def _text_width(text: str, size: int = SHEET_TEXT) -> float:
    return sum(_font(font.file, size).getlength(run) for font, run in font_runs(text))


def first_of_classes(images: Tensor, labels: Tensor, classes: int, columns: int) -> list[Tensor]:
    """The first images of the first classes, for each (columns or fewer, channels, size, size)."""
    return [images[(labels == label).nonzero()[:columns, 0]] for label in range(classes)]


def plot_images(distilled: DistilledDataset, real: Tensor, columns: int, path: Path) -> None:
    """Draw a row for each class: distilled images on the left, real ones on the right; a PNG.

    Single images of classes are a row of distilled ones above a row of real ones, if the names of
    the classes fit above them.

    Args:
        distilled: The distilled set.
        real: Real pictures of the shown classes, class-major, uint8
            (shown classes * columns, channels, size, size).
        columns: Pictures of a class on each side.
        path: The PNG.
    """
    shown = len(real) // columns
    groups = {
        "distilled": first_of_classes(distilled.images, distilled.labels, shown, columns),
        "real": list(real.view(shown, columns, *real.shape[1:])),
    }
    names = [shorten(name) for name in distilled.class_names[:shown]]
    grid = PictureGrid(groups, names)
    if columns == 1:
        across = [torch.cat(images) for images in groups.values()]
        two_rows = PictureGrid({"": across}, tuple(groups), {"": names})
        if max(map(_text_width, names)) + MARGIN <= _cell_of(two_rows):
            grid = two_rows
    with atomic(path) as temporary:
        temporary.write_bytes(sheet_png(grid))


def film_gif(frames: Tensor, steps: Sequence[int], names: Sequence[str]) -> bytes:
    """The film as an animation (GIF) that repeats, with a pause at the last frame.

    Args:
        frames: uint8 (images, frames, channels, size, size).
        steps: Step of each frame.
        names: Class of each image.
    """
    first, *others = [
        _film_picture(images, f"step {step}", names)
        for step, images in zip(steps, frames.unbind(1), strict=True)
    ]
    times = [FRAME_MS] * len(others) + [LAST_MS]
    buffer = io.BytesIO()
    first.save(buffer, "GIF", save_all=True, append_images=others, duration=times, loop=0)
    return buffer.getvalue()


def _film_picture(images: Tensor, title: str, names: Sequence[str]) -> Image.Image:
    """One frame: all images, (images, channels, size, size), each below its class."""
    columns = min(FILM_COLUMNS, len(names))
    height = FILM_CELL + 2 * FILM_TEXT
    rows = torch.split(images, columns)
    picture = Image.new("RGB", (columns * FILM_CELL, 2 * FILM_TEXT + len(rows) * height), "white")
    draw = ImageDraw.Draw(picture)
    _write(draw, (columns * FILM_CELL / 2, 4), title, "ma", FILM_TEXT)
    for row, row_images in enumerate(rows):
        top = 2 * FILM_TEXT + row * height
        for column, name in enumerate(names[row * columns : (row + 1) * columns]):
            place = ((column + 0.5) * FILM_CELL, top + 4)
            _write(draw, place, shorten(name, 11), "ma", FILM_TEXT)
        _tile(picture, [row_images], (0, top + 2 * FILM_TEXT - 4), FILM_CELL)
    return picture.quantize(128, dither=Image.Dither.NONE)
