"""What accuracy costs: seconds of synthesis and stored bytes, and the sets that no other beats."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from gvbsm.reporting.figures.accuracy import TOP1
from gvbsm.reporting.figures.captions import CaptionedFigure
from gvbsm.reporting.figures.style import (
    BLACK,
    GRAY,
    SMALL,
    WIDTH,
    byte_count,
    compact,
    legend_above,
    log_axis,
    method_style,
    new_figure,
    shorten,
    with_style,
)

CLOSE = 14  # points; numbers of marks that are closer would touch
KEY_LENGTH = 74  # characters that fit a line of the figure's width
FLOOR_SECONDS = 0.1  # a logarithmic axis has no 0, and what is faster differs by chance alone


class MeasuredSet(NamedTuple):
    """A set with what it costs and what a kind of student reaches on it.

    Attributes:
        name: The point of a study; empty in a single run.
        method: Where the set comes from.
        student: The architecture.
        top1: `mean`, `std` and `values`, in percent.
        seconds: Time of the synthesis or selection; None if it is not known.
        bytes: Pixels and soft labels on disk; None if they are not known.
    """

    name: str
    method: str
    student: str
    top1: Mapping[str, Any]
    seconds: float | None
    bytes: int | None

    @property
    def costs(self) -> tuple[float | None, float | None]:
        """Seconds, of which the least are FLOOR_SECONDS, and bytes."""
        seconds = None if self.seconds is None else max(self.seconds, FLOOR_SECONDS)
        return seconds, self.bytes

    @property
    def title(self) -> str:
        """Point and method, for people."""
        return f"{self.name}, {self.method}" if self.name else self.method


def pareto(points: Sequence[tuple[float, float]]) -> list[int]:
    """The points that no other dominates: none costs as little or less and is as good or better.

    One of the two must be strict for a point to dominate, so equal points stand or fall together.

    Args:
        points: Cost and value of each; a lower cost and a higher value are better.

    Returns:
        Their places in `points`, by rising cost; of equal points in their order.

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


def fronts(spots: Sequence[MeasuredSet]) -> tuple[set[int], set[int]]:
    """Places of the spots that no other of the same student beats, by seconds and by bytes."""
    return _front(spots, 0), _front(spots, 1)


def _front(spots: Sequence[MeasuredSet], cost: int) -> set[int]:
    found: set[int] = set()
    for student in {spot.student for spot in spots}:
        known = _known(spots, student, cost)
        found |= {known[index][0] for index in pareto([(x, y) for _, x, y in known])}
    return found


def _known(spots: Sequence[MeasuredSet], student: str, cost: int) -> list[tuple[int, float, float]]:
    """Place, cost and accuracy of a student's spots whose cost is known."""
    return [
        (place, x, spot.top1["mean"])
        for place, spot in enumerate(spots)
        if spot.student == student and (x := spot.costs[cost]) is not None
    ]


def _widen(axes: Axes) -> None:
    """Let costs that are nearly the same look it: the axis spans a factor of 8 at least."""
    low, high = axes.get_xlim()
    middle = math.sqrt(low * high) if low > 0 else None
    if middle is not None and high / low < 8:
        axes.set_xlim(middle / math.sqrt(8), middle * math.sqrt(8))


@with_style
def draw_pareto(spots: Sequence[MeasuredSet]) -> Figure:
    """Accuracy against seconds (left) and bytes (right), a row of panels for each student.

    The sets on a front are joined by steps, numbered, and named below.

    Args:
        spots: The sets; one whose cost is not known is left out of that panel.
    """
    students = list(dict.fromkeys(spot.student for spot in spots))
    both = fronts(spots)
    names = list(dict.fromkeys(spots[place].title for place in sorted(both[0] | both[1])))
    numbers = {name: number for number, name in enumerate(names, start=1)}
    figure = new_figure(WIDTH, 2.5 * len(students) + 0.35 + 0.17 * len(names))
    grid = figure.subplots(len(students), 2, squeeze=False, sharex="col", sharey="row")
    for row, student in zip(grid, students, strict=True):
        row[0].set_ylabel(TOP1)
        row[0].set_title(student, loc="left")
        for cost, axes in enumerate(row):
            axes.margins(0.12, 0.12)
            _draw_sets(axes, spots, student, cost)
    for axes, text in zip(grid[-1], (compact, byte_count), strict=True):
        _widen(axes)
        log_axis(axes, "x", text)
    grid[-1][0].set_xlabel("synthesis, seconds")
    grid[-1][1].set_xlabel("pixels and soft labels")
    legend_above(figure, list(grid.flat))
    titled = {spot.title: spot for spot in spots}
    keys = [f"{number}  {_key(titled[name])}" for name, number in numbers.items()]
    figure.legend(
        [Line2D([], [])] * len(keys),
        keys,
        loc="outside lower left",
        handlelength=0,
        handletextpad=0,
    )
    figure.draw_without_rendering()  # so that it is known which marks are close
    for row, student in zip(grid, students, strict=True):
        for cost, axes in enumerate(row):
            front = sorted(
                (spots[at].costs[cost] or 0.0, spots[at].top1["mean"], numbers[spots[at].title])
                for at in both[cost]
                if spots[at].student == student
            )
            _draw_front(axes, front)
    return figure


def _key(spot: MeasuredSet) -> str:
    """Point and method on one line; of a long name the point alone is cut."""
    if not spot.name:
        return spot.method
    return f"{shorten(spot.name, KEY_LENGTH - len(spot.method))}, {spot.method}"


def _draw_sets(axes: Axes, spots: Sequence[MeasuredSet], student: str, cost: int) -> None:
    for place, x, mean in _known(spots, student, cost):
        top1, style = spots[place].top1, method_style(spots[place].method)
        if len(top1["values"]) > 1:
            axes.errorbar(x, mean, yerr=top1["std"], color=style.color, alpha=0.5, elinewidth=1)
        axes.plot(
            x,
            mean,
            style.marker,
            color=style.color,
            markerfacecolor=style.face,
            label=spots[place].method,
            zorder=3,
        )


def _draw_front(axes: Axes, front: Sequence[tuple[float, float, int]]) -> None:
    """Steps from the cheapest set to the best one, and numbers beside them.

    Above and to the left of a front there is no mark, so that this is where numbers stand; those of
    close marks stand together, by rising cost.

    Args:
        axes: A panel whose limits and size are final.
        front: Cost, accuracy and number of each set, by rising cost.
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
    in_points = 72 / axes.get_figure(root=True).dpi  # type: ignore[union-attr]
    groups: list[list[tuple[float, float, int]]] = []
    for item in front:
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
    """Distance of two marks in pixels, along the axis in which they are farther apart."""
    (x1, y1), (x2, y2) = axes.transData.transform([first[:2], second[:2]])
    return float(max(abs(x2 - x1), abs(y2 - y1)))


def pareto_figure(
    name: str, title: str, spots: Sequence[MeasuredSet], where: str
) -> CaptionedFigure | None:
    """The figure with its words; None where fewer than two sets have a known cost.

    Args:
        name: Of the files.
        title: A heading.
        spots: The sets.
        where: On which data, as it stands in the caption.
    """
    known = [spot for spot in spots if None not in spot.costs]
    if len({spot.title for spot in known}) < 2:
        return None
    return CaptionedFigure(
        name,
        title,
        "Accuracy on the real test pictures against the seconds that the synthesis of a set took "
        "(left: teachers, statistics and soft labels are not counted) and against the bytes of "
        f"its pixels and of its soft labels on disk (right){where}. Upper left is better. Both "
        "axes are logarithmic; to select real pictures takes next to no time, and all that took "
        f"less than {FLOOR_SECONDS} s stands at {FLOOR_SECONDS} s. Marks are means, bars one "
        "sample deviation of the students. Steps join the sets that no other beats in accuracy "
        "without costing more, by their means alone; numbers name them below, those of "
        "close marks together by rising cost. Hollow marks: "
        "trained with hard labels.",
        "Accuracy against seconds of synthesis and against stored bytes",
        draw_pareto(spots),
    )
