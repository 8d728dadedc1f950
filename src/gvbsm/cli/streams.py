"""The standard streams of a command: closed ones, broken pipes, and narrow encodings."""

from __future__ import annotations

import contextlib
import io
import os
import select
import sys
from typing import TextIO

BROKEN_PIPE = 141  # exit code of a program that SIGPIPE ends: 128 + 13


def prepare_streams() -> None:
    """Open closed standard streams on the null device, and escape what an encoding lacks.

    The first file that is opened would otherwise take the number of a closed stream, and a library
    that writes to that stream would write into the file.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # the lowest free number
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            mode = "w" if number else "r"
            stream = open(number, mode, encoding="utf-8", closefd=False)  # noqa: SIM115
            setattr(sys, name, stream)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def flush_streams(code: int) -> int:
    """Write out what a command has printed.

    Returns:
        The exit code; another one if the standard output could not be written.
    """
    error = _flush(sys.stdout)
    if isinstance(error, BrokenPipeError):
        code = BROKEN_PIPE
    elif error is not None:
        with contextlib.suppress(OSError):
            print(f"gvbsm: cannot write to the standard output: {error}", file=sys.stderr)
        code = code or 1
    _flush(sys.stderr)
    return code


def lost_reader() -> bool:
    """Whether standard output is a pipe whose reader has closed it."""
    if not hasattr(select, "poll"):  # Windows
        return False
    poll = select.poll()
    poll.register(sys.stdout, select.POLLOUT)
    return any(event & select.POLLERR for _, event in poll.poll(0))


def _flush(stream: TextIO) -> OSError | None:
    """Flush a stream; return the error of one that cannot be written to.

    That one is led to the null device, since Python flushes it once more as it ends.
    """
    try:
        stream.flush()
    except OSError as error:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, stream.fileno())
        os.close(null)
        return error
    return None
