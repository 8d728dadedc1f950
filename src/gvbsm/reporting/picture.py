"""The picture of a run: distilled images beside real ones."""

from __future__ import annotations

from pathlib import Path

from gvbsm.pipeline.selected_sets import SHOWN_CLASSES
from gvbsm.store.distilled import load_images
from gvbsm.store.workdir import Workspace


def draw_picture(workspace: Workspace, real_pictures: Path) -> Path:
    """Draw distilled images beside real ones, one row for each class; return the file."""
    from gvbsm.reporting.figures.images import plot_images  # imports matplotlib, which is slow

    distilled = load_images(workspace.images)
    real = load_images(real_pictures)
    shown = min(SHOWN_CLASSES, len(real.class_names))
    pictures = real.images.view(shown, -1, *real.images.shape[1:])
    columns = min(10, max(distilled.counts), pictures.shape[1])
    plot_images(distilled, pictures[:, :columns].flatten(0, 1), columns, workspace.picture)
    return workspace.picture
