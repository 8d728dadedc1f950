"""Figures, from artefacts alone: `draw_...` functions take plain data, the gallery reads files."""

from gvbsm.plots.images import plot_images

__all__ = ["plot_images"]
