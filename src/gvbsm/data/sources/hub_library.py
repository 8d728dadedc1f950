"""The optional libraries of Hugging Face (the extra `hub`): are they here, and quiet."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec

from gvbsm.data.pictures import DataError


def need(*modules: str) -> None:
    """Check that optional libraries are installed.

    Raises:
        DataError: Naming those that are missing.
    """
    missing = [name for name in modules if find_spec(name) is None]
    if missing:
        names = " and ".join(missing)
        raise DataError(f"this needs {names}: pip install {' '.join(missing)}")


@contextmanager
def bars_off() -> Iterator[None]:
    """Show no progress bars of `datasets` for the block."""
    from datasets.utils import logging as bars

    shown = bars.is_progress_bar_enabled()
    bars.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            bars.enable_progress_bar()
