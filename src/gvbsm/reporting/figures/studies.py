"""Figures of studies: accuracy at named points, over a number, and against a cost.

Rows are those of `results.json`; rows of points have more keys, which the functions name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from gvbsm.files.sizes import byte_count
from gvbsm.reporting.figures.accuracy import (
    TOP1,
    JsonRow,
    draw_strip,
    name_strips,
    strip_lines,
    strip_panels,
    students_of,
)
from gvbsm.reporting.figures.pareto import SET_BYTES, pareto
from gvbsm.reporting.figures.style import (
    BLACK,
    BLUE,
    BROWN,
    GRAY,
    SILVER,
    SMALL,
    WHITE,
    WIDTH,
    MethodStyle,
    legend_above,
    log_axis,
    mark_measured,
    method_style,
    name_numbers,
    new_figure,
    panels,
    shorten,
    with_style,
)
from gvbsm.studies.published import PublishedColumn

PUBLISHED = "the paper's accuracies"  # title of their panel; its legend names student and data


@with_style
def draw_points(
    rows: Sequence[JsonRow], points: Sequence[str], published: Sequence[PublishedColumn] = ()
) -> Figure:
    """Draw accuracies at the named points of a study, a panel for each student.

    Args:
        rows: Results, each with its `point`; a result with None (the same at all points) is a line.
        points: Names of the points, in order.
        published: The paper's accuracies by point, drawn in a panel of their own.
    """
    students = students_of(rows)
    methods = list(dict.fromkeys(row["method"] for row in rows if row["point"] is not None))
    text = 0.19 * max((len(strip_lines(name)) for name in points), default=1)
    heights = [len(points) * max(0.08 + 0.2 * len(methods), text)] * len(students)
    if published:
        heights.append(len(points) * max(0.08 + 0.2 * len(published), text))
    figure, grid = strip_panels(heights)
    for axes, student in zip(grid, students, strict=False):
        for row in (row for row in rows if row["student"] == student):
            style = method_style(row["method"])
            if row["point"] is None:
                mean = row["top1"]["mean"]
                dashes = ":" if style.hollow else "--"
                axes.axvline(mean, color=style.color, linestyle=dashes, label=row["method"])
            else:
                place = points.index(row["point"]) + _aside(methods, row["method"])
                draw_strip(axes, place, row["top1"], style)
                _name_marks(axes, style, row["method"])
        name_strips(axes, student, points)
    grid[len(students) - 1].set_xlabel(TOP1)
    if published:
        _draw_published_strips(grid[-1], points, published)
    legend_above(figure, grid)
    return figure


def _name_marks(axes: Axes, style: MethodStyle, name: str) -> None:
    """Let the legend have an entry for the marks of strips."""
    axes.plot([], [], style.marker, color=style.color, markerfacecolor=style.face, label=name)


def _aside(names: Sequence[str], name: str) -> float:
    """Offset of a strip from the middle of its point, if there are several strips."""
    return (names.index(name) - (len(names) - 1) / 2) * 0.7 / len(names)


def _draw_published_strips(
    axes: Axes, points: Sequence[str], published: Sequence[PublishedColumn]
) -> None:
    headings = [column.heading for column in published]
    for number, column in enumerate(published):
        style = _published_style(number)
        for point, value in column.top1.items():
            top1 = {"mean": value, "std": None, "values": [value]}
            draw_strip(axes, points.index(point) + _aside(headings, column.heading), top1, style)
        _name_marks(axes, style, f"the paper: {column.heading}")
    name_strips(axes, PUBLISHED, points)
    axes.set_xlabel(TOP1)


def _published_style(number: int) -> MethodStyle:
    """Grays and brown, which no measured method has."""
    return MethodStyle((GRAY, BLACK, BROWN, SILVER)[number % 4], "xDvs"[number % 4], True)


@with_style
def draw_scaling(
    rows: Sequence[JsonRow],
    axis: str,
    label: str,
    scale: Literal["linear", "log", "bytes"] = "linear",
    published: Sequence[PublishedColumn] = (),
) -> Figure:
    """Draw accuracy against a quantity, a panel for each student and a line for each method.

    Args:
        rows: Results, each with its value under the key `axis`; a result with None (the whole set)
            is a horizontal line.
        axis: Key of the quantity.
        label: Name and unit of the quantity.
        scale: Scale of the axis; bytes are logarithmic, with units.
        published: The paper's accuracies by the quantity, drawn in a panel of their own.
    """
    students = students_of(rows)
    figure, grid = panels(len(students) + bool(published), 1, 2.3, sharex=True)
    for axes, student in zip(grid, students, strict=False):
        student_rows = [row for row in rows if row["student"] == student]
        for method in dict.fromkeys(row["method"] for row in student_rows):
            _draw_method(axes, [row for row in student_rows if row["method"] == method], axis)
        axes.set_title(student, loc="left")
    if published:
        _draw_published_lines(grid[-1], published)
    for axes in grid:
        axes.set_ylabel(TOP1)
    if scale == "bytes":
        log_axis(grid[-1], "x", byte_count)
    else:
        if scale == "log":
            log_axis(grid[-1], "x")
        mark_measured(grid[-1], [row[axis] for row in rows if row[axis] is not None])
    grid[-1].set_xlabel(label)
    legend_above(figure, grid)
    return figure


def _draw_method(axes: Axes, rows: Sequence[JsonRow], axis: str) -> None:
    """Draw a method's line with bars; a row without a value is a horizontal line."""
    style, name = method_style(rows[0]["method"]), rows[0]["method"]
    level = [row for row in rows if row[axis] is None]
    for row in level[:1]:
        mean = row["top1"]["mean"]
        dashes = ":" if style.hollow else "--"
        axes.axhline(mean, color=style.color, linestyle=dashes, linewidth=1.2, label=name)
    top1_at = {row[axis]: row["top1"] for row in rows if row[axis] is not None}
    if top1_at:
        x = sorted(top1_at)
        means = [top1_at[value]["mean"] for value in x]
        bars = [_bar(top1_at[value]) for value in x]
        axes.errorbar(
            x,
            means,
            yerr=bars,
            label=name,
            color=style.color,
            linestyle=style.dashes,
            marker=style.marker,
            markerfacecolor=style.face,
            capsize=2.5,
            elinewidth=1,
        )


def _bar(top1: Mapping[str, Any]) -> float:
    """Half the length of an error bar; a single value has none."""
    return float(top1["std"]) if len(top1["values"]) > 1 else 0.0


def _draw_published_lines(axes: Axes, published: Sequence[PublishedColumn]) -> None:
    for number, column in enumerate(published):
        style = _published_style(number)
        x = sorted(column.top1)
        axes.plot(
            x,
            [column.top1[place] for place in x],
            style.marker,
            color=style.color,
            markerfacecolor=style.face,
            linestyle=":",
            label=f"the paper: {column.heading}",
        )
    axes.set_title(PUBLISHED, loc="left")


class CostPoint(NamedTuple):
    """A point of a study with its cost.

    Attributes:
        name: Name of the point.
        cost: Its cost in the unit of the axis.
        top1: `mean`, `std` and `values`, in percent.
    """

    name: str
    cost: float
    top1: Mapping[str, Any]


@with_style
def draw_against_time(students: Mapping[str, Sequence[CostPoint]]) -> Figure:
    """Draw accuracy against milliseconds (figure 5); marks are numbered, and named below.

    Args:
        students: Student -> points; a point may have some of the students only.
    """
    names, figure, grid = _numbered_panels(students)
    for axes, (student, points) in zip(grid, students.items(), strict=True):
        _draw_numbered(axes, names, points, ":")
        axes.set_title(student, loc="left")
    grid[-1].set_xlabel("time of an iteration, ms")
    name_numbers(figure, [shorten(name, 60) for name in names])
    return figure


@with_style
def draw_against_bytes(
    students: Mapping[str, Sequence[CostPoint]], random: Mapping[str, Sequence[CostPoint]]
) -> Figure:
    """Draw accuracy against bytes on a logarithmic axis; marks are numbered, and named below.

    Steps connect the points that no other point beats, of the images and of random pictures.

    Args:
        students: Student -> points; a point may have some of the students only.
        random: Student -> points of random pictures with soft labels; they have no numbers, since
            each stands above or below the point of as many bytes.
    """
    names, figure, grid = _numbered_panels(students)
    for axes, (student, points) in zip(grid, students.items(), strict=True):
        style = method_style("random-soft")
        _draw_steps(axes, points, BLUE)
        if beside := random.get(student):
            _draw_steps(axes, beside, style.color)
            axes.errorbar(
                [point.cost for point in beside],
                [point.top1["mean"] for point in beside],
                yerr=[_bar(point.top1) for point in beside],
                color=style.color,
                marker=style.marker,
                markerfacecolor=style.face,
                linestyle="none",
                elinewidth=1,
                capsize=2.5,
                label="random-soft",
            )
        _draw_numbered(axes, names, points, "none")
        axes.set_title(student, loc="left")
    log_axis(grid[-1], "x", byte_count)
    grid[-1].set_xlabel(SET_BYTES)
    legend_above(figure, grid)
    name_numbers(figure, [shorten(name, 60) for name in names])
    return figure


def _numbered_panels(
    students: Mapping[str, Sequence[CostPoint]],
) -> tuple[list[str], Figure, list[Axes]]:
    """Names of the points, a figure with room for them, and its panels, one for each student."""
    names = list(dict.fromkeys(point.name for points in students.values() for point in points))
    figure = new_figure(WIDTH, 2.4 * len(students) + 0.25 + 0.17 * len(names))
    return names, figure, list(figure.subplots(len(students), 1, squeeze=False, sharex=True).flat)


def _draw_numbered(
    axes: Axes, names: Sequence[str], points: Sequence[CostPoint], line: str
) -> None:
    x = [point.cost for point in points]
    means = [point.top1["mean"] for point in points]
    axes.errorbar(
        x,
        means,
        yerr=[_bar(point.top1) for point in points],
        color=BLUE,
        ecolor=GRAY,
        marker="o",
        markersize=12,
        linewidth=0.8,
        linestyle=line,
        elinewidth=1,
        capsize=2.5,
    )
    for point, place in zip(points, zip(x, means, strict=True), strict=True):
        axes.annotate(
            str(names.index(point.name) + 1),
            place,
            fontsize=SMALL,
            color=WHITE,
            ha="center",
            va="center_baseline",
        )
    axes.margins(0.08, 0.15)
    axes.set_ylabel(TOP1)


def _draw_steps(axes: Axes, points: Sequence[CostPoint], color: str) -> None:
    """Steps from the smallest point on the Pareto front to the best one."""
    places = [(point.cost, float(point.top1["mean"])) for point in points]
    front = [places[index] for index in pareto(places)]
    axes.plot(
        [x for x, _ in front],
        [y for _, y in front],
        color=color,
        alpha=0.5,
        linewidth=1,
        drawstyle="steps-post",
        zorder=1,
    )
