"""Let SIGTERM and SIGHUP end a command in order, as Ctrl-C does.

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

GRACE_SECONDS = 10.0  # after which a computation that Python cannot interrupt is ended too

SIGNALS = [
    getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)
]  # Windows has no SIGHUP


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


def raise_when_stopped() -> None:
    """Let SIGTERM and SIGHUP raise `Stopped`; a second one ends the process at once.

    Ignored signals stay ignored, such as SIGHUP under nohup. Python runs handlers only between its
    own instructions, not inside of a library. So a thread ends the process `GRACE_SECONDS` after
    one of these signals or Ctrl-C, if it has not ended by then.
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
    """Wait for the number of a signal, which the interpreter writes, and end the process later.

    The writer is a parameter so that it stays open.
    """
    while (number := reader.recv(1)[0]) not in (signal.SIGINT, *SIGNALS):
        pass
    time.sleep(GRACE_SECONDS)
    name = signal.Signals(number).name
    line = f"gvbsm: {name}: the process did not stop within {GRACE_SECONDS:g} s and was ended\n"
    with contextlib.suppress(OSError):  # standard error may be closed
        os.write(2, line.encode())
    os._exit(128 + number)
