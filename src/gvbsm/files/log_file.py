"""The log file of a work directory: `gvbsm.log`, to which every run appends.

The manifest lists how the file begins. So gvbsm knows a log of its own, however long it has grown,
and never writes to another file of that name.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gvbsm._version import __version__
from gvbsm.engine.progress.log import EARLY, formatter_for_files
from gvbsm.engine.progress.stopping import STOPPING
from gvbsm.files import manifest

NAME = "gvbsm.log"

log = logging.getLogger("gvbsm")


class _Lines(logging.FileHandler):
    """Appends lines to a log file; what cannot be written is left out."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802  (of logging)
        """Go on: no run fails for its log."""


@contextmanager
def log_file(folder: Path) -> Iterator[None]:
    """Append the log to the file of a work directory in the block, and what ends it early."""
    handler = _opened(folder) if log.isEnabledFor(logging.INFO) else None
    if handler is None:
        yield
        return
    if EARLY in log.handlers:
        EARLY.setTarget(handler)
        EARLY.flush()
    else:
        log.addHandler(handler)
    try:
        yield
    except BaseException as error:
        text = f"ended by {type(error).__name__}: {error}".removesuffix(": ")
        text += f"; {STOPPING.account}" * bool(STOPPING.account)
        handler.handle(logging.makeLogRecord({"msg": text, "levelno": 40, "levelname": "ERROR"}))
        raise
    finally:
        EARLY.setTarget(None)
        log.removeHandler(handler)
        handler.close()


def _opened(folder: Path) -> _Lines | None:
    """Open the log file; None, with a warning, if another file is in its place."""
    path = folder / NAME
    formatter = formatter_for_files()
    try:
        if path.is_symlink() or path.exists():
            is_ours = manifest.is_begun(path, folder)
        else:
            _create(path, formatter)
            is_ours = True
        if is_ours:
            handler = _Lines(path, encoding="utf-8", errors="backslashreplace")
            handler.setFormatter(formatter)
            return handler
        log.warning("%s is in the way: gvbsm did not write it, so this run has no log file", path)
    except OSError as error:
        log.warning("%s cannot be written (%s): this run has no log file", path, error.strerror)
    return None


def _create(path: Path, formatter: logging.Formatter) -> None:
    """Create a log file of one line, which the manifest lists first."""
    text = f"log of gvbsm {__version__}"
    record = logging.makeLogRecord({"msg": text, "levelname": "INFO", "created": time.time()})
    line = f"{formatter.format(record)}\n".encode()
    manifest.record_beginning(path.parent, path, line)
    with path.open("xb") as file:
        file.write(line)
