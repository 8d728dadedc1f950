"""Figures of accuracies: of methods, over the classes of continual learning, and by class.

Rows are those of `results.json`: `method`, `student`, `ipc` and `top1`, which has `mean`, `std`
and `values` in percent. Bars are one sample standard deviation of several values.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, to_rgba
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, MaxNLocator
from torch import Tensor

from gvbsm.reporting.figures.style import (
    BLACK,
    BLUE,
    GRAY,
    NORMAL,
    SMALL,
    WIDTH,
    MethodStyle,
    legend_above,
    method_style,
    new_figure,
    panels,
    shorten,
    text_width,
    with_style,
)

JsonRow = Mapping[str, Any]

NUMBERED_CLASSES = 12  # most classes of a confusion matrix with numbers in its cells
NAMED_CLASSES = 20  # most classes of a confusion matrix with names at its edges
TOP1 = "test accuracy, %"
ON_BLUE = "#FEFEFE"  # on cells that are blue, whether the page is light or dark


@with_style
def draw_methods(rows: Sequence[JsonRow], chance: float) -> Figure:
    """Draw the accuracy of every method, a panel for each architecture; dots are single students.

    Args:
        rows: Results; a row of `full` or `teacher` is in the panel of its architecture.
        chance: Accuracy of guessing, in percent. It is always in the label of the axis, and also a
            line if it is close to the results.
    """
    students = students_of(rows)
    student_rows = [[row for row in rows if row["student"] == student] for student in students]
    figure, grid = strip_panels([0.27 * len(panel_rows) for panel_rows in student_rows])
    for axes, student, panel_rows in zip(grid, students, student_rows, strict=True):
        for place, row in enumerate(panel_rows):
            draw_strip(axes, place, row["top1"], method_style(row["method"]))
        name_strips(axes, student, [row["method"] for row in panel_rows])
        low, high = axes.get_xlim()
        if chance > low - (high - low):
            axes.axvline(chance, color=GRAY, linestyle=":")
    grid[-1].set_xlabel(f"{TOP1} (chance: {chance:.3g})")
    return figure


def students_of(rows: Sequence[JsonRow]) -> list[str]:
    """The students in the order of the rows; teachers only if there are no students."""
    trained = [row["student"] for row in rows if row["method"] != "teacher"]
    return list(dict.fromkeys(trained or [row["student"] for row in rows]))


def strip_panels(heights: Sequence[float]) -> tuple[Figure, list[Axes]]:
    """A column of panels; `heights` are those of their strips, in inches."""
    inches = [0.55 + height for height in heights]
    figure = new_figure(WIDTH, sum(inches) + 0.3)
    return figure, list(figure.subplots(len(inches), 1, squeeze=False, height_ratios=inches).flat)


def name_strips(axes: Axes, title: str, names: Sequence[str]) -> None:
    """Name the strips of a panel from top to bottom; `a=1,b=2` takes two lines."""
    axes.set_title(title, loc="left")
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_yticks(range(len(names)), ["\n".join(strip_lines(name)) for name in names])
    axes.tick_params(axis="y", length=0, labelsize=NORMAL)
    axes.grid(visible=False, axis="y")


def strip_lines(name: str) -> list[str]:
    """The lines of a strip's name."""
    return [shorten(line) for line in re.split(r",(?=[^,=]+=)", name)]


def draw_strip(axes: Axes, place: float, top1: Mapping[str, Any], style: MethodStyle) -> None:
    """Draw the single values, their mean with its bar, and mean and deviation at the right."""
    values, several = top1["values"], len(top1["values"]) > 1
    if several:
        axes.errorbar(top1["mean"], place, xerr=top1["std"], color=style.color, capsize=3)
        axes.plot(top1["mean"], place, "|", color=style.color, markersize=11)
    axes.plot(
        values,
        [place] * len(values),
        style.marker,
        color=style.color,
        markerfacecolor=style.face,
        alpha=0.75 if several else 1,
    )
    spread = f" ± {top1['std']:.1f}" if several else ""
    write_at_right(axes, place, f"{top1['mean']:.1f}{spread}")


def write_at_right(axes: Axes, place: float, text: str) -> None:
    """Write a text beside a strip, at the right of its panel."""
    axes.annotate(
        text,
        (1, place),
        (6, 0),
        fontsize=SMALL,
        va="center",
        xycoords=axes.get_yaxis_transform(),
        textcoords="offset points",
    )


@with_style
def draw_continual(classes: Sequence[int], rows: Sequence[JsonRow]) -> Figure:
    """Draw accuracy against the number of classes so far (figure 10), a panel for each student.

    Args:
        classes: Number of classes after each step.
        rows: `method`, `student` and `steps`, which has mean, std and values over the orders.
    """
    students = students_of(rows)
    figure, grid = panels(len(students), 1, 2.5, sharex=True)
    for axes, student in zip(grid, students, strict=True):
        for row in (row for row in rows if row["student"] == student):
            style, steps = method_style(row["method"]), row["steps"]
            means = np.array([step["mean"] for step in steps])
            bars = np.array([step["std"] or 0.0 for step in steps])
            axes.plot(
                classes,
                means,
                label=row["method"],
                color=style.color,
                linestyle=style.dashes,
                marker=style.marker,
                markerfacecolor=style.face,
            )
            if len(steps[0]["values"]) > 1:
                low, high = means - bars, means + bars
                axes.fill_between(classes, low, high, color=style.color, alpha=0.15, linewidth=0)
        axes.set_ylabel(TOP1)
        axes.set_title(student, loc="left")
    few = len(classes) <= 12
    grid[-1].xaxis.set_major_locator(FixedLocator(classes) if few else MaxNLocator(integer=True))
    grid[-1].set_xlabel("classes so far")
    legend_above(figure, grid)
    return figure


@with_style
def draw_confusion(counts: Tensor, class_names: Sequence[str]) -> Figure:
    """Draw the confusion matrix of the test pictures, in percent of each true class.

    Args:
        counts: Pictures by true (row) and predicted class (column), (classes, classes).
        class_names: Names of the classes.
    """
    classes = len(class_names)
    # Rows of classes without test pictures are empty.
    share = 100 * counts.double() / counts.sum(dim=1, keepdim=True)
    figure, (axes,) = panels(1, 1, 4.1)
    shades = LinearSegmentedColormap.from_list("shares", [to_rgba(BLUE, 0), to_rgba(BLUE)])
    image = axes.imshow(share.numpy(), cmap=shades, vmin=0, vmax=100, interpolation="none")
    axes.grid(visible=False)
    axes.spines[:].set_visible(True)
    axes.set(xlabel="predicted class", ylabel="true class")
    if classes <= NAMED_CLASSES:
        names = [shorten(name, 16) for name in class_names]
        axes.set_yticks(range(classes), names)
        is_wide = text_width(names, SMALL) > 3.4 / classes
        axes.set_xticks(range(classes), names, rotation=90 if is_wide else 0)
        axes.tick_params(length=0)
    if classes <= NUMBERED_CLASSES:
        for (row, column), value in np.ndenumerate(share.numpy()):
            color = ON_BLUE if value > 55 else BLACK
            text = f"{value:.0f}" if value >= 0.5 else ""
            axes.text(column, row, text, ha="center", va="center", color=color, fontsize=SMALL)
    bar = figure.colorbar(image, ax=axes, shrink=0.8, pad=0.02)
    bar.outline.set_visible(False)
    bar.set_label("share of the true class, %")
    return figure
