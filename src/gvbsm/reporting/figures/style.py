"""The style of all figures: colors, text, legends, axes, and the bytes of a file.

Colors are those of Okabe and Ito, distinct for all kinds of color vision
(https://jfly.uni-koeln.de/color/). Text is never parsed as mathematics, because names of classes
and networks may contain `$` or `_`.
"""

from __future__ import annotations

import io
import itertools
import math
import re
import warnings
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import wraps
from typing import Any, Literal, NamedTuple, ParamSpec

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import Collection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullFormatter, NullLocator

from gvbsm.config.build import images_of
from gvbsm.files.sizes import ROUNDED_UP, three_digits
from gvbsm.store.showing.fonts import DEJAVU, use_fallback_fonts

P = ParamSpec("P")

WIDTH = 4.8
"""Inches: half the width of a page; text stays readable at the width of a phone."""

SMALL, NORMAL, LARGE = 8.0, 9.0, 10.0  # points

BLACK, ORANGE, SKY, GREEN = "#000000", "#E69F00", "#56B4E9", "#009E73"
YELLOW, BLUE, VERMILION, PURPLE = "#F0E442", "#0072B2", "#D55E00", "#CC79A7"
BROWN, INDIGO, SILVER = "#8C564B", "#3F3FBF", "#999999"
GRAY, PALE, INK, GRID = "#666666", "#D9D9D9", "#333333", "#E6E6E6"
WHITE = "#FFFFFF"  # the page

COLORS = {
    "black": BLACK,
    "orange": ORANGE,
    "sky": SKY,
    "green": GREEN,
    "yellow": YELLOW,
    "blue": BLUE,
    "vermilion": VERMILION,
    "purple": PURPLE,
    "brown": BROWN,
    "indigo": INDIGO,
    "silver": SILVER,
    "gray": GRAY,
    "pale": PALE,
    "ink": INK,
    "grid": GRID,
    "white": WHITE,
}
"""All colors of figures by name. The page has a variable for each, which follows its scheme."""

CYCLE = (BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY, BROWN, BLACK)
"""Colors of series other than methods: teachers, students, classes."""

_METHOD_COLORS = {
    "gvbsm": BLUE,
    "sre2l": VERMILION,
    "random": GREEN,
    "herding": PURPLE,
    "k-center": ORANGE,
    "balanced": YELLOW,
    "forgetting": BROWN,
    "curriculum": SKY,
    "full": BLACK,
    "teacher": BLACK,
    "real": BLACK,
}
_OTHER_COLORS = (SKY, GRAY, YELLOW)

RC: dict[Any, Any] = {
    "axes.axisbelow": True,
    "axes.edgecolor": GRAY,
    "axes.facecolor": "none",
    "axes.grid": True,
    "axes.labelsize": NORMAL,
    "axes.linewidth": 0.8,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlesize": NORMAL,
    "figure.constrained_layout.h_pad": 0.06,
    "figure.constrained_layout.w_pad": 0.06,
    "figure.constrained_layout.use": True,
    "figure.dpi": 72,  # a pixel is a point, the unit of an SVG
    "figure.facecolor": "none",
    "figure.titlesize": LARGE,
    "font.family": DEJAVU.family,  # part of matplotlib: figures are the same on all machines
    "font.size": NORMAL,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "legend.borderaxespad": 0.2,
    "legend.columnspacing": 1.2,
    "legend.fontsize": SMALL,
    "legend.frameon": False,
    "legend.handlelength": 1.8,
    "legend.handletextpad": 0.5,
    "lines.linewidth": 1.5,
    "lines.markersize": 5,
    "pdf.fonttype": 42,  # TrueType: text can be selected and edited
    "savefig.facecolor": "none",
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "gvbsm",  # the same ids for the same figure
    "text.parse_math": False,
    "xtick.color": GRAY,
    "xtick.labelcolor": INK,
    "xtick.labelsize": SMALL,
    "ytick.color": GRAY,
    "ytick.labelcolor": INK,
    "ytick.labelsize": SMALL,
}


_UNLABELED = re.compile(r"_(child|container)\d+|_nolegend_")
_UNWRITABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff\ufffe\uffff]")


class MethodStyle(NamedTuple):
    """Color and marker of a method; hollow marks and dashed lines for hard labels."""

    color: str
    marker: str
    hollow: bool

    @property
    def face(self) -> str:
        """Fill of the marks."""
        return WHITE if self.hollow else self.color

    @property
    def dashes(self) -> str:
        """Line style."""
        return "--" if self.hollow else "-"


def method_style(method: str) -> MethodStyle:
    """The style of a method, the same in every figure.

    The color is that of the images' source. Hard labels have hollow marks, so that `random-soft`
    and `random-hard` differ only in these. An unknown name has a fixed color too.
    """
    source, hollow = images_of(method), method.endswith("-hard")
    markers = dict(zip(_METHOD_COLORS, "os^DvpP*XdX", strict=True))
    color = _METHOD_COLORS.get(source)
    if color is None:
        color = _OTHER_COLORS[zlib.crc32(source.encode()) % len(_OTHER_COLORS)]
    return MethodStyle(color, markers.get(source, "h"), hollow)


@contextmanager
def styled() -> Iterator[None]:
    """Apply the style within a block."""
    with mpl.rc_context(RC), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph")  # missing characters are drawn as boxes
        yield


def with_style(function: Callable[P, Figure]) -> Callable[P, Figure]:
    """Decorate a drawing function, so that it uses the style, and fonts that have all letters."""

    @wraps(function)
    def inside(*args: P.args, **kwargs: P.kwargs) -> Figure:
        with styled():
            figure = function(*args, **kwargs)
            use_fallback_fonts(figure)
            return figure

    return inside


def new_figure(width: float, height: float) -> Figure:
    """An empty figure without a window; width and height in inches."""
    figure = Figure(figsize=(width, height))
    FigureCanvasAgg(figure)
    return figure


def panels(rows: int, columns: int, height: float, **options: Any) -> tuple[Figure, list[Axes]]:
    """A figure of full width and its panels, row by row; `height` is a row's, in inches."""
    figure = new_figure(WIDTH, rows * height)
    grid = figure.subplots(rows, columns, squeeze=False, **options)
    return figure, list(grid.flat)


def legend_above(figure: Figure, grid: Sequence[Axes]) -> None:
    """Add one legend for all panels above them; the figure grows with the rows of the legend."""
    handles_of = {label: artist for axes in grid for label, artist in _labeled(axes)}
    if handles_of:
        names = [shorten(name, 60) for name in handles_of]
        extra_rows = max(0, math.ceil(len(names) / legend_columns(names)) - 2)
        figure.set_figheight(figure.get_figheight() + 0.17 * extra_rows)
        add_legend(figure, list(handles_of.values()), names, "outside upper center")


def _labeled(axes: Axes) -> Iterator[tuple[str, Any]]:
    """Yield what a legend of a panel lists, also labels that begin with `_`, which it leaves out.

    Matplotlib itself labels what has no label: `_child0` and so on.
    """
    drawn = (Line2D, Patch, Collection)
    artists: list[Any] = [item for item in axes.get_children() if isinstance(item, drawn)]
    for artist in [*artists, *axes.containers]:
        label = str(artist.get_label() or "")
        if label and not _UNLABELED.fullmatch(label):
            yield label, artist


def add_legend(
    figure: Figure,
    handles: Sequence[Any],
    names: Sequence[str],
    place: Literal["outside upper center", "outside lower center"],
) -> None:
    """Add a legend of full width to a figure."""
    columns = legend_columns(names)
    numbers = [str(number) for number in range(len(names))]  # `_` in front would leave one out
    legend = figure.legend(handles, numbers, loc=place, ncols=columns)
    for text, name in zip(legend.get_texts(), names, strict=True):
        text.set_text(name)


def name_numbers(figure: Figure, names: Sequence[str]) -> None:
    """List the names of numbered marks below all panels; numbers count from 1."""
    if names:
        figure.legend(
            [Line2D([], [], linestyle="none")] * len(names),
            [f"{number}  {name}" for number, name in enumerate(names, start=1)],
            loc="outside lower left",
            handlelength=0,
            handletextpad=0,
        )


def legend_columns(names: Sequence[str]) -> int:
    """Number of columns of a legend of full width."""
    width = text_width(names, SMALL) + 0.5  # with the handle and a gap
    most = max(1, int((WIDTH - 0.2) // width))
    return math.ceil(len(names) / math.ceil(len(names) / most))  # rows of equal length


def text_width(texts: Iterable[str], size: float) -> float:
    """Width of the widest text in inches, at a text size of `size` points."""
    with styled():
        figure = Figure(dpi=72)  # one pixel is one point
        FigureCanvasAgg(figure)
        written = [figure.text(0, 0, text, size=size) for text in texts]
        use_fallback_fonts(figure)
        return max((text.get_window_extent().width for text in written), default=0.0) / 72


def shorten(name: str, limit: int = 24) -> str:
    """A name on one line, of at most `limit` characters; those that no font can draw become `?`."""
    line = _UNWRITABLE.sub("?", " ".join(name.split()))
    return line if len(line) <= limit else f"{line[: limit - 1].rstrip()}…"


def compact(value: float) -> str:
    """Format a number in few characters: 50, 1.5k, 2M, 0.01, 1e-05."""
    for limit, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= ROUNDED_UP * limit:
            return f"{three_digits(value / limit)}{letter}"
    return three_digits(value)


def log_axis(axes: Axes, which: str, text: Callable[[float], str] = compact) -> None:
    """Make an axis, x or y, logarithmic; `text` formats its numbers."""
    getattr(axes, f"set_{which}scale")("log")
    axis = getattr(axes, f"{which}axis")
    low, high = sorted(getattr(axes, f"get_{which}lim")())
    narrow = high / low < 50
    axis.set_major_locator(LogLocator(subs=(1, 2, 5) if narrow else (1,), numticks=7))
    axis.set_major_formatter(FuncFormatter(lambda value, _: text(value)))
    axis.set_minor_formatter(NullFormatter())


def mark_measured(axes: Axes, values: Iterable[float]) -> None:
    """Put the ticks of the x axis at the measured points, if their labels do not overlap."""
    place = math.log if axes.get_xscale() == "log" else float
    low, high = map(place, sorted(axes.get_xlim()))
    points = sorted(set(values))
    gaps = [place(after) - place(before) for before, after in itertools.pairwise(points)]
    if min(gaps, default=high - low) > 0.08 * (high - low):
        axes.xaxis.set_major_locator(FixedLocator(points))
        axes.xaxis.set_minor_locator(NullLocator())


def figure_bytes(figure: Figure, kind: str) -> bytes:
    """The bytes of a figure's SVG or PDF file, deterministic; afterwards its layout is fixed."""
    with styled():
        if figure.axes and (engine := figure.get_layout_engine()) is not None:
            engine.execute(figure)  # by itself, since `savefig` would also draw the figure twice
            figure.set_layout_engine("none")
        if kind == "svg":
            text = io.StringIO()
            figure.savefig(text, format="svg", metadata={"Date": None})
            return _UNWRITABLE.sub("?", text.getvalue()).encode()  # XML has none of these
        buffer = io.BytesIO()
        figure.savefig(buffer, format=kind, metadata={"CreationDate": None})
        return buffer.getvalue()
