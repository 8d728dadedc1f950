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
    WIDTH,
    legend_above,
    log_axis,
    method_style,
    new_figure,
    panels,
    with_style,
)

Floats = NDArray[np.float64]

TERMS = {
    "cross_entropy": "cross-entropy",
    "batchnorm": "BatchNorm matching",
    "conv": "convolution matching",
    "flatness": "flatness",
    "absorption": "absorption",
    "extra": "your own term",
    "densification": "densification",
    "densification_gradient": "gradient of densification",
}
"""Entries of a trace's rows -> their titles in the figure."""

LOSSES = {
    "": "training loss",
    "mse_gt": "squared error to soft labels, and cross-entropy",
    "kl": "KL divergence from soft labels",
    "cosine": "1 - cosine of logits and soft labels",
    "hard": "cross-entropy with hard labels",
}
"""Kinds of losses (`evaluation.loss`) -> titles of their panels."""

LEAST_SPAN = 5.0  # points that an axis of accuracies shows at least: less may be one test picture

LOG_FROM = 20.0  # largest over smallest value from which an axis is logarithmic


class TrainingCurve(NamedTuple):
    """The training of one network.

    Attributes:
        epochs: Epochs after which the network was tested.
        top1: Accuracy at each test, in percent.
        losses: Mean loss of each epoch.
        kind: Kind of loss, one of `LOSSES`.
    """

    epochs: Sequence[int]
    top1: Sequence[float]
    losses: Sequence[float]
    kind: str = ""


@with_style
def draw_training(runs: Mapping[str, Sequence[TrainingCurve]], methods: bool = False) -> Figure:
    """Draw losses, a panel for each kind, and test accuracy over the epochs of training.

    Args:
        runs: Name -> networks, one for each seed; a curve is their mean, a band their range.
        methods: Whether the names are methods, which have fixed colors.
    """
    kinds = list(dict.fromkeys(histories[0].kind for histories in runs.values()))
    figure, grid = panels(len(kinds) + 1, 1, 1.6, sharex=True)
    *losses, top1 = grid
    for index, (name, histories) in enumerate(runs.items()):
        style = method_style(name)
        look = (
            {"color": style.color, "linestyle": style.dashes}
            if methods
            else {"color": CYCLE[index % len(CYCLE)]}
        )
        length = min(len(history.losses) for history in histories)
        table = np.array([history.losses[:length] for history in histories])
        panel = losses[kinds.index(histories[0].kind)]
        _band(panel, np.arange(1, length + 1), table, name, look)
        epochs = min((history.epochs for history in histories), key=len)
        table = np.array([history.top1[: len(epochs)] for history in histories])
        mark = {**look, "marker": "o"}
        if methods:
            mark |= {"marker": style.marker, "markerfacecolor": style.face}
        _band(top1, np.array(epochs), table, name, mark)
    for panel, kind in zip(losses, kinds, strict=True):
        _log_if_wide(panel)
        panel.set_title(LOSSES.get(kind, kind), loc="left")
    top1.set_title("test accuracy, %", loc="left")
    low, high = top1.get_ylim()
    if high - low < LEAST_SPAN:
        top1.set_ylim((low + high - LEAST_SPAN) / 2, (low + high + LEAST_SPAN) / 2)
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
    figure, axes = _term_panels(len(terms))
    for panel, term in zip(axes, terms, strict=True):
        if term.startswith("densification"):  # does not depend on the teacher
            _draw_term(panel, rows, term, GRAY, None)
        else:
            for teacher, color in zip(teachers, CYCLE * len(teachers), strict=False):
                teacher_rows = [row for row in rows if row["teacher"] == teacher]
                _draw_term(panel, teacher_rows, term, color, teacher)
        _log_if_wide(panel)
        panel.set_title(f"{TERMS[term]}{' (log)' if panel.get_yscale() == 'log' else ''}")
    for panel in axes[-2:]:
        panel.set_xlabel("step")
    figure.supylabel("value, before its weight", fontsize=NORMAL)
    legend_above(figure, axes)
    return figure


def _term_panels(number: int) -> tuple[Figure, list[Axes]]:
    """Panels in two columns, each with its own scale; of an odd number, the first has a row."""
    rows = math.ceil(number / 2)
    figure = new_figure(WIDTH, 1.6 * rows)
    grid = figure.add_gridspec(rows, 2)
    cells = [grid[row, column] for row in range(rows) for column in range(2)]
    if number % 2:
        cells[:2] = [grid[0, :]]
    axes = [figure.add_subplot(cell) for cell in cells]
    axes[0].xaxis.set_major_locator(MaxNLocator(4, integer=True))  # shared by all
    for panel in axes[1:]:
        panel.sharex(axes[0])
    return figure, axes


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
