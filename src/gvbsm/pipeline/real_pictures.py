"""Real pictures of a run, kept to be shown beside the images and compared with them."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from gvbsm.config import Config
from gvbsm.data.datasets import ImageData
from gvbsm.data.loading import picture_parts
from gvbsm.engine.device import Runtime
from gvbsm.files.artifacts import Recipe, is_current
from gvbsm.stages.selection.coreset import select_random
from gvbsm.store.distilled import stream_images
from gvbsm.store.recipes import Recipes
from gvbsm.store.workdir import Workspace

SHOWN_CLASSES = 20  # rows of the picture


def sample_real(
    config: Config, data: ImageData, runtime: Runtime, workspace: Workspace, recipes: Recipes
) -> Path:
    """Keep real pictures of the first classes, to show and to compare with; return the file.

    As many as there are images, but 10 to 50 a class, and no more than the smallest class has.
    """
    path, recipe = workspace.real, recipes.real()
    if is_current(path, recipe):
        return path
    labels = data.train.labels
    shown = min(SHOWN_CLASSES, len(data.class_names))
    smallest = int(torch.bincount(labels)[:shown].min())
    count = min(max(config.ipc, 10), 50, smallest)
    index = select_random(labels, shown, count, runtime.generator("real"))
    keep_real(path, "real", recipe, index, data)
    return path


def keep_real(path: Path, method: str, recipe: Recipe, index: Tensor, data: ImageData) -> None:
    """Write training pictures as a set of images.

    Args:
        path: The file.
        method: How they were chosen.
        recipe: What they are made from.
        index: Which, class by class, int64 (n,).
        data: The real pictures.
    """
    parts = picture_parts(data, index)
    stream_images(path, method, recipe, data.train.labels[index], parts, data)
