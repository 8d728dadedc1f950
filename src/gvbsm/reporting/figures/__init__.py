"""Figures of artifacts: `draw_...` functions take plain data, `gallery` reads the files."""

import contextlib
import os
import sys


def _import_matplotlib() -> None:
    """Import matplotlib regardless of the backend in MPLBACKEND; figures are drawn with Agg.

    A notebook passes its own backend on to programs that it starts. Without this, matplotlib could
    not be imported where that backend is not installed.
    """
    if "matplotlib" in sys.modules:
        return
    backend = os.environ.pop("MPLBACKEND", None)
    import matplotlib

    if backend is not None:
        os.environ["MPLBACKEND"] = backend
        with contextlib.suppress(ValueError):
            matplotlib.rcParams["backend"] = backend


_import_matplotlib()
