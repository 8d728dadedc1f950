"""The memory of this process that is resident, and its peak: on Linux, else unknown.

Nothing here imports torch.
"""

from __future__ import annotations

import ctypes
from contextlib import suppress
from pathlib import Path

PROCESS = Path("/proc/self")
RESET_PEAK = "5"  # of clear_refs: see proc(5)


def resident_bytes() -> int | None:
    """Bytes of this process that are in memory; None if the system does not say."""
    return status_bytes("VmRSS")


def peak_bytes() -> int | None:
    """The most bytes that were in memory since `reset_peak`; None if the system does not say."""
    return status_bytes("VmHWM")


def reset_peak() -> bool:
    """Let the peak begin with what is in memory now; return whether the system can."""
    try:
        (PROCESS / "clear_refs").write_text(RESET_PEAK)
    except OSError:
        return False
    return True


def return_freed_memory() -> None:
    """Return freed memory to the system, where the C library is glibc."""
    with suppress(OSError, AttributeError, TypeError):  # no glibc; Windows takes no None
        ctypes.CDLL(None).malloc_trim(0)


def status_bytes(name: str) -> int | None:
    """Bytes of a field of this process's status, such as `RssAnon` (proc(5)); None without it."""
    try:
        lines = (PROCESS / "status").read_text().splitlines()
    except OSError:
        return None
    sizes = [int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:")]
    return sizes[0] if sizes else None
