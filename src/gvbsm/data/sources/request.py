"""Sources: how the files of each data set, in their own layout, become two splits.

Each `read_...` takes a `Request` and gives a `Raw`. Shapes: N pictures, C channels, H rows, W
columns.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import distribution
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from gvbsm.config import DataConfig
from gvbsm.data.pictures import DataError, Progress, Split, no_progress

MOST_PICTURES = 20_000_000  # of one split


@dataclass(frozen=True)
class Request:
    """Where the data lie, and how to split them where they have no split of their own.

    Attributes:
        config: The settings of the data.
        root: Folder or file of the data, absolute.
        cache: Folder of downloads.
        member: What the data set's name says after its slash, as SVHN in torchvision/SVHN.
        progress: Wraps loops that take long.
    """

    config: DataConfig
    root: Path | None
    cache: Path
    member: str = ""
    progress: Progress = no_progress

    def need_root(self) -> Path:
        """The folder or file of the data, of a set that is not downloaded."""
        if self.root is None:
            raise DataError("this data set is not downloaded: pass its folder as --data.root")
        return self.root


@dataclass(frozen=True)
class Raw:
    """A data set as its files hold it: pictures of any size, labels not yet checked.

    Attributes:
        root: Folder that paths are relative to in the fingerprint; None is the request's.
        notes: What was left out or assumed, a line each.
        left_out: Reason -> names of what was not read.
        held_out: Which share of the pictures the test pictures are; "" for a split of the data's.
    """

    class_names: tuple[str, ...]
    train: Split
    test: Split
    root: Path | None = None
    notes: tuple[str, ...] = ()
    left_out: Mapping[str, Sequence[str]] = field(default_factory=dict)
    held_out: str = ""


def hold_out(whole: Split, class_names: tuple[str, ...], request: Request) -> Raw:
    """Split a data set without a split of its own into training and test pictures.

    Raises:
        DataError: If a class has fewer than two pictures.
    """
    train, test = _split_indices(whole.labels, class_names, request)
    config = request.config
    share = f"{config.val_fraction:g} of each class (data.split_seed={config.split_seed})"
    return Raw(class_names, whole.select(train), whole.select(test), held_out=share)


def _split_indices(
    labels: Tensor, class_names: Sequence[str], request: Request
) -> tuple[Tensor, Tensor]:
    """Stratified train and test indices, sorted; every class gives at least one to each side."""
    generator = torch.Generator().manual_seed(request.config.split_seed)
    train, test = [], []
    for label, name in enumerate(class_names):
        members = (labels == label).nonzero().flatten()
        count = len(members)
        if count < 2:
            raise DataError(
                f"class {name!r} has {count} picture(s), but a split needs 2 or more in each class:"
                " add pictures, remove the class, or provide train/ and val/ folders"
            )
        members = members[torch.randperm(count, generator=generator)]
        held_out = min(max(round(count * request.config.val_fraction), 1), count - 1)
        test.append(members[:held_out])
        train.append(members[held_out:])
    return torch.cat(train).sort().values, torch.cat(test).sort().values


def read_digits(request: Request) -> Raw:
    """Read the digits that come with scikit-learn, and split them."""
    # sklearn.datasets.load_digits returns the same, but takes a second to import.
    path = distribution("scikit-learn").locate_file("sklearn/datasets/data/digits.csv.gz")
    rows = np.loadtxt(str(path), delimiter=",")  # 64 pixels from 0 to 16, and the label
    pixels = np.rint(rows[:, :-1] * (255 / 16)).astype(np.uint8)
    images = torch.from_numpy(pixels).view(-1, 1, 8, 8)
    labels = torch.from_numpy(rows[:, -1].astype(np.int64))
    names = tuple(map(str, range(10)))
    return hold_out(Split(labels, images), names, request)
