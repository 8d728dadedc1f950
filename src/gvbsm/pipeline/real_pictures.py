"""Keep a sample of the real pictures, to show beside the images and to compare with them."""

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

SHOWN_CLASSES = 20  # classes of the sample


def sample_real(
    config: Config, data: ImageData, runtime: Runtime, workspace: Workspace, recipes: Recipes
) -> Path:
    """Write a random sample of real pictures of the first classes; return its file.

    It has as many pictures of a class as there are images, but at least 10 and at most 50, and not
    more than the smallest class.
    """
    path, recipe = workspace.real, recipes.real()
    if is_current(path, recipe):
        return path
    labels = data.train.labels
    shown = min(SHOWN_CLASSES, len(data.class_names))
    smallest = int(torch.bincount(labels)[:shown].min())
    count = min(max(config.ipc, 10), 50, smallest)
    index = select_random(labels, [count] * shown, runtime.generator("real"))
    keep_real(path, "real", recipe, index, data)
    return path


def keep_real(path: Path, method: str, recipe: Recipe, index: Tensor, data: ImageData) -> None:
    """Write training pictures as a set of images.

    Args:
        path: The file.
        method: How they were selected.
        recipe: The recipe of the set.
        index: Indices of the pictures in the training set, class by class, int64 (n,).
        data: The real pictures.
    """
    parts = picture_parts(data, index)
    stream_images(path, method, recipe, data.train.labels[index], parts, data)
