"""Figures over time: training of teachers and students, and the loss terms of the synthesis."""

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
    "extra": "your own term",
    "densification": "densification",
    "densification_gradient": "gradient of densification",
}
"""Entries of a trace's rows -> their titles in the figure."""

LOG_FROM = 20.0  # largest over smallest value from which an axis is logarithmic


class TrainingCurve(NamedTuple):
    """The training of one network.

    Attributes:
        epochs: Epochs after which the network was tested.
        top1: Accuracy at each test, in percent.
        losses: Mean loss of each epoch.
    """

    epochs: Sequence[int]
    top1: Sequence[float]
    losses: Sequence[float]


@with_style
def draw_training(runs: Mapping[str, Sequence[TrainingCurve]], methods: bool = False) -> Figure:
    """Draw loss and test accuracy over the epochs of training.

    Args:
        runs: Name -> networks, one for each seed; a curve is their mean, a band their range.
        methods: Whether the names are methods, which have fixed colors.
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
        epochs = min((history.epochs for history in histories), key=len)
        table = np.array([history.top1[: len(epochs)] for history in histories])
        mark = {**look, "marker": "o"}
        if methods:
            mark |= {"marker": style.marker, "markerfacecolor": style.face}
        _band(top1, np.array(epochs), table, name, mark)
    _log_if_wide(losses)
    losses.set_ylabel("training loss")
    top1.set_ylabel("test accuracy, %")
    top1.set_xlabel("epoch")
    top1.xaxis.set_major_locator(MaxNLocator(integer=True))
    legend_above(figure, [top1])
    return figure


def _band(axes: Axes, x: NDArray[Any], table: Floats, name: str, look: Mapping[str, Any]) -> None:
    """Draw the mean over the rows of `table` (networks, points) and a band of their range."""
    many = len(x) > 30
    axes.plot(x, table.mean(axis=0), label=name, markersize=0 if many else 4, **look)
    if len(table) > 1:
        low, high = table.min(axis=0), table.max(axis=0)
        axes.fill_between(x, low, high, color=look["color"], alpha=0.2, linewidth=0)


def _log_if_wide(axes: Axes) -> None:
    """Make the y axis logarithmic if the positive values span more than a factor of `LOG_FROM`.

    Values more than 8 decades below the largest, such as rounding errors of 0, are cut off.
    """
    values = np.concatenate([np.asarray(line.get_ydata(), float) for line in axes.lines])
    positive = values[values > 0]
    if positive.size and positive.max() > LOG_FROM * positive.min():
        axes.set_ylim(max(positive.min() / 1.5, positive.max() * 1e-8), positive.max() * 1.5)
        log_axis(axes, "y")


@with_style
def draw_losses(traces: Sequence[Sequence[Mapping[str, Any]]]) -> Figure:
    """Draw the loss terms of the synthesis over its steps, a line for each teacher.

    Pale dots are logged steps (means over all batches of images), lines their running median. The
    scale of a teacher's terms depends on its layers, so teachers are not averaged.

    Args:
        traces: For each batch of images, its rows: `step`, `teacher` and the terms of `TERMS`.
    """
    rows = _mean_rows(traces)
    terms = [term for term in TERMS if any(row.get(term) for row in rows)]
    teachers = list(dict.fromkeys(row["teacher"] for row in rows))
    columns = min(2, len(terms))
    figure, axes = panels(math.ceil(len(terms) / columns), columns, 1.7, sharex=True)
    for panel, term in zip(axes, terms, strict=False):
        if term.startswith("densification"):  # does not depend on the teacher
            _draw_term(panel, rows, term, GRAY, None)
        else:
            for teacher, color in zip(teachers, CYCLE * len(teachers), strict=False):
                teacher_rows = [row for row in rows if row["teacher"] == teacher]
                _draw_term(panel, teacher_rows, term, color, teacher)
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
    """Draw the dots of one term and their median; nothing if it is always 0 (no such layer)."""
    points = [(row["step"], row[term]) for row in rows if term in row]
    if any(value for _, value in points):
        steps, values = np.array(points, float).T
        axes.plot(steps, values, ".", color=color, alpha=0.3, markersize=3)
        axes.plot(steps, running_median(values), color=color, label=name)


def _mean_rows(traces: Sequence[Sequence[Mapping[str, Any]]]) -> list[dict[str, Any]]:
    """The mean over all batches, one row for each step and teacher."""

    def key(row: Mapping[str, Any]) -> tuple[int, str]:
        return row["step"], row["teacher"]

    rows = []
    all_rows = sorted((row for trace in traces for row in trace), key=key)
    for (step, teacher), same_step in groupby(all_rows, key=key):
        batch_rows = list(same_step)
        means = {
            term: float(np.mean([row[term] for row in batch_rows]))
            for term in TERMS
            if term in batch_rows[0]
        }
        rows.append({"step": step, "teacher": teacher, **means})
    return rows


def running_median(values: Floats, window: int = 9) -> Floats:
    """Running median of (n,) values; the window is shorter at the ends: (n,)."""
    half = window // 2
    windows = [values[max(0, i - half) : i + half + 1] for i in range(len(values))]
    return np.array([np.median(values) for values in windows])
