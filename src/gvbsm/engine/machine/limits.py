"""What this process may use of the machine: cores, memory, and whether there may be a GPU.

Containers and schedulers limit a process by control groups (cgroups), of version 1 or 2. The least
limit among the group of the process and the groups above it holds. Nothing here imports torch.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path

ROOT = Path("/")  # of the file system, for tests

# Devices of NVIDIA's and AMD's drivers, and of GPUs under Windows' Linux.
GPU_DEVICES = ("dev/nvidiactl", "dev/kfd", "dev/dxg")

THREADS_GAIN = 0.7  # N threads compute about N ** 0.7 times as fast as one


def usable_cores() -> int:
    """Number of cores that this process may use, or of the machine if the system has no limits."""
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    else:
        cores = os.cpu_count() or 1
    return max(1, min([cores, *map(math.ceil, _cpu_quotas())]))


def cores_each(processes: int, cores: int | None = None) -> int:
    """Number of cores of each of several processes, at least 1.

    Args:
        processes: How many processes divide the cores.
        cores: How many they divide; None are all usable ones.
    """
    return max(1, (usable_cores() if cores is None else cores) // processes)


def available_memory() -> int | None:
    """Bytes that this process may still take without swapping; None if the system does not say."""
    free = [max(0, limit - used) for limit, used in _memory_limits()]
    for line in _lines(ROOT / "proc" / "meminfo"):
        if line.startswith("MemAvailable:"):
            free.append(int(line.split()[1]) * 1024)
    return min(free, default=None)


def may_have_gpu() -> bool:
    """Whether there are devices of a GPU's driver; only torch knows whether it can use them."""
    return any((ROOT / device).exists() for device in GPU_DEVICES)


def _cpu_quotas() -> Iterator[float]:
    """Yield the number of cores of each group that has a limit."""
    for folder in _groups(""):
        quota, _, period = " ".join(_lines(folder / "cpu.max")).partition(" ")
        if quota.isdecimal() and period.isdecimal():
            yield int(quota) / int(period)
    for folder in _groups("cpu"):
        quota, period = (
            "".join(_lines(folder / f"cpu.cfs_{name}_us")) for name in ("quota", "period")
        )
        if quota.isdecimal() and period.isdecimal():  # a quota of -1 is no limit
            yield int(quota) / int(period)


def _memory_limits() -> Iterator[tuple[int, int]]:
    """Yield limit and use in bytes of each group that has a limit.

    Pages of files that are not in use are not counted: they are freed when memory is needed.
    """
    version_2 = ("memory.max", "memory.current", "inactive_file ")
    version_1 = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file ")
    for controller, (limit, use, cache) in (("", version_2), ("memory", version_1)):
        for folder in _groups(controller):
            most, used = ("".join(_lines(folder / name)) for name in (limit, use))
            if most.isdecimal() and used.isdecimal():
                stat = _lines(folder / "memory.stat")
                cached = sum(int(line.split()[1]) for line in stat if line.startswith(cache))
                yield int(most), int(used) - cached


def _groups(controller: str) -> Iterator[Path]:
    """Yield the folders of this process's group and of those above it.

    Args:
        controller: What version 1 limits there; empty is version 2.
    """
    base = ROOT / "sys" / "fs" / "cgroup" / controller
    for line in _lines(ROOT / "proc" / "self" / "cgroup"):
        _, controllers, path = line.split(":", 2)
        if controller in controllers.split(","):
            folder = base / path.lstrip("/")
            yield from (folder, *(above for above in folder.parents if above.is_relative_to(base)))
            # A container sees its own group as the root, under another path than its own.


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError:
        return []
