"""Statistics of the real data in each layer of the teachers (figure 9)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from gvbsm.reporting.figures.style import (
    BLUE,
    NORMAL,
    VERMILION,
    WHITE,
    legend_above,
    panels,
    with_style,
)

_KINDS = {"BatchNorm": (VERMILION, "s"), "convolution": (BLUE, "o")}


class LayerStatistics(NamedTuple):
    """One layer's global statistics.

    Attributes:
        kind: Which layer.
        mean: Mean of each channel, (channels,).
        variance: Variance of each channel, (channels,).
    """

    kind: Literal["BatchNorm", "convolution"]
    mean: Tensor
    variance: Tensor


@with_style
def draw_statistics(teachers: Mapping[str, Sequence[LayerStatistics]]) -> Figure:
    """Draw the sigmoid of each layer's statistics against its index in the network (figure 9).

    As in appendix E, channel means (left) and channel variances (right) of a layer are shown by
    their mean and variance over the channels. BatchNorm and convolutions are numbered together.

    Args:
        teachers: Name -> layers, in the order of the network.
    """
    figure, grid = panels(len(teachers), 2, 1.75, sharey=True)
    for row, (name, layers) in enumerate(teachers.items()):
        for axes, what in zip(grid[2 * row : 2 * row + 2], ("mean", "variance"), strict=True):
            for kind in _KINDS:
                _draw_kind(axes, kind, layers, what)
            axes.set_ylim(-0.04, 1.04)
            axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
        grid[2 * row].set_title(f"{name}: channel means", loc="left")
        grid[2 * row + 1].set_title("channel variances", loc="left")
    for axes in grid[-2:]:
        axes.set_xlabel("layer")
    figure.supylabel("sigmoid of the statistic", fontsize=NORMAL)
    legend_above(figure, grid)
    return figure


def _draw_kind(axes: Axes, kind: str, layers: Sequence[LayerStatistics], what: str) -> None:
    color, marker = _KINDS[kind]
    places = [place for place, layer in enumerate(layers) if layer.kind == kind]
    if not places:
        return
    vectors = [getattr(layers[place], what).double() for place in places]
    lines = {
        "mean": ([vector.mean() for vector in vectors], "-", color),
        "variance": ([vector.var(correction=0) for vector in vectors], "--", WHITE),
    }
    for name, (values, dashes, face) in lines.items():
        axes.plot(
            places,
            np.asarray(torch.stack(values).sigmoid()),
            color=color,
            linestyle=dashes,
            linewidth=1,
            marker=marker,
            markersize=3,
            markerfacecolor=face,
            label=f"{kind}, {name}",
        )
