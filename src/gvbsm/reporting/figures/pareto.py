"""Accuracy against seconds of synthesis and stored bytes, with the Pareto front of the sets."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from gvbsm.files.sizes import byte_count
from gvbsm.reporting.figures.accuracy import TOP1
from gvbsm.reporting.figures.captions import CaptionedFigure
from gvbsm.reporting.figures.style import (
    BLACK,
    GRAY,
    SMALL,
    WIDTH,
    compact,
    legend_above,
    log_axis,
    method_style,
    name_numbers,
    new_figure,
    shorten,
    with_style,
)

CLOSE = 14  # points: numbers of marks at a smaller distance would overlap
KEY_LENGTH = 74  # characters on a line of the figure's width
DIGITS = 3  # of a cost: sets whose costs are equal in these cost the same
SET_BYTES = "pixels and soft labels"  # label of an axis
FLOOR_SECONDS = 0.1  # shorter times are drawn here: a logarithmic axis has no 0


class MeasuredSet(NamedTuple):
    """A set of images with its costs and the accuracy of one architecture on it.

    Attributes:
        name: The point of a study; empty in a single run.
        method: Method of the images and labels.
        student: The architecture.
        top1: `mean`, `std` and `values`, in percent.
        seconds: Time of the synthesis or selection; None if it is unknown.
        bytes: Pixels and soft labels on disk; None if they are unknown.
    """

    name: str
    method: str
    student: str
    top1: Mapping[str, Any]
    seconds: float | None
    bytes: int | None

    @property
    def costs(self) -> tuple[float | None, float | None]:
        """Seconds, at least `FLOOR_SECONDS`, and bytes."""
        seconds = None if self.seconds is None else max(self.seconds, FLOOR_SECONDS)
        return seconds, self.bytes

    @property
    def title(self) -> str:
        """Point and method, as tables and figures show them."""
        return f"{self.name}, {self.method}" if self.name else self.method


def pareto(points: Sequence[tuple[float, float]]) -> list[int]:
    """The Pareto front: the points that no other point dominates.

    A point dominates another if its cost is not higher and its value not lower, and one of the two
    is better. Equal points do not dominate each other.

    Args:
        points: Cost and value of each point; a lower cost and a higher value are better.

    Returns:
        Indices into `points`, by rising cost; equal points in their order.

    Raises:
        ValueError: If a number is NaN.
    """
    if any(math.isnan(number) for point in points for number in point):
        raise ValueError("points of a Pareto front must be numbers, found NaN")
    front: list[int] = []
    for place in sorted(range(len(points)), key=lambda at: (points[at][0], -points[at][1])):
        if (
            not front
            or points[place][1] > points[front[-1]][1]
            or points[place] == points[front[-1]]
        ):
            front.append(place)
    return front


def fronts(sets: Sequence[MeasuredSet]) -> tuple[set[int], set[int]]:
    """Indices of the sets on each student's Pareto fronts, by seconds and by bytes.

    Costs are compared in `DIGITS` digits, so that the bytes of a header decide nothing.
    """
    return _front(sets, 0), _front(sets, 1)


def _front(sets: Sequence[MeasuredSet], cost: int) -> set[int]:
    front: set[int] = set()
    for student in {measured.student for measured in sets}:
        known = _known(sets, student, cost)
        points = [(float(f"{x:.{DIGITS}g}"), y) for _, x, y in known]
        front |= {known[index][0] for index in pareto(points)}
    return front


def _known(sets: Sequence[MeasuredSet], student: str, cost: int) -> list[tuple[int, float, float]]:
    """Index, cost and accuracy of a student's sets whose cost is known."""
    return [
        (place, x, measured.top1["mean"])
        for place, measured in enumerate(sets)
        if measured.student == student and (x := measured.costs[cost]) is not None
    ]


def _widen(axes: Axes) -> None:
    """Let the axis span a factor of at least 8, so that nearly equal costs look nearly equal."""
    low, high = axes.get_xlim()
    middle = math.sqrt(low * high) if low > 0 else None
    if middle is not None and high / low < 8:
        axes.set_xlim(middle / math.sqrt(8), middle * math.sqrt(8))


@with_style
def draw_pareto(sets: Sequence[MeasuredSet]) -> Figure:
    """Draw accuracy against seconds (left) and bytes (right), a row of panels for each student.

    Steps connect the sets of a front. Those of a study are numbered, and named below the panels.

    Args:
        sets: The sets; a set whose cost is unknown is left out of that panel.
    """
    students = list(dict.fromkeys(measured.student for measured in sets))
    both = fronts(sets)
    fronted = [sets[place] for place in sorted(both[0] | both[1])]
    names = list(dict.fromkeys(measured.title for measured in fronted if measured.name))
    numbers = {name: number for number, name in enumerate(names, start=1)}
    figure = new_figure(WIDTH, 2.5 * len(students) + 0.35 + 0.17 * len(names))
    grid = figure.subplots(len(students), 2, squeeze=False, sharex="col", sharey="row")
    for row, student in zip(grid, students, strict=True):
        row[0].set_ylabel(TOP1)
        row[0].set_title(student, loc="left")
        for cost, axes in enumerate(row):
            axes.margins(0.12, 0.12)
            _draw_sets(axes, sets, student, cost)
    for axes, text in zip(grid[-1], (compact, byte_count), strict=True):
        _widen(axes)
        log_axis(axes, "x", text)
    grid[-1][0].set_xlabel("synthesis, seconds")
    grid[-1][1].set_xlabel(SET_BYTES)
    legend_above(figure, list(grid.flat))
    titled = {measured.title: measured for measured in sets}
    name_numbers(figure, [_key(titled[name]) for name in names])
    if names:
        figure.draw_without_rendering()  # sets the limits, to find marks that are close
    for row, student in zip(grid, students, strict=True):
        for cost, axes in enumerate(row):
            front = sorted(
                (sets[at].costs[cost] or 0.0, sets[at].top1["mean"], numbers.get(sets[at].title, 0))
                for at in both[cost]
                if sets[at].student == student
            )
            _draw_front(axes, front)
    return figure


def _key(measured: MeasuredSet) -> str:
    """Point and method on one line; a long name of the point is shortened."""
    if not measured.name:
        return measured.method
    return f"{shorten(measured.name, KEY_LENGTH - len(measured.method))}, {measured.method}"


def _draw_sets(axes: Axes, sets: Sequence[MeasuredSet], student: str, cost: int) -> None:
    for place, x, mean in _known(sets, student, cost):
        top1, style = sets[place].top1, method_style(sets[place].method)
        if len(top1["values"]) > 1:
            axes.errorbar(x, mean, yerr=top1["std"], color=style.color, alpha=0.5, elinewidth=1)
        axes.plot(
            x,
            mean,
            style.marker,
            color=style.color,
            markerfacecolor=style.face,
            label=sets[place].method,
            zorder=3,
        )


def _draw_front(axes: Axes, front: Sequence[tuple[float, float, int]]) -> None:
    """Draw steps from the cheapest set to the best one, and numbers beside the sets.

    Numbers are above and to the left of the front, where there are no marks. Numbers of close marks
    are written together, by rising cost.

    Args:
        axes: A panel with final limits and size.
        front: Cost, accuracy and number of each set, by rising cost; no text for a number of 0.
    """
    axes.plot(
        [x for x, _, _ in front],
        [y for _, y, _ in front],
        color=GRAY,
        linewidth=1,
        drawstyle="steps-post",
        zorder=1,
        scalex=False,
        scaley=False,
    )
    in_points = 72 / axes.figure.dpi
    groups: list[list[tuple[float, float, int]]] = []
    for item in front:
        if not item[2]:
            continue
        before = groups[-1][-1] if groups else None
        if before and _apart(axes, before, item) * in_points < CLOSE:
            groups[-1].append(item)
        else:
            groups.append([item])
    for group in groups:
        text = axes.annotate(
            ", ".join(str(number) for _, _, number in group),
            (group[0][0], group[-1][1]),
            (-4, 4),
            textcoords="offset points",
            fontsize=SMALL,
            color=BLACK,
            ha="right",
            va="bottom",
        )
        text.set_in_layout(False)


def _apart(axes: Axes, first: tuple[float, float, int], second: tuple[float, float, int]) -> float:
    """Distance of two marks in pixels: the larger of the horizontal and the vertical one."""
    (x1, y1), (x2, y2) = axes.transData.transform([first[:2], second[:2]])
    return float(max(abs(x2 - x1), abs(y2 - y1)))


def pareto_figure(
    name: str, title: str, sets: Sequence[MeasuredSet], where: str
) -> CaptionedFigure | None:
    """Draw the figure with its caption; None if fewer than two sets have known costs."""
    known = [measured for measured in sets if None not in measured.costs]
    if len({measured.title for measured in known}) < 2:
        return None
    numbered = " Numbers refer to the list below." if any(item.name for item in known) else ""
    return CaptionedFigure(
        name,
        title,
        "Accuracy on the real test pictures against the seconds of the synthesis (left; without "
        "teachers, statistics and soft labels) and against the bytes of pixels and soft labels on "
        f"disk (right){where}. Upper left is better. Both axes are logarithmic. Times below "
        f"{FLOOR_SECONDS} s, such as those of selecting real pictures, are drawn at "
        f"{FLOOR_SECONDS} s. Marks are means, bars one sample standard deviation of the students. "
        "Steps connect the sets that are the most accurate at their cost, by their means."
        f"{numbered} Hollow marks: trained with hard labels.",
        "Accuracy against seconds of synthesis and against stored bytes",
        draw_pareto(sets),
    )
