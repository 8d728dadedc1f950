"""SIGTERM and SIGHUP end a command in order, as Ctrl-C does.

Schedulers and containers send SIGTERM, a terminal that closes sends SIGHUP. Both become an
exception in the main thread, so that locks are released, workers end, and trackers are closed.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
import time
from types import FrameType

GRACE_SECONDS = 10.0  # then a computation that Python cannot interrupt is ended all the same

SIGNALS = [
    getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)
]  # Windows has no SIGHUP


class Stopped(KeyboardInterrupt):
    """A signal has asked the process to end.

    Attributes:
        signal: Which.
        code: Exit code of the process: 128 and the signal's number, as shells count.
    """

    def __init__(self, number: int) -> None:
        self.signal = signal.Signals(number)
        self.code = 128 + number
        super().__init__(self.signal.name)


def raise_when_stopped() -> None:
    """Let SIGTERM and SIGHUP raise `Stopped`; a second one ends the process at once.

    Signals that are ignored, as SIGHUP is under nohup, stay ignored. Python runs handlers between
    its own instructions alone. So a thread ends the process if the main thread has not done so
    `GRACE_SECONDS` after one of these signals or Ctrl-C, as while it waits for another process in a
    library's code.
    """
    reader, writer = socket.socketpair()
    writer.setblocking(False)
    signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
    threading.Thread(target=_end_after_grace, args=(reader, writer), daemon=True).start()
    for number in SIGNALS:
        if signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, _raise)


def _raise(number: int, _frame: FrameType | None) -> None:
    signal.signal(number, signal.SIG_DFL)
    raise Stopped(number)


def _end_after_grace(reader: socket.socket, _writer: socket.socket) -> None:
    """Wait for a signal, of which the interpreter writes the number; both ends stay open here."""
    while (number := reader.recv(1)[0]) not in (signal.SIGINT, *SIGNALS):
        pass
    time.sleep(GRACE_SECONDS)
    name = signal.Signals(number).name
    line = f"gvbsm: {name}: what is being computed took too long to end, so it was cut off\n"
    with contextlib.suppress(OSError):  # standard error may be closed
        os.write(2, line.encode())
    os._exit(128 + number)
