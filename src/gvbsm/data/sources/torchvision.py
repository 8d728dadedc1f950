"""Load the classification sets of torchvision by name, whatever their constructors.

Arrays are kept in memory and lists of files are streamed. Of other sets, torchvision reads each
picture when it is needed.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from gvbsm.config.errors import first_line
from gvbsm.config.keys import closest
from gvbsm.data.classes import Classes, labels_of, number_classes
from gvbsm.data.pictures import DataError, PictureFile, Split
from gvbsm.data.sources.arrays import array_split, channels_last
from gvbsm.data.sources.request import Raw, Request, hold_out

_BY_TRAIN = ({"train": True}, {"train": False})


def _by_split(train: str, test: str) -> tuple[dict[str, Any], dict[str, Any]]:
    return {"split": train}, {"split": test}


# How the constructor is asked for the training and the test pictures; None: there is one set alone.
SETS: dict[str, tuple[dict[str, Any], dict[str, Any] | None]] = {
    "CIFAR10": _BY_TRAIN,
    "CIFAR100": _BY_TRAIN,
    "Caltech101": ({}, None),
    "Caltech256": ({}, None),
    "Country211": _by_split("train", "test"),
    "DTD": _by_split("train", "test"),
    "EMNIST": ({"split": "balanced", "train": True}, {"split": "balanced", "train": False}),
    "EuroSAT": ({}, None),
    "FER2013": _by_split("train", "test"),
    "FGVCAircraft": _by_split("trainval", "test"),
    "FashionMNIST": _BY_TRAIN,
    "Flowers102": _by_split("train", "test"),
    "Food101": _by_split("train", "test"),
    "GTSRB": _by_split("train", "test"),
    "Imagenette": _by_split("train", "val"),
    "KMNIST": _BY_TRAIN,
    "MNIST": _BY_TRAIN,
    "OxfordIIITPet": _by_split("trainval", "test"),
    "PCAM": _by_split("train", "test"),
    "Places365": _by_split("train-standard", "val"),
    "QMNIST": _BY_TRAIN,
    "RenderedSST2": _by_split("train", "test"),
    "SEMEION": ({}, None),
    "STL10": _by_split("train", "test"),
    "SUN397": ({}, None),
    "SVHN": _by_split("train", "test"),
    "StanfordCars": _by_split("train", "test"),
    "USPS": _BY_TRAIN,
}
_NOT_DOWNLOADED = {"FER2013", "StanfordCars"}  # their sites are closed, or want a login


@dataclass(frozen=True, order=True)
class Item:
    """A picture that torchvision's own set reads."""

    name: str
    index: int
    source: Any = field(compare=False, repr=False)
    nbytes: int = 0  # not known without reading

    def open(self) -> Image.Image:
        """Let torchvision read the picture."""
        picture: Image.Image = self.source[self.index][0]
        return picture

    def __str__(self) -> str:
        return f"{self.name}[{self.index}]"


def read_torchvision(request: Request) -> Raw:
    """Read the set `request.member`; without a root it is downloaded.

    Raises:
        DataError: If there is no such set, or it can be neither found nor downloaded.
    """
    name = request.member
    if name not in SETS:
        hint = closest(name, SETS, form="torchvision/{}")
        raise DataError(f"unknown set torchvision/{name}: {hint}known: {', '.join(SETS)}")
    root = request.root or request.cache / "torchvision"
    halves = [_make(name, request, root, how) for how in SETS[name] if how is not None]
    names = _class_names(halves[0])
    splits = [
        _split(half, f"{name} {side}", request)
        for half, side in zip(halves, ("train", "test"), strict=False)
    ]
    classes = number_classes(splits[0].labels.tolist(), names, f"torchvision/{name} in {root}")
    splits = [replace(split, labels=_relabeled(split, classes, name)) for split in splits]
    if len(splits) == 1:
        raw = hold_out(splits[0], classes.names, request)
        return replace(raw, root=root, notes=classes.notes)
    return Raw(classes.names, splits[0], splits[1], root, classes.notes)


def _relabeled(split: Split, classes: Classes, name: str) -> Tensor:
    labels = labels_of(split.labels.tolist(), classes, f"torchvision/{name}")
    return torch.tensor(labels, dtype=torch.int64)


def _make(name: str, request: Request, root: Path, how: dict[str, Any]) -> Any:
    import torchvision.datasets  # slow to import

    options = dict(how)
    if name not in _NOT_DOWNLOADED:
        options["download"] = request.root is None
        root.mkdir(parents=True, exist_ok=True)
    try:
        return getattr(torchvision.datasets, name)(root, **options)
    except Exception as error:  # no network, missing files or modules, a wrong checksum
        first = first_line(error)
        hint = "" if request.root else "; if its files are here, pass their folder as --data.root"
        raise DataError(
            f"cannot read torchvision/{name} in {root}: {first}{hint}"
            + ("; torchvision cannot download this set" if name in _NOT_DOWNLOADED else "")
        ) from error


def _class_names(source: Any) -> tuple[str, ...] | None:
    """The names that the set gives its classes, if they are one word or phrase each."""
    entries = getattr(source, "classes", None) or getattr(source, "categories", None)
    if not entries:
        return None
    # Imagenette's are tuples of synonyms
    names = tuple(item if isinstance(item, str) else str(item[0]) for item in entries)
    return names if len(set(names)) == len(names) else None


def _split(source: Any, where: str, request: Request) -> Split:
    labels = getattr(source, "targets", getattr(source, "labels", None))
    pictures = getattr(source, "data", None)
    if pictures is not None and labels is not None:
        pixels, _ = channels_last(np.asarray(pictures), where)
        targets = np.asarray(labels)  # QMNIST's have more columns: the writer and so on
        return array_split(pixels, targets[:, 0] if targets.ndim == 2 else targets, where)
    paths, classes = _files(source) or _items(source, where, request)
    order = sorted(range(len(paths)), key=paths.__getitem__)  # not the file system's own
    ordered = torch.tensor([int(classes[index]) for index in order], dtype=torch.int64)
    return Split(ordered, paths=tuple(paths[index] for index in order))


def _files(source: Any) -> tuple[Sequence[PictureFile], Sequence[int]] | None:
    """Paths and labels, if the set is a list of files."""
    for name in ("samples", "_samples", "imgs"):
        with suppress(AttributeError, TypeError, ValueError):
            paths, labels = zip(*getattr(source, name), strict=True)
            return [Path(path) for path in paths], labels
    for name in ("_image_files", "_images"):
        with suppress(AttributeError, TypeError):
            return [Path(path) for path in getattr(source, name)], source._labels
    with suppress(AttributeError, TypeError):  # Caltech's keep each picture's class and number
        return _caltech(source)
    return None


def _caltech(source: Any) -> tuple[Sequence[PictureFile], Sequence[int]]:
    """Paths and labels of Caltech 101 and 256, whose pictures are opened by gvbsm alone."""
    large = type(source).__name__ == "Caltech256"
    folder = Path(source.root, "256_ObjectCategories" if large else "101_ObjectCategories")
    paths = [
        folder
        / source.categories[label]
        / (f"{label + 1:03d}_{number:04d}.jpg" if large else f"image_{number:04d}.jpg")
        for label, number in zip(source.y, source.index, strict=True)
    ]
    return paths, source.y


def _items(
    source: Any, where: str, request: Request
) -> tuple[Sequence[PictureFile], Sequence[int]]:
    """Each picture as the set gives it; to know the labels, all are read once."""
    indices = range(len(source))
    labels = [int(source[index][1]) for index in request.progress(indices)]
    return [Item(where, index, source) for index in indices], labels
