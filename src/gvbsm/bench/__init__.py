"""Benchmarks: time and memory of the method beside the bare networks.

Each number is a ratio of two things that were timed in one run, in alternating order. Networks have
random weights and data are noise: they cost as much as real ones. "Bare" is the network alone:
forward, cross-entropy and backward to the input with frozen parameters (synthesis); forward
(labels); training steps on a batch that is ready (squeeze, evaluation).
"""

from __future__ import annotations

import logging
import math
import os
import platform
from pathlib import Path
from typing import Any

from gvbsm.bench.predictions import predict, spread_over_devices
from gvbsm.bench.processes import measure_processes
from gvbsm.bench.stages import (
    measure_data,
    measure_evaluation,
    measure_labels,
    measure_pooling,
    measure_squeeze,
)
from gvbsm.bench.storage import measure_storage
from gvbsm.bench.synthesis import measure_groups, measure_synthesis
from gvbsm.config import BenchConfig
from gvbsm.engine.device import resolve_runtime
from gvbsm.pipeline.results import versions

log = logging.getLogger("gvbsm")


def run_bench(config: BenchConfig) -> dict[str, Any]:
    """Measure what the settings ask for; return JSON-like figures.

    Raises:
        RunError: If the device is not available.
    """
    runtime = resolve_runtime(
        config.device, config.precision, 0, math.inf, quiet=True, threads=config.threads
    )
    log.info("compiling and timing: some minutes for each of %s", ", ".join(config.settings))
    synthesis: dict[str, Any] = {
        name: measure_synthesis(name, config, runtime) for name in config.settings
    }
    predictions = predict(synthesis)
    figures: dict[str, Any] = {
        "synthesis": synthesis,
        "predictions": predictions,
        "devices": spread_over_devices(predictions),
    }
    if "cifar10" in config.settings:
        figures["groups"] = measure_groups(config, runtime)
        for stage in (measure_labels, measure_evaluation, measure_squeeze, measure_pooling):
            log.info("%s", stage.__name__.replace("_", " "))
            figures[stage.__name__.removeprefix("measure_")] = vars(stage(config, runtime))
        figures["data"] = measure_data(config, runtime)
        figures["storage"] = measure_storage(config, runtime)
    if config.processes:
        log.info("processes")
        figures["processes"] = measure_processes(config)
    machine = {**versions(runtime), "processor": _processor(), "cores": os.cpu_count()}
    return {**figures, "machine": machine, "repeats": config.repeats}


def _processor() -> str:
    """The CPU's name; Python knows it on few systems."""
    listing = Path("/proc/cpuinfo")
    if listing.is_file():
        for line in listing.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
