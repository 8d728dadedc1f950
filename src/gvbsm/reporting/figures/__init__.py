"""Figures, from artefacts alone: `draw_...` functions take plain data, the gallery reads files."""

import contextlib
import os
import sys


def _import_matplotlib() -> None:
    """Import matplotlib whatever backend MPLBACKEND names: figures are drawn with Agg.

    A notebook hands its own backend on to programs that it starts, and where that one is not
    installed matplotlib would refuse to be imported.
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

from gvbsm.reporting.figures.images import plot_images  # noqa: E402

__all__ = ["plot_images"]
