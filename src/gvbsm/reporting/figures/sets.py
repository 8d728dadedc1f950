"""Figures of a teacher's features: similarity within classes, and a map of the logits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray
from torch import Tensor

from gvbsm.reporting.figures.accuracy import name_strips, write_at_right
from gvbsm.reporting.figures.style import (
    BLACK,
    BLUE,
    BROWN,
    GREEN,
    INDIGO,
    ORANGE,
    PALE,
    PURPLE,
    SKY,
    VERMILION,
    YELLOW,
    add_legend,
    method_style,
    panels,
    shorten,
    with_style,
)

CLASS_COLORS = (BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY, BLACK, YELLOW, BROWN, INDIGO)
"""Colors of classes; of more classes, as many are colored."""

GOLDEN = 0.618034  # golden ratio: its multiples modulo 1 are spread evenly


@with_style
def draw_cosine(similarities: Mapping[str, Mapping[str, Tensor]]) -> Figure:
    """Draw the mean cosine similarity within classes (figure 3): dots are classes, bars their mean.

    Args:
        similarities: Title of a panel -> name of a set -> (classes,), NaN where a class has fewer
            than two images.
    """
    sets = list(dict.fromkeys(name for table in similarities.values() for name in table))
    figure, grid = panels(len(similarities), 1, 0.75 + 0.36 * len(sets))
    for axes, (what, table) in zip(grid, similarities.items(), strict=True):
        name_strips(axes, what, sets)
        for place, name in enumerate(sets):
            if name in table:
                _draw_cloud(axes, place, np.asarray(table[name], float), method_style(name).color)
        axes.set_xlabel("mean cosine similarity within a class")
    return figure


def _draw_cloud(axes: Axes, place: int, values: NDArray[np.float64], color: str) -> None:
    values = np.sort(values[np.isfinite(values)])
    text = "no pairs"  # one image per class
    if len(values):
        spread = np.arange(len(values)) * GOLDEN % 1 - 0.5
        width = 0.1 if len(values) <= 3 else 0.55
        axes.plot(values, place + width * spread, ".", color=color, alpha=0.55, markersize=5)
        axes.plot([values.mean()] * 2, [place - 0.4, place + 0.4], color=BLACK, linewidth=2)
        text = f"{values.mean():.2f}"
    write_at_right(axes, place, text)


@with_style
def draw_tsne(
    points: Tensor,
    labels: Tensor,
    which: Tensor,
    sets: Sequence[str],
    class_names: Sequence[str],
) -> Figure:
    """Draw a map of logits (figure 8): one panel for each set; colors are classes.

    Args:
        points: Coordinates of the images, (n, 2).
        labels: Classes of the images, (n,).
        which: Sets of the images, (n,): index into `sets`.
        sets: Names of the sets; a set without points has no panel.
        class_names: Names of all classes.
    """
    present = sorted(set(labels.tolist()))
    indices = np.linspace(0, len(present) - 1, min(len(present), len(CLASS_COLORS))).round()
    colored = [present[int(index)] for index in indices]
    shown = [index for index in range(len(sets)) if bool((which == index).any())]
    columns = min(2, len(shown))
    rows = -(-len(shown) // columns)
    figure, grid = panels(rows, columns, 2.75, sharex=True, sharey=True)
    for axes, index in zip(grid, shown, strict=False):
        axes.set_title(sets[index])
        in_set = which == index
        uncolored = in_set & ~sum((labels == label for label in colored), in_set & False)
        axes.plot(*points[uncolored].T, ".", color=PALE, markersize=3)
        for label, color in zip(colored, CLASS_COLORS, strict=False):
            axes.plot(
                *points[in_set & (labels == label)].T, ".", color=color, markersize=4.5, alpha=0.8
            )
    for axes in grid:
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_visible(True)
    for axes in grid[len(shown) :]:
        axes.set_axis_off()
    dots = [Line2D([], [], color=color, marker="o", linestyle="") for color in CLASS_COLORS]
    names = [shorten(class_names[label], 18) for label in colored]
    if len(present) > len(colored):
        dots = [*dots, Line2D([], [], color=PALE, marker="o", linestyle="")]
        names = [*names, "other classes"]
    add_legend(figure, dots[: len(names)], names, "outside lower center")
    return figure
