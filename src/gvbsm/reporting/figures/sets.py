"""Sets of images through a teacher's eyes: how alike a class's images are, where they lie."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray
from torch import Tensor

from gvbsm.reporting.figures.style import (
    BLACK,
    BLUE,
    BROWN,
    GREEN,
    NORMAL,
    ORANGE,
    PALE,
    PURPLE,
    SKY,
    SMALL,
    VERMILION,
    YELLOW,
    legend_columns,
    method_style,
    panels,
    shorten,
    with_style,
)

CLASS_COLORS = (BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY, BLACK, YELLOW, BROWN, "#3F3FBF")
"""So many classes are told apart; of more, so many are picked out."""

GOLDEN = 0.618034  # its multiples spread evenly over the unit interval, in any number


@with_style
def draw_cosine(similarities: Mapping[str, Mapping[str, Tensor]]) -> Figure:
    """Mean cosine similarity of images of one class (figure 3): a dot a class, a bar their mean.

    Args:
        similarities: What is compared -> name of each set -> (classes,), NaN where a class has
            fewer than two images.
    """
    sets = list(dict.fromkeys(name for table in similarities.values() for name in table))
    figure, grid = panels(len(similarities), 1, 0.75 + 0.36 * len(sets))
    for axes, (what, table) in zip(grid, similarities.items(), strict=True):
        axes.set_title(what, loc="left")
        axes.set_ylim(len(sets) - 0.5, -0.5)
        axes.set_yticks(range(len(sets)), [shorten(name) for name in sets])
        axes.tick_params(axis="y", length=0, labelsize=NORMAL)
        axes.grid(visible=False, axis="y")
        for place, name in enumerate(sets):
            if name in table:
                _draw_cloud(axes, place, np.asarray(table[name], float), method_style(name).color)
        axes.set_xlabel("mean cosine similarity within a class")
    return figure


def _draw_cloud(axes: Axes, place: int, values: NDArray[np.float64], color: str) -> None:
    values = np.sort(values[np.isfinite(values)])
    right, aside = (1, place), (6, 0)
    text = "no pairs"  # of one image a class
    if len(values):
        spread = np.arange(len(values)) * GOLDEN % 1 - 0.5
        width = 0.1 if len(values) <= 3 else 0.55
        axes.plot(values, place + width * spread, ".", color=color, alpha=0.55, markersize=5)
        axes.plot([values.mean()] * 2, [place - 0.4, place + 0.4], color=BLACK, linewidth=2)
        text = f"{values.mean():.2f}"
    axes.annotate(
        text,
        right,
        aside,
        fontsize=SMALL,
        va="center",
        xycoords=axes.get_yaxis_transform(),
        textcoords="offset points",
    )


@with_style
def draw_tsne(
    points: Tensor,
    labels: Tensor,
    which: Tensor,
    sets: Sequence[str],
    class_names: Sequence[str],
) -> Figure:
    """A map of logits (figure 8): a panel for each set, all of one map; colors are classes.

    Args:
        points: Places of the images, (n, 2).
        labels: Their classes, (n,).
        which: Their sets, (n,): index into `sets`.
        sets: Names of the sets; one without points has no panel.
        class_names: Names of all classes.
    """
    present = sorted(set(labels.tolist()))
    picks = np.linspace(0, len(present) - 1, min(len(present), len(CLASS_COLORS))).round()
    chosen = [present[int(pick)] for pick in picks]
    shown = [index for index in range(len(sets)) if bool((which == index).any())]
    columns = min(2, len(shown))
    rows = -(-len(shown) // columns)
    figure, grid = panels(rows, columns, 2.75, sharex=True, sharey=True)
    for axes, index in zip(grid, shown, strict=False):
        axes.set_title(sets[index])
        own = which == index
        rest = own & ~sum((labels == label for label in chosen), own & False)
        axes.plot(*points[rest].T, ".", color=PALE, markersize=3)
        for label, color in zip(chosen, CLASS_COLORS, strict=False):
            axes.plot(
                *points[own & (labels == label)].T, ".", color=color, markersize=4.5, alpha=0.8
            )
    for axes in grid:
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_visible(True)
    for axes in grid[len(shown) :]:
        axes.set_axis_off()
    dots = [Line2D([], [], color=color, marker="o", linestyle="") for color in CLASS_COLORS]
    names = [shorten(class_names[label], 18) for label in chosen]
    if len(present) > len(chosen):
        dots = [*dots, Line2D([], [], color=PALE, marker="o", linestyle="")]
        names = [*names, "other classes"]
    figure.legend(
        dots[: len(names)], names, loc="outside lower center", ncols=legend_columns(names)
    )
    return figure
