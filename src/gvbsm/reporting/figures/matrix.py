"""The figure of a study with several students: its points against them, as a table of shades."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, TwoSlopeNorm, to_rgba
from matplotlib.figure import Figure

from gvbsm.reporting.figures.style import (
    BLACK,
    BLUE,
    SMALL,
    VERMILION,
    WIDTH,
    new_figure,
    shorten,
    with_style,
)

SHADED = 0.75  # largest opacity, so that black text can be read
LINE = 0.34  # inches of a row


class StudentMatrix(NamedTuple):
    """Values of points and students.

    Attributes:
        title: What they are.
        values: By point and student; a pair without a value is left out.
        is_difference: Whether 0 has a meaning; then values below it have another color.
    """

    title: str
    values: Mapping[tuple[str, str], float]
    is_difference: bool = False


@with_style
def draw_matrices(
    matrices: Sequence[StudentMatrix], points: Sequence[str], students: Sequence[str]
) -> Figure:
    """Draw matrices below one another: a row for each point, a column for each student."""
    height = len(matrices) * (LINE * len(points) + 0.4) + 1.1
    figure = new_figure(WIDTH, height)
    grid = figure.subplots(len(matrices), 1, squeeze=False, sharex=True)[:, 0]
    for axes, matrix in zip(grid, matrices, strict=True):
        table = np.full((len(points), len(students)), np.nan)
        for (point, student), value in matrix.values.items():
            table[points.index(point), students.index(student)] = value
        _draw(axes, table, matrix.is_difference)
        axes.set_title(matrix.title, loc="left")
        axes.set_yticks(range(len(points)), [shorten(name, 22) for name in points])
    names = [shorten(name.rpartition("/")[2], 22) for name in students]
    grid[-1].set_xticks(range(len(students)), names, rotation=30, ha="right")
    return figure


def _draw(axes: Axes, table: np.ndarray, is_difference: bool) -> None:
    """Shade a table and write its values; cells without a value stay empty."""
    if is_difference:
        limit = max(1e-9, float(np.nanmax(np.abs(table))))
        below = (0.0, to_rgba(VERMILION, SHADED)), (0.5, to_rgba(VERMILION, 0))
        above = (0.5, to_rgba(BLUE, 0)), (1.0, to_rgba(BLUE, SHADED))
        shades = LinearSegmentedColormap.from_list("differences", [*below, *above])
        axes.imshow(table, cmap=shades, norm=TwoSlopeNorm(0, -limit, limit), aspect="auto")
    else:
        shades = LinearSegmentedColormap.from_list(
            "values", [to_rgba(BLUE, 0), to_rgba(BLUE, SHADED)]
        )
        axes.imshow(table, cmap=shades, aspect="auto")
    for (row, column), value in np.ndenumerate(table):
        if not np.isnan(value):
            text = f"{value:+.1f}" if is_difference else f"{value:.1f}"
            axes.text(column, row, text, ha="center", va="center", color=BLACK, fontsize=SMALL)
    axes.grid(visible=False)
    axes.tick_params(length=0)
