"""The catalog of data: names, sizes, and what `--data-root` must hold. It imports no torch."""

from __future__ import annotations

from dataclasses import dataclass

SPLITS = "train/ with val/ or test/, each with one folder per class"


@dataclass(frozen=True)
class Source:
    """A data set, or a form of users' data.

    Attributes:
        name: As `data.name`; words in capitals stand for a name of the library.
        description: What it is, in a few words.
        root: What `data.root` must hold.
        image_size: Side of the pictures in pixels; None is read off the pictures.
        channels: Channels of the pictures; None is read off the pictures.
        is_large: Whether pictures may be large: photographs, or files of any size.
    """

    name: str
    description: str
    root: str
    image_size: int | None = None
    channels: int | None = None
    is_large: bool = False


_CIFAR = "the official python batches, class folders or an .npz; downloaded if left out"
_SOURCES = (
    Source("digits", "handwritten digits, part of scikit-learn", "none", 8, 1),
    Source("cifar10", "CIFAR-10", _CIFAR, 32, 3),
    Source("cifar100", "CIFAR-100", _CIFAR, 32, 3),
    Source(
        "tiny-imagenet",
        "Tiny-ImageNet or some classes of it",
        "the unpacked archive, or train/ and val/ with one folder per class",
        64,
        3,
    ),
    Source(
        "imagenette",
        "ten classes of ImageNet",
        "train/ and val/ with one folder per class",
        224,
        3,
        is_large=True,
    ),
    Source(
        "imagenet-1k",
        "ImageNet, streamed",
        "train/ and val/ with one folder per wnid, or tar shards",
        224,
        3,
        is_large=True,
    ),
    Source(
        "folder",
        "your pictures, one folder per class",
        f"{SPLITS}, or class folders alone",
        is_large=True,
    ),
    Source(
        "npz",
        "your arrays in one .npz file",
        "the file, with train_images, train_labels, test_images, test_labels",
    ),
    Source(
        "webdataset",
        "your tar shards",
        "a folder of .tar files, one .tar, or a pattern",
        is_large=True,
    ),
    Source(
        "hub",
        "your data in Hugging Face's formats",
        "Parquet, save_to_disk or image folders",
        is_large=True,
    ),
    Source(
        "hub/USER/NAME", "a set of the Hugging Face Hub", "none, it is downloaded", is_large=True
    ),
    Source("torchvision/NAME", "a set of torchvision", "its files; downloaded if left out"),
    Source("memory", "pictures from Python", "none, gvbsm.run takes them"),
)
SOURCES = {source.name: source for source in _SOURCES}


def side_of(name: str) -> int | None:
    """Side in pixels of the pictures of a data set, as `data.name` names it; None if not fixed."""
    return SOURCES[name].image_size if name in SOURCES else None


def may_be_large(name: str) -> bool:
    """Whether the pictures of a data set, as `data.name` names it, may be large."""
    kind = name.partition("/")[:2]
    return any(source.is_large for source in _SOURCES if source.name.partition("/")[:2] == kind)
