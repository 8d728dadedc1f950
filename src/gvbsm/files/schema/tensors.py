"""Check the tensors of image sets against their headers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from gvbsm.files.artifacts import ArtifactError, DamagedError
from gvbsm.files.schema.sets import ImagesHeader


def check_images(path: Path, tensors: Mapping[str, Tensor], header: ImagesHeader) -> None:
    """Check the tensors of a set: `images` uint8 (N, channels, side, side), `labels` int64 (N,).

    Raises:
        ArtifactError: If one is missing, of another type or shape, or a label names no class.
    """
    images, labels = tensors.get("images"), tensors.get("labels")
    if images is None or labels is None:
        raise DamagedError(path, "it lacks images or labels")
    shape, channels = tuple(images.shape), len(header.mean)
    is_set = images.dtype == torch.uint8 and len(shape) == 4 and 0 not in shape
    if not is_set or shape[1] != channels or shape[2] != shape[3]:
        raise DamagedError(
            path,
            f"images should be torch.uint8 (N, {channels}, side, side) with N of at least 1, "
            f"found {images.dtype} {shape}",
        )
    if labels.dtype != torch.int64 or labels.shape != images.shape[:1]:
        raise DamagedError(
            path,
            f"labels should be torch.int64 ({shape[0]},), one an image, found {labels.dtype} "
            f"{tuple(labels.shape)}",
        )
    check_labels(path, labels, len(header.class_names))


def check_labels(path: Path, labels: Tensor, classes: int) -> None:
    """Check that each hard label, int64 (N,), is the number of a class.

    Raises:
        ArtifactError: If one is not, naming it.
    """
    if len(wrong := labels[(labels < 0) | (labels >= classes)]):
        raise ArtifactError(
            f"labels of {path} must be 0 to {classes - 1}, found {int(wrong[0])}; fetch the set "
            "again, or make it again"
        )
