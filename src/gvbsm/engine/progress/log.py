"""The log: lines on the standard error stream, as text or as JSON objects.

Lines have a time unless a terminal or a notebook shows them. A terminal or notebook that shows
progress in bars gets no progress lines; a log file does.
"""

from __future__ import annotations

import json
import logging
import sys
import warnings
from datetime import datetime
from logging.handlers import MemoryHandler
from typing import Literal, TextIO

from tqdm import tqdm

from gvbsm.engine.progress.bars import has_notebook_bars

Style = Literal["text", "json"]

log = logging.getLogger("gvbsm")

MOST_EARLY_LINES = 1000


def now_text(seconds: float) -> str:
    """Return a time in ISO 8601 with the offset of the local time zone."""
    return datetime.fromtimestamp(seconds).astimezone().isoformat(timespec="seconds")


class TextFormat(logging.Formatter):
    """A time and the message."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line of a record."""
        return f"{now_text(record.created)} {super().format(record)}"


class JsonFormat(logging.Formatter):
    """A JSON object: time, level, message, and how far the loop and the run are (`bars.py`)."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line of a record."""
        entry = {
            "time": now_text(record.created),
            "level": record.levelname.lower(),
            "message": super().format(record),
            **getattr(record, "progress", {}),
        }
        return json.dumps(entry, ensure_ascii=False)


class Screen(logging.StreamHandler[TextIO]):
    """Writes log lines to the standard error stream, above the bars of a terminal.

    A notebook gets them as its standard output, without times: it shows errors on red.

    Args:
        style: Format of the lines.
    """

    def __init__(self, style: Style) -> None:
        in_notebook = has_notebook_bars()
        super().__init__(sys.stdout if in_notebook else sys.stderr)
        self.style, self._has_bars = style, in_notebook or sys.stderr.isatty()
        if style == "json":
            self.setFormatter(JsonFormat())
        elif not self._has_bars:
            self.setFormatter(TextFormat())

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record."""
        if self._has_bars and hasattr(record, "progress"):
            return
        if not self._has_bars:
            super().emit(record)
            return
        with tqdm.external_write_mode(file=self.stream):
            super().emit(record)


EARLY = MemoryHandler(capacity=1, flushLevel=logging.CRITICAL + 1)
"""Keeps the first lines until the file that they belong to is open (`files.log_file`)."""


def start_log(quiet: bool, style: Style = "text") -> None:
    """Let the log of a command go to the standard error stream, and to the file opened later.

    Args:
        quiet: Warnings alone.
        style: Format of the lines.
    """
    logging.basicConfig(level=logging.WARNING, handlers=[Screen(style)])
    log.setLevel(logging.WARNING if quiet else logging.INFO)
    if EARLY not in log.handlers:
        log.addHandler(EARLY)
    # about broken metadata, of which gvbsm prints a line of its own
    warnings.filterwarnings("ignore", module="PIL")


def log_by_default(quiet: bool) -> None:
    """Show the log of a run from Python, unless the program has set up logging itself."""
    if not quiet and not log.hasHandlers():
        log.addHandler(Screen("text"))
        log.setLevel(logging.INFO)


def json_line(message: str, level: str) -> str:
    """Return a message as a line of the log in JSON."""
    return JsonFormat().format(logging.makeLogRecord({"msg": message, "levelname": level}))


def log_style() -> Style:
    """Return the format of the log's lines."""
    screens = [handler for handler in logging.root.handlers if isinstance(handler, Screen)]
    return screens[0].style if screens else "text"


def formatter_for_files() -> logging.Formatter:
    """Return the format of a log file's lines."""
    return JsonFormat() if log_style() == "json" else TextFormat()
