"""Let signals end a command in order: a checkpoint is saved first where a loop has one.

Ctrl-C, SIGTERM (from schedulers and containers), SIGHUP (from a terminal that closes) and SIGUSR1
(from Slurm before a time limit) become an exception in the main thread, so that locks are released,
workers end, and trackers are closed.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from types import FrameType

from gvbsm.engine.progress.stopping import STOPPING

GRACE_SECONDS = 10.0  # after which a computation that Python cannot interrupt is ended too
SAVE_SECONDS = 8.0  # within which a loop must come to its next step and begin to save
LONG_SAVE_SECONDS = 60.0  # the same after SIGUSR1, which comes long before a time limit

SIGNALS = [
    getattr(signal, name) for name in ("SIGTERM", "SIGHUP", "SIGUSR1") if hasattr(signal, name)
]  # Windows has SIGTERM alone


class Stopped(KeyboardInterrupt):
    """A signal has asked the process to end.

    Attributes:
        signal: The signal.
        code: Exit code of the process: 128 and the signal's number, as shells count.
    """

    def __init__(self, number: int) -> None:
        self.signal = signal.Signals(number)
        self.code = 128 + number
        super().__init__(self.signal.name)


class Handler:
    """Handles the first signal of a process; a second one ends it at once.

    Args:
        ends_without_word: Whether the process ends at once where there is nothing to save, instead
            of by an exception: another process says why.

    Attributes:
        received: Whether a signal has come.
        stop_others: Is called with the number of the signal, and lets other processes stop, too;
            None if there are none.
    """

    def __init__(self, ends_without_word: bool = False) -> None:
        self.received = False
        self.stop_others: Callable[[int], None] | None = None
        self._process, self._silent = os.getpid(), ends_without_word

    def install(self) -> None:
        """Handle the signals that would end the process; ignored ones stay ignored.

        Python runs handlers only between its own instructions, not inside of a library. So a
        thread ends the process some time after a signal, if it has not ended by then.
        """
        reader, writer = socket.socketpair()
        writer.setblocking(False)
        signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
        threading.Thread(target=self._end_late, args=(reader, writer), daemon=True).start()
        for number in (signal.SIGINT, *SIGNALS):
            if signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler):
                signal.signal(number, self._handle)

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        if os.getpid() != self._process:  # a fork of this process, such as a compiler
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
            return
        self.received = True
        for other in (signal.SIGINT, *SIGNALS):
            if signal.getsignal(other) == self._handle:
                signal.signal(other, signal.SIG_DFL)
        error = KeyboardInterrupt() if number == signal.SIGINT else Stopped(number)
        if self.stop_others is not None:
            self.stop_others(number)
        if STOPPING.saves and hasattr(signal, "setitimer"):
            signal.signal(signal.SIGALRM, lambda *_: self._give_up(number, error))
            signal.setitimer(signal.ITIMER_REAL, save_seconds(number))
            STOPPING.request(error, _end_timer)
            if sys.stderr.isatty():
                with contextlib.suppress(OSError):
                    os.write(2, b"\nsaving a checkpoint; Ctrl-C stops at once\n")
        else:
            self._give_up(number, error)

    def _give_up(self, number: int, error: KeyboardInterrupt) -> None:
        STOPPING.give_up()
        if self._silent:
            os._exit(128 + number)
        raise error

    def _end_late(self, reader: socket.socket, _writer: socket.socket) -> None:
        """Wait for the number of a signal, which the interpreter writes; end the process later.

        The writer is a parameter so that it stays open.
        """
        while (number := reader.recv(1)[0]) not in (signal.SIGINT, *SIGNALS):
            pass
        waits = STOPPING.saves or self.stop_others is not None
        seconds = GRACE_SECONDS + save_seconds(number) * waits
        time.sleep(seconds)
        name = signal.Signals(number).name
        line = f"gvbsm: {name}: the process did not stop within {seconds:g} s and was ended\n"
        with contextlib.suppress(OSError):  # standard error may be closed
            os.write(2, line.encode())
        os._exit(128 + number)


def _end_timer() -> None:
    signal.setitimer(signal.ITIMER_REAL, 0)


def save_seconds(number: int) -> float:
    """Return within which time after a signal a loop must begin to save."""
    return LONG_SAVE_SECONDS if signal.Signals(number).name == "SIGUSR1" else SAVE_SECONDS
