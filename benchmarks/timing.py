"""Time a step of gvbsm beside the bare step that it contains, in turns, in one process."""

from __future__ import annotations

import argparse
import math
import os
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from statistics import fmean, median, quantiles

import torch

from gvbsm.engine.device import Runtime, resolve_runtime
from gvbsm.pipeline.results import versions

Work = Callable[[], object]
Steps = Callable[[Work], None]
"""steps(after) does one step after the other without end, and calls after() behind each."""

WARMUP = 2  # first steps, which load code and allocate memory: they do not count
MOST = 8  # times the least rounds


@dataclass(frozen=True)
class Cost:
    """Seconds of a piece of work: CPU time of all threads of the process, and wall time."""

    cpu: float
    wall: float


@dataclass(frozen=True)
class Limits:
    """When a race ends: after `seconds`, but not before `rounds` or after `MOST` times as many."""

    rounds: int
    seconds: float


@dataclass(frozen=True)
class Ratio:
    """Median of ratios, and their lower and upper quartile."""

    median: float
    low: float
    high: float


@dataclass(frozen=True)
class Pair:
    """A step beside the bare step: medians of both, and the ratios full / bare of all rounds.

    A step's cost is the mean of its period.
    """

    full: Cost
    bare: Cost
    cpu: Ratio
    wall: Ratio
    rounds: int


class _EnoughError(Exception):
    """Ends the endless steps of a race."""


def clocks(device: torch.device) -> tuple[float, float]:
    """CPU time of the process and wall time now, in seconds; waits for the GPU."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.process_time(), time.perf_counter()


def cost_of(work: Work, device: torch.device) -> Cost:
    """Do a piece of work, and return its cost."""
    start = clocks(device)
    work()
    end = clocks(device)
    return Cost(end[0] - start[0], end[1] - start[1])


def repeated(work: Work) -> Steps:
    """Return endless steps of the same work."""

    def run(after: Work) -> None:
        while True:
            work()
            after()

    return run


def limited(steps: Steps, count: int, after: Work = lambda: None) -> None:
    """Do `count` of endless steps, and call `after` behind each."""
    left = iter(range(count - 1))

    def count_down() -> None:
        after()
        if next(left, None) is None:
            raise _EnoughError

    try:
        steps(count_down)
    except _EnoughError:
        return
    raise RuntimeError("the steps ended before the measurement")


def race(steps: Steps, bare: Work, period: int, limits: Limits, device: torch.device) -> Pair:
    """Time steps and a bare step in turns, so that each step lies between two bare ones.

    A round's ratio divides the steps of a period by as many means of the bare steps before and
    after each. A steady drift of the machine's speed cancels out then, and so does the order.

    Args:
        steps: Endless steps.
        bare: The bare step.
        period: Steps of a round: as many as share what is prepared for several at once.
        limits: When to end.
        device: Device of both.
    """
    full_costs: list[Cost] = []
    bare_costs: list[Cost] = []
    unused = period * -(-WARMUP // period)
    begin = time.perf_counter()
    start = clocks(device)

    def after() -> None:
        nonlocal start
        end = clocks(device)
        full_costs.append(Cost(end[0] - start[0], end[1] - start[1]))
        bare_costs.append(cost_of(bare, device))
        done, rest = divmod(len(full_costs) - unused, period)
        late = time.perf_counter() - begin >= limits.seconds
        if rest == 0 and (done >= MOST * limits.rounds or (done >= limits.rounds and late)):
            raise _EnoughError
        start = clocks(device)

    try:
        steps(after)
    except _EnoughError:
        return _pair(full_costs[unused:], bare_costs[unused - 1 :], period)
    raise RuntimeError("the steps ended before the measurement")


def _pair(full: Sequence[Cost], bare: Sequence[Cost], period: int) -> Pair:
    """Compare n steps with the n + 1 bare steps around them."""

    def ratios(clock: str) -> Iterator[float]:
        costs = [getattr(cost, clock) for cost in full]
        beside = [getattr(cost, clock) for cost in bare]
        around = [(before + after) / 2 for before, after in pairwise(beside)]
        for first in range(0, len(full), period):
            steps = slice(first, first + period)
            yield sum(costs[steps]) / sum(around[steps])

    cpu, wall = (_spread(list(ratios(clock))) for clock in ("cpu", "wall"))
    periods = [_mean(full[first : first + period]) for first in range(0, len(full), period)]
    return Pair(_median(periods), _median(bare[1:]), cpu, wall, len(periods))


def _mean(costs: Sequence[Cost]) -> Cost:
    return Cost(fmean(cost.cpu for cost in costs), fmean(cost.wall for cost in costs))


def _spread(values: Sequence[float]) -> Ratio:
    if len(values) < 2:
        return Ratio(values[0], values[0], values[0])
    low, middle, high = quantiles(values, n=4, method="inclusive")
    return Ratio(middle, low, high)


def _median(costs: Sequence[Cost]) -> Cost:
    return Cost(median(cost.cpu for cost in costs), median(cost.wall for cost in costs))


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that all benchmarks have."""
    parser.add_argument("--device", default="auto", help="cpu, cuda or cuda:N")
    parser.add_argument("--precision", default="fp32", choices=("auto", "fp32", "bf16"))
    layouts = ("contiguous", "channels-last")
    parser.add_argument("--layout", choices=layouts, help="of networks; by default the usual one")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of torch")
    parser.add_argument("--json", type=Path, help="file for the figures")


def runtime_of(options: argparse.Namespace) -> Runtime:
    """Return device, precision and memory layout as the options say."""
    runtime = resolve_runtime(
        options.device, options.precision, 0, math.inf, quiet=True, threads=options.threads
    )
    return replace(runtime, layout=options.layout)


def machine(runtime: Runtime) -> dict[str, object]:
    """Describe the machine: processor, cores, versions, and the load of the last minute."""
    load = round(os.getloadavg()[0], 1) if hasattr(os, "getloadavg") else None
    return {
        **versions(runtime),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "load": load,
    }


def _processor() -> str:
    """The CPU's name; Python knows it on few systems."""
    listing = Path("/proc/cpuinfo")
    if listing.is_file():
        for line in listing.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
