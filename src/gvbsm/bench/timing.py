"""Times and bytes of two things, measured in one run."""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import torch

from gvbsm.engine.device import Runtime

Work = Callable[[], object]

CLEAR_REFS = Path("/proc/self/clear_refs")


@dataclass(frozen=True)
class Pair:
    """Two things timed in turns; seconds are medians, `low` and `high` the ratios' range."""

    bare: float
    full: float
    ratio: float
    low: float
    high: float


def seconds_of(work: Work, runtime: Runtime) -> float:
    """Seconds that a piece of work takes; on a GPU, until the device has ended it."""
    if runtime.device.type == "cuda":
        torch.cuda.synchronize(runtime.device)
    start = time.perf_counter()
    work()
    if runtime.device.type == "cuda":
        torch.cuda.synchronize(runtime.device)
    return time.perf_counter() - start


def compare(bare: Work, full: Work, repeats: int, runtime: Runtime) -> Pair:
    """Time two things in alternating order, after one round that does not count."""
    rounds = []
    for number in range(repeats + 1):
        order = (bare, full) if number % 2 else (full, bare)
        seconds = {work: seconds_of(work, runtime) for work in order}
        rounds.append((seconds[bare], seconds[full]))
    ratios = [b / a for a, b in rounds[1:]]
    first, second = (median(column) for column in zip(*rounds[1:], strict=True))
    return Pair(first, second, median(ratios), min(ratios), max(ratios))


@contextmanager
def high_water(runtime: Runtime) -> Iterator[Callable[[], float]]:
    """Yield a function that returns the peak of bytes in use since now, less those of now."""
    if runtime.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(runtime.device)
        before = torch.cuda.memory_allocated(runtime.device)
        yield lambda: torch.cuda.max_memory_allocated(runtime.device) - before
        return
    with suppress(AttributeError):  # another C library than glibc
        ctypes.CDLL(None).malloc_trim(0)  # give free memory back, so that using it again counts
    CLEAR_REFS.write_text("5")  # resets the high-water mark (Linux)
    taken = resident("VmRSS")
    yield lambda: resident("VmHWM") - taken


def resident(field: str) -> float:
    """Bytes of this process in memory, from a field of Linux's /proc."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(float(line.split()[1]) * 1024 for line in lines if line.startswith(field))
