"""Curves over time: training of teachers and students, and the terms of the synthesis's loss."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from gvbsm.reporting.figures.style import (
    CYCLE,
    GRAY,
    NORMAL,
    legend_above,
    log_axis,
    method_style,
    panels,
    with_style,
)

Floats = NDArray[np.float64]

TERMS = {
    "cross_entropy": "cross-entropy",
    "batchnorm": "BatchNorm matching",
    "conv": "convolution matching",
    "flatness": "flatness",
    "densification": "densification",
    "densification_gradient": "gradient of densification",
}
"""Entries of a trace's rows -> what they are called here."""

LOG_FROM = 20.0  # largest over smallest value from which an axis is logarithmic


class TrainingCurve(NamedTuple):
    """One network's training.

    Attributes:
        epochs: Epochs after which it was tested.
        top1: Accuracy then, in percent.
        losses: Mean loss of each epoch.
    """

    epochs: Sequence[int]
    top1: Sequence[float]
    losses: Sequence[float]


@with_style
def draw_training(runs: Mapping[str, Sequence[TrainingCurve]], methods: bool = False) -> Figure:
    """Loss and test accuracy over the epochs of training.

    Args:
        runs: Name -> its networks, one for each seed; a curve is their mean, a band their range.
        methods: Whether the names are methods, which have colors of their own.
    """
    figure, (losses, top1) = panels(2, 1, 1.75, sharex=True)
    for index, (name, histories) in enumerate(runs.items()):
        style = method_style(name)
        look = (
            {"color": style.color, "linestyle": style.dashes}
            if methods
            else {"color": CYCLE[index % len(CYCLE)]}
        )
        length = min(len(history.losses) for history in histories)
        table = np.array([history.losses[:length] for history in histories])
        _band(losses, np.arange(1, length + 1), table, name, look)
        tested = min((history.epochs for history in histories), key=len)
        table = np.array([history.top1[: len(tested)] for history in histories])
        mark = {**look, "marker": "o"}
        if methods:
            mark |= {"marker": style.marker, "markerfacecolor": style.face}
        _band(top1, np.array(tested), table, name, mark)
    _log_if_wide(losses)
    losses.set_ylabel("training loss")
    top1.set_ylabel("test accuracy, %")
    top1.set_xlabel("epoch")
    top1.xaxis.set_major_locator(MaxNLocator(integer=True))
    legend_above(figure, [top1])
    return figure


def _band(axes: Axes, x: NDArray[Any], table: Floats, name: str, look: Mapping[str, Any]) -> None:
    """A curve of the mean of the rows of `table` (networks, points), in the band of their range."""
    many = len(x) > 30
    axes.plot(x, table.mean(axis=0), label=name, markersize=0 if many else 4, **look)
    if len(table) > 1:
        low, high = table.min(axis=0), table.max(axis=0)
        axes.fill_between(x, low, high, color=look["color"], alpha=0.2, linewidth=0)


def _log_if_wide(axes: Axes) -> None:
    """Make the y axis logarithmic if the values above 0 span more than a linear one can show.

    What is 8 decades below the top, as the last bits of a loss that has vanished, is cut off.
    """
    values = np.concatenate([np.asarray(line.get_ydata(), float) for line in axes.lines])
    positive = values[values > 0]
    if positive.size and positive.max() > LOG_FROM * positive.min():
        axes.set_ylim(max(positive.min() / 1.5, positive.max() * 1e-8), positive.max() * 1.5)
        log_axis(axes, "y")


@with_style
def draw_losses(traces: Sequence[Sequence[Mapping[str, Any]]]) -> Figure:
    """The terms of the synthesis's loss over its steps, each teacher by itself.

    Pale dots are logged steps (the mean of all batches of images), lines their running median.
    A teacher's terms are as large as its layers make them, hence a line for each.

    Args:
        traces: For each batch of images, its rows: `step`, `teacher` and the terms of `TERMS`.
    """
    rows = _mean_rows(traces)
    terms = [term for term in TERMS if any(row.get(term) for row in rows)]
    teachers = list(dict.fromkeys(row["teacher"] for row in rows))
    columns = min(2, len(terms))
    figure, axes = panels(math.ceil(len(terms) / columns), columns, 1.7, sharex=True)
    for panel, term in zip(axes, terms, strict=False):
        if term.startswith("densification"):  # of the images alone
            _draw_term(panel, rows, term, GRAY, None)
        else:
            for teacher, color in zip(teachers, CYCLE * len(teachers), strict=False):
                own = [row for row in rows if row["teacher"] == teacher]
                _draw_term(panel, own, term, color, teacher)
        _log_if_wide(panel)
        panel.set_title(TERMS[term])
    for panel in axes[len(terms) :]:
        panel.set_axis_off()
    for panel in axes[max(0, len(terms) - 2) : len(terms)]:
        panel.set_xlabel("step")
        panel.tick_params(labelbottom=True)
    figure.supylabel("value, before its weight", fontsize=NORMAL)
    legend_above(figure, axes)
    return figure


def _draw_term(
    axes: Axes, rows: Sequence[Mapping[str, Any]], term: str, color: str, name: str | None
) -> None:
    """One term's dots and their median; nothing where it is always 0 (no such layer)."""
    found = [(row["step"], row[term]) for row in rows if term in row]
    if any(value for _, value in found):
        steps, values = np.array(found, float).T
        axes.plot(steps, values, ".", color=color, alpha=0.3, markersize=3)
        axes.plot(steps, running_median(values), color=color, label=name)


def _mean_rows(traces: Sequence[Sequence[Mapping[str, Any]]]) -> list[dict[str, Any]]:
    """One row for each step and teacher: the mean of all batches."""

    def key(row: Mapping[str, Any]) -> tuple[int, str]:
        return row["step"], row["teacher"]

    rows = []
    for (step, teacher), same in groupby(sorted((r for t in traces for r in t), key=key), key=key):
        found = list(same)
        means = {
            term: float(np.mean([row[term] for row in found])) for term in TERMS if term in found[0]
        }
        rows.append({"step": step, "teacher": teacher, **means})
    return rows


def running_median(values: Floats, window: int = 9) -> Floats:
    """Median of each value's neighborhood, which is smaller at the ends: (n,) -> (n,)."""
    half = window // 2
    parts = [values[max(0, i - half) : i + half + 1] for i in range(len(values))]
    return np.array([np.median(part) for part in parts])
