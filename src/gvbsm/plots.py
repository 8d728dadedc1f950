"""Figures, from artefacts alone."""

from __future__ import annotations

import warnings
from pathlib import Path

import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor

from gvbsm.artifacts import DistilledDataset, atomic

CELL = 0.62  # inches of a picture's side


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
    groups = [
        _rows(distilled.images, distilled.ipc, shown, columns),
        _rows(real, columns, shown, columns),
    ]
    label_width = 0.2 + 0.075 * max(len(name) for name in distilled.class_names[:shown])
    width = label_width + (2 * columns + 0.5) * CELL + 0.1
    height = shown * CELL + 0.45
    figure = Figure(figsize=(width, height), dpi=200)
    FigureCanvasAgg(figure)
    for side, (rows, title) in enumerate(zip(groups, ("distilled", "real"), strict=True)):
        left = (label_width + side * (columns + 0.5) * CELL) / width
        box = (left, 0.05 / height, columns * CELL / width, shown * CELL / height)
        axes = figure.add_axes(box)
        axes.imshow(
            _montage(rows).numpy(),
            cmap="gray",
            vmin=0,
            vmax=255,
            interpolation="nearest",
            aspect="auto",
        )
        axes.set_title(title, fontsize=10)
        axes.set_xticks([])
        axes.set_yticks([])
        if side == 0:
            cell = rows.shape[-1] + 2
            axes.set_yticks([row * cell + cell / 2 for row in range(shown)])
            names = distilled.class_names[:shown]
            axes.set_yticklabels(names, fontsize=9, parse_math=False)
            axes.tick_params(length=0)
        for spine in axes.spines.values():
            spine.set_visible(False)
    with atomic(path) as temporary, warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph")  # a script that the font lacks shows as boxes
        figure.savefig(temporary, format="png")


def _rows(images: Tensor, per_class: int, shown: int, columns: int) -> Tensor:
    """The first pictures of the first classes: (shown, columns, channels, size, size)."""
    size = images.shape[1:]
    return images[: shown * per_class].view(shown, per_class, *size)[:, :columns]


def _montage(rows: Tensor) -> Tensor:
    """Tile (rows, columns, channels, size, size) with white gaps: (height, width[, 3])."""
    shown, columns, channels, size, _ = rows.shape
    cell = size + 2
    canvas = torch.full((shown * cell, columns * cell, channels), 255, dtype=torch.uint8)
    for row in range(shown):
        for column in range(columns):
            top, left = row * cell + 1, column * cell + 1
            canvas[top : top + size, left : left + size] = rows[row, column].permute(1, 2, 0)
    return canvas.squeeze(2) if channels == 1 else canvas
