"""How the cost of each stage grows with classes, images per class, pixels and backbones.

    python benchmarks/scaling.py --figure docs/scaling.svg       # some minutes on one core

One number varies at a time, over four sizes; the others stay those of `BASE`. The cost is the CPU
time of the process, the least of all rounds. The slope is that of a line through the logarithms: 1
means proportional, 0 independent. Networks are small and trainings short, so that only the slopes
mean something.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from torch import nn

from contests import StepKeeper
from gvbsm.config import Config
from gvbsm.config.build import as_config
from gvbsm.data.class_sizes import ImageCounts
from gvbsm.engine.device import Runtime
from gvbsm.method.matching import make_teacher
from gvbsm.stages.evaluation import fit_student
from gvbsm.stages.labels import LabelTask, generate_labels
from gvbsm.stages.statistics import StatisticsTask, record_chunks
from gvbsm.stages.supervised import PictureTraining, fit_pictures
from gvbsm.stages.synthesis import synthesize_set
from gvbsm.stages.synthesis_task import SynthesisTask
from gvbsm.store.batches import Labeler, StudentTask
from gvbsm.store.distilled import images_header, load_labels
from noise import N_P, network, noise_data, noise_statistics, teacher
from timing import add_options, cost_of, machine, runtime_of

PICTURES = 16  # real pictures of a class
# One network under four names: all cost the same.
BACKBONES = ("convnet32_d2", "convnet032_d2", "convnet0032_d2", "convnet00032_d2")
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00")  # of Okabe and Ito
STAGES = ("squeeze", "statistics", "synthesis", "labels", "evaluation")


@dataclass(frozen=True)
class Extent:
    """What a run grows with: classes, images per class, side of a picture, number of backbones."""

    classes: int = 10
    ipc: int = 10
    side: int = 32
    backbones: int = 2


BASE = Extent()
GROWTH: dict[str, tuple[int, ...]] = {
    "classes": (5, 10, 20, 40),
    "ipc": (5, 10, 20, 40),
    "side": (16, 24, 32, 48),
    "backbones": (1, 2, 3, 4),
}
TITLES = {
    "classes": "classes",
    "ipc": "images per class",
    "side": "pixels",
    "backbones": "backbones",
}


Costs = dict[str, dict[str, dict[int, float]]]
"""Seconds of CPU time by stage, by what grows, and by its value."""


class Run:
    """The stages of a small run of one extent; each can be repeated."""

    def __init__(self, extent: Extent, runtime: Runtime, folder: Path) -> None:
        self._extent, self._runtime, self._folder = extent, runtime, folder
        self._data = noise_data(PICTURES * extent.classes, extent.classes, extent.side)
        self._images = noise_data(extent.ipc * extent.classes, extent.classes, extent.side).train
        self._names = BACKBONES[: extent.backbones]
        sizes = (runtime, extent.classes, extent.side)
        self._teachers = {name: teacher(name, *sizes) for name in self._names}
        self._statistics = {
            name: noise_statistics(model, extent.classes, extent.side, by_class=False)
            for name, model in self._teachers.items()
        }
        self._config, self._labels, self._side = settings(), folder / "labels", extent.side

    def squeeze(self) -> None:
        """Train each backbone for one epoch."""
        for name in self._names:
            model = self._network(name)
            task = PictureTraining("squeeze", name, self._config.squeeze)
            keeper = StepKeeper(lambda: None)
            fit_pictures(model, self._data, task, lambda _: 0.0, self._runtime, keeper)

    def statistics(self) -> None:
        """Record the statistics of all backbones in one pass."""
        config, views = self._config.statistics, self._config.synthesis.views
        with tempfile.TemporaryDirectory(dir=self._folder) as folder:
            task = StatisticsTask(config, views, Path(folder), {})
            record_chunks(self._teachers, self._data, task, self._runtime)

    def synthesis(self) -> None:
        """Optimize all images for a few iterations."""
        config, side = self._config.synthesis, self._side
        targets = [
            make_teacher(name, model, self._statistics[name], config, N_P, (3, side, side))
            for name, model in self._teachers.items()
        ]
        counts = ImageCounts.even(self._extent.classes, self._extent.ipc)
        header = images_header("noise", {}, self._data)
        task = SynthesisTask(config, targets, self._statistics, self._data, counts, N_P)
        with tempfile.TemporaryDirectory(dir=self._folder) as folder:
            synthesize_set(task, self._runtime, Path(folder) / "images.safetensors", header)

    def labels(self) -> None:
        """Label all images by all backbones for a few epochs; `evaluation` reads these labels."""
        shutil.rmtree(self._labels, ignore_errors=True)
        normalization, config = self._data.normalization, self._config.labels
        task = LabelTask(self._images.images, self._extent.classes, config, normalization)
        generate_labels(task, list(self._teachers.values()), self._runtime, self._labels, {})

    def evaluation(self) -> None:
        """Train one student on images and labels."""
        config, normalization = self._config, self._data.normalization
        images, hard = self._images.images, self._images.labels
        stored = load_labels(self._labels)
        labeler = Labeler(len(images), self._side, config.labels, self._runtime, stored, [])
        task = StudentTask(images, hard, labeler, normalization, config.evaluation, config.labels)
        keeper = StepKeeper(lambda: None)
        fit_student(self._network(BACKBONES[0]), task, "scaling", None, self._runtime, keeper)

    def _network(self, name: str) -> nn.Module:
        return network(name, self._runtime, self._extent.classes, self._side)


def settings() -> Config:
    """Return the settings of `cifar10` with short trainings in batches of 50."""
    config = as_config("cifar10")
    return replace(
        config,
        squeeze=replace(config.squeeze, epochs=1, tests=1, batch_size=40),
        statistics=replace(config.statistics, batch_size=40),
        synthesis=replace(config.synthesis, iterations=8, compile="never"),
        labels=replace(config.labels, epochs=4, batch_size=50, full_batch_up_to=0),
        evaluation=replace(config.evaluation, tests=1, batch_size=50),
    )


def measure(rounds: int, runtime: Runtime) -> Costs:
    """Seconds of CPU time of each stage, by what grows and its value; the least of all rounds.

    The first round warms up and does not count.
    """
    extents = {
        (name, value): replace(BASE, **{name: value})
        for name, values in GROWTH.items()
        for value in values
    }
    seconds: dict[tuple[Extent, str], float] = {}
    for number in range(rounds + 1):
        for extent in dict.fromkeys(extents.values()):
            with tempfile.TemporaryDirectory() as folder:
                run = Run(extent, runtime, Path(folder))
                for stage in STAGES:
                    cost = cost_of(getattr(run, stage), runtime.device).cpu
                    if number:
                        seconds[extent, stage] = min(cost, seconds.get((extent, stage), cost))
    return {
        stage: {
            name: {value: seconds[extents[name, value], stage] for value in values}
            for name, values in GROWTH.items()
        }
        for stage in STAGES
    }


def slope(costs: Mapping[int, float], power: int = 1) -> float:
    """Slope of the line through the logarithms of value ** power and cost."""
    values = power * np.log(list(costs))
    return float(np.polyfit(values, np.log(list(costs.values())), 1)[0])


def rounded(value: float) -> str:
    """Format a slope with two digits; a negative zero loses its sign."""
    return f"{round(value, 2) + 0.0:.2f}"


def slopes(
    measured: Costs,
) -> dict[str, dict[str, float]]:
    """Slopes by stage and by what grows; a picture's pixels are the square of its side."""
    return {
        stage: {name: slope(costs, 2 if name == "side" else 1) for name, costs in growth.items()}
        for stage, growth in measured.items()
    }


def draw(measured: Costs, path: Path) -> None:
    """Draw cost over size, a panel for each size, with the fitted lines; save as SVG."""
    mpl.rcParams["svg.hashsalt"] = "gvbsm"  # else the file differs from run to run
    figure = Figure(figsize=(9.0, 4.2), layout="constrained")
    panels = figure.subplots(1, len(GROWTH), sharey=True)
    for panel, (name, values) in zip(panels, GROWTH.items(), strict=True):
        power = 2 if name == "side" else 1
        x = np.array(values, dtype=float) ** power
        for stage, color in zip(STAGES, COLORS, strict=True):
            costs = measured[stage][name]
            steepness = slope(costs, power)
            y = np.array(list(costs.values()))
            line = np.exp(np.log(y).mean() + steepness * (np.log(x) - np.log(x).mean()))
            panel.plot(x, y, "o", color=color, markersize=4)
            panel.plot(x, line, color=color, linewidth=1, label=f"{stage} {rounded(steepness)}")
        panel.set(xscale="log", yscale="log", xlabel=TITLES[name])
        panel.set_xticks(x, [f"{value:.0f}" for value in x], fontsize=7)
        panel.minorticks_off()
        above = {"loc": "lower center", "bbox_to_anchor": (0.5, 1.0)}
        panel.legend(fontsize=8, frameon=False, title="slope", title_fontsize=8, **above)
        panel.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("seconds of CPU time")
    figure.savefig(path, format="svg", metadata={"Date": None})


def table(fitted: Mapping[str, Mapping[str, float]]) -> str:
    """Format the slopes as a Markdown table, a row for each stage."""
    lines = [f"| slope | {' | '.join(TITLES.values())} |", "|---" * (len(TITLES) + 1) + "|"]
    for stage, row in fitted.items():
        lines.append(f"| {stage} | {' | '.join(rounded(row[name]) for name in TITLES)} |")
    return "\n".join(lines)


def main() -> None:
    """Measure, print the table of slopes, draw the figure, and write the figures to `--json`."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_options(parser)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--figure", type=Path, help="file for the figure, SVG")
    options = parser.parse_args()
    runtime = runtime_of(options)
    print(", ".join(f"{key} {value}" for key, value in machine(runtime).items()), flush=True)
    measured = measure(options.rounds, runtime)
    fitted = slopes(measured)
    print(table(fitted))
    if options.figure is not None:
        draw(measured, options.figure)
    if options.json is not None:
        figures = {"machine": machine(runtime), "seconds": measured, "slopes": fitted}
        options.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
