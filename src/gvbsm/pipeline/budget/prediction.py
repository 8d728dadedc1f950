"""Predict how long runs of a data set take, for many settings, before its pictures are read."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import torch

from gvbsm.config import Config, DataConfig
from gvbsm.data.datasets import ImageData, is_kept
from gvbsm.data.epochs import settle
from gvbsm.data.pictures import Split, decode, no_progress
from gvbsm.engine.device import Runtime
from gvbsm.pipeline.evaluated_sets import evaluated_sets
from gvbsm.pipeline.forms.choice import coming_trials
from gvbsm.pipeline.planning.costs import MeasuredCosts
from gvbsm.pipeline.planning.estimate import plan_run
from gvbsm.pipeline.planning.planner import in_raced_forms, measured_costs
from gvbsm.pipeline.planning.process_plan import ProcessPlan

FEW = 48  # pictures that are decoded to time the reading of all


class Prediction:
    """How long a run takes; networks are raced and timed once for each side of the pictures.

    Args:
        data: The pictures, listed but not read (`survey_dataset`).
        runtime: Device and threads of the run.
        processes: The processes of the run.
        workdir: The work directory; what it holds already takes its time all the same.
    """

    def __init__(
        self, data: ImageData, runtime: Runtime, processes: ProcessPlan, workdir: Path
    ) -> None:
        self._listed, self._runtime = data, runtime
        self._processes, self._workdir = processes, workdir
        self._costs: dict[int, tuple[ImageData, MeasuredCosts, float]] = {}

    def __call__(self, config: Config) -> float:
        """Return the seconds of a run of these settings."""
        config = settle(config, self._listed.class_names)
        side = config.data.image_size or self._listed.image_size
        if side not in self._costs:
            self._costs[side] = self._measured(config, side)
        data, costs, reading = self._costs[side]
        sets = list(evaluated_sets(config, self._workdir))
        trials = coming_trials(config, sets, data, costs.runtime, self._workdir / "forms.json")
        plan = plan_run(config, sets, data, costs, self._processes).with_trials(trials)
        return reading + plan.seconds

    def _measured(self, config: Config, side: int) -> tuple[ImageData, MeasuredCosts, float]:
        """Return stand-ins for the pictures at a side, the costs, and the seconds of reading."""
        data, reading = self._pictures_at(side, config.data)
        sets = list(evaluated_sets(config, self._workdir))
        runtime = in_raced_forms(config, sets, data, self._runtime, self._workdir)
        return data, measured_costs(config, data, runtime), reading

    def _pictures_at(self, side: int, config: DataConfig) -> tuple[ImageData, float]:
        """Return the pictures as a run would hold them, and the seconds of reading them."""
        data, paths = replace(self._listed, image_size=side), self._listed.train.paths
        if paths is None:
            return _black(data), 0.0
        count = len(data.train) + len(data.test)
        if not is_kept(config, count, data.channels, side):
            return data, 0.0
        some = paths[:: max(1, len(paths) // FEW)]
        start = time.perf_counter()
        list(decode(some, data.channels, side, no_progress))
        return _black(data), (time.perf_counter() - start) / len(some) * count


def _black(data: ImageData) -> ImageData:
    """Put black pictures, which take no memory, in the place of the real ones."""
    black = torch.zeros(1, data.channels, data.image_size, data.image_size, dtype=torch.uint8)
    train, test = (
        Split(split.labels, black.expand(len(split), -1, -1, -1))
        for split in (data.train, data.test)
    )
    return replace(data, train=train, test=test)
