"""Load plain sets: class folders of pictures or one .npz, with hard labels."""

from __future__ import annotations

import logging
from collections import Counter
from pathlib import Path
from statistics import median_low

import torch
from torch import Tensor

from gvbsm.data.pictures import (
    GRAY_MODES,
    REPAIR,
    DataError,
    Split,
    decode,
    no_progress,
    open_image,
    resize_to,
)
from gvbsm.data.pixel_statistics import pixel_statistics
from gvbsm.data.reading import Findings
from gvbsm.data.sources.arrays import read_training_arrays
from gvbsm.data.sources.folders import path_split, scan
from gvbsm.files.artifacts import is_ours
from gvbsm.files.manifest import is_claimed
from gvbsm.files.schema import MOST_BYTES
from gvbsm.store.distilled import DistilledDataset
from gvbsm.store.workdir import Workspace

log = logging.getLogger("gvbsm")

PLAIN = "plain"  # the method of such a set
PICKLED = {".pt", ".pth", ".pkl", ".pickle"}


def is_plain(path: Path) -> bool:
    """Whether a path is an .npz or a folder that gvbsm did not write."""
    if path.is_file():
        return path.suffix == ".npz"
    # a copy without hidden files has no manifest; a stranger's class or notes may have these names
    is_run = Workspace(path).images.exists() or is_ours(path / "data.json")
    return not is_claimed(path) and not is_run


def refuse_pickle(path: Path) -> None:
    """Refuse the files in which most other methods save their sets.

    Raises:
        DataError: If the path is such a file, with the form that can be read.
    """
    if path.suffix in PICKLED:
        raise DataError(
            f"{path} is a pickle, which can run code and is not read: save its images (uint8, or "
            "0 to 1) and labels with numpy.savez as train_images and train_labels"
        )


def load_plain(path: Path) -> DistilledDataset:
    """Load the pictures as a set with hard labels, sorted by class.

    Mean and standard deviation are those of its pixels. Pictures of several sizes are resized to
    the median short side, with a warning in the log.

    Args:
        path: A folder of class folders (or one that holds them in `train/`), or an .npz whose
            training arrays are the set; it need have no others.

    Raises:
        DataError: If it is neither.
    """
    names, images, labels = _from_npz(path) if path.is_file() else _from_folders(path)
    order = torch.argsort(labels, stable=True)
    statistics = pixel_statistics([images], images.shape[1])
    return DistilledDataset(
        images=images[order].contiguous(),
        labels=labels[order].contiguous(),
        class_names=names,
        normalization=statistics.normalization,
        soft_labels=None,
        header={"method": PLAIN, "dataset": path.name, "recipe": {}},
    )


def _from_npz(path: Path) -> tuple[tuple[str, ...], Tensor, Tensor]:
    names, train, notes = read_training_arrays(path)
    for note in notes:
        log.warning("%s", note)
    assert train.images is not None  # arrays are in memory
    return names, resize_to(train.images, min(train.images.shape[-2:])), train.labels


def _from_folders(path: Path) -> tuple[tuple[str, ...], Tensor, Tensor]:
    inner = path / "train"
    findings = Findings()
    pictures = scan(inner if inner.is_dir() else path, findings)
    split = path_split(pictures)
    for why, left_out in findings.left_out.items():
        log.info("left out: %s: %d", why, len(left_out))
    return tuple(pictures), _decoded(split, path), split.labels


def _decoded(split: Split, path: Path) -> Tensor:
    """Decode all pictures at one size: uint8 (N, C, S, S)."""
    sizes, modes = Counter[tuple[int, int]](), set()
    for place in split.paths or ():
        try:
            with open_image(place) as file:
                sizes[file.size] += 1
                modes.add(file.mode)
        except Exception as error:  # as in `read_image`
            raise DataError(f"cannot read {place}: {error}; {REPAIR}") from error
    side = median_low(map(min, sizes.elements()))
    if len(sizes) > 1 or any(width != height for width, height in sizes):
        log.warning("the pictures of %s have several sizes: they are resized to %d px", path, side)
    channels = 1 if modes <= GRAY_MODES else 3
    if len(split) * channels * side**2 > MOST_BYTES:
        raise DataError(
            f"the pictures of {path} take more than {MOST_BYTES} bytes at {side} px: take fewer"
        )
    images = list(decode(split.paths or (), channels, side, no_progress, cure=REPAIR))
    return torch.stack(images)
