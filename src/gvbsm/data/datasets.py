"""Raw data: the only place that knows a data set's name, size, classes, mean and std.

`load_dataset` turns a name and a folder into an `ImageData`: two splits of pictures, either in
memory (uint8) or as paths to stream from, and what is needed to normalize them.
Shapes: N pictures, C channels, H rows, W columns, S the side of a square picture.
"""

import hashlib
import json
import logging
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import median_low
from typing import Any

import torch

from gvbsm.config import DataConfig
from gvbsm.config.keys import closest
from gvbsm.config.paths import MEMORY, cache_folder, user_path
from gvbsm.data.file_sample import FileSample, check_depth, sample_files
from gvbsm.data.pictures import (
    GRAY_MODES,
    DataError,
    PictureFile,
    Progress,
    Split,
    decode,
    no_progress,
    resize_to,
)
from gvbsm.data.pixel_statistics import cached_pixel_statistics, check_range, pixel_statistics
from gvbsm.data.pixels import Normalization
from gvbsm.data.reading import UNREADABLE, Reading, account
from gvbsm.data.sources import arrays, folders, memory
from gvbsm.data.sources import huggingface as hub_sets
from gvbsm.data.sources import request as sources
from gvbsm.data.sources import torchvision as torchvision_sets
from gvbsm.data.sources import webdataset as shards
from gvbsm.data.sources.catalog import SOURCES, Source
from gvbsm.data.sources.memory import InMemory
from gvbsm.data.sources.request import Raw, Request
from gvbsm.data.unreadable import leave_out
from gvbsm.engine.torch_defaults import torch_defaults

log = logging.getLogger("gvbsm")

MOST_PATH = 4096  # characters of a path, the most that Linux takes
MEMORY_LIMIT = 2 * 1024**3  # bytes of uint8 pictures that are kept in memory without being asked to


@dataclass(frozen=True)
class ImageData:
    """A data set, ready to be normalized and batched.

    Attributes:
        normalization: Mean and standard deviation of the training pixels, the latter over the
            population (divided by the count) and at least 1/255.
        fingerprint: Hash of the name, the classes, the labels, the size and the pixels (in memory)
            or each file's relative path and byte size (streamed). Moving or copying the data keeps
            it. A streamed file rewritten with as many bytes is not noticed.
        skipped: Names of the pictures that were left out since they cannot be read.
        notes: What else was left out, or assumed, a line each.
        reading: What was read, left out and assumed; None if it was not read from a source.
        test_crop: Share of a test picture's short side that its center square covers, in (0, 1].
    """

    name: str
    class_names: tuple[str, ...]
    channels: int
    image_size: int
    train: Split
    test: Split
    normalization: Normalization
    fingerprint: str
    skipped: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    reading: Reading | None = None
    test_crop: float = 1.0

    def record(self) -> dict[str, Any]:
        """What was read, left out and assumed, as results keep it."""
        reading = None if self.reading is None else self.reading.as_json()
        return {"skipped": list(self.skipped), "notes": list(self.notes), "data": reading}


@dataclass(frozen=True)
class DatasetSpec:
    """What is known about a data set before it is read; None is read off the data itself."""

    source: Source
    load: Callable[[Request], Raw]
    normalization: Normalization | None = None
    streams: bool = False  # stays on disk however small, unless `in_memory` asks otherwise


def _check(raw: Raw, where: str) -> None:
    count = len(raw.class_names)
    if count < 2:
        raise DataError(f"only one class, {list(raw.class_names)}: expected two or more")
    for side, split in (("train", raw.train), ("test", raw.test)):
        low, high = int(split.labels.min()), int(split.labels.max())
        if low < 0 or high >= count:
            raise DataError(
                f"labels of {side} must be 0 to {count - 1}, one a class, found {low} to {high}"
            )
    empty = (torch.bincount(raw.train.labels, minlength=count) == 0).nonzero().flatten().tolist()
    if empty:
        raise DataError(f"no training pictures of class {raw.class_names[empty[0]]!r} in {where}")


def _geometry(raw: Raw, spec: DatasetSpec, sample: FileSample) -> tuple[int, int]:
    """Image size and channels: the spec's, else those of the pictures (see `read_dataset`)."""
    source = spec.source
    if raw.train.images is not None and raw.test.images is not None:
        channels = {int(raw.train.images.shape[1]), int(raw.test.images.shape[1])}
        if len(channels) > 1 or source.channels not in (None, *channels):
            expected = source.channels or "the same number of"
            raise DataError(
                f"{source.name}: expected {expected} channels, found {sorted(channels)}"
            )
        return source.image_size or min(raw.train.images.shape[-2:]), channels.pop()
    if source.image_size is not None and source.channels is not None:
        return source.image_size, source.channels
    if sample.fault is not None:
        raise sample.fault
    side = median_low(min(size) for size in sample.sizes)
    side = side if len({*sample.sizes}) == 1 else min(side, 224)
    return source.image_size or side, source.channels or (1 if sample.modes <= GRAY_MODES else 3)


def _settle(split: Split, channels: int, size: int, keep: bool, progress: Progress) -> Split:
    """Bring pictures in memory to (N, C, S, S); leave paths alone unless `keep` says to decode."""
    if split.images is not None:
        return Split(split.labels, resize_to(split.images, size, split.crop))
    if split.paths is None or not keep:
        return split
    images = torch.empty(len(split), channels, size, size, dtype=torch.uint8)
    for index, picture in enumerate(decode(split.paths, channels, size, progress, split.crop)):
        images[index] = picture
    return Split(split.labels, images)


def _mark(path: PictureFile, root: Path | None) -> str:
    """Name and size of a picture, by which a streamed one is known wherever its set lies."""
    if not isinstance(path, Path):
        name = str(path)
        return f"{name.replace(str(root), '') if root else name}\0{path.nbytes}\n"
    place = path.relative_to(root) if root and path.is_relative_to(root) else path
    return f"{place.as_posix()}\0{path.stat().st_size}\n"


def _fingerprint(header: list[Any], splits: Iterable[Split], root: Path | None) -> str:
    digest = hashlib.sha256(json.dumps(header).encode())
    for split in splits:
        digest.update(f"\n{len(split)}\n".encode())
        digest.update(split.labels.numpy().tobytes())
        if split.images is not None:
            digest.update(split.images.contiguous().view(-1).numpy().data)
        for path in split.paths or ():
            digest.update(_mark(path, root).encode(errors="surrogateescape"))
    return digest.hexdigest()


def _check_ranges(config: DataConfig) -> None:
    if not 0 < config.val_fraction < 1:
        raise DataError(f"`val_fraction` must be in (0, 1), got {config.val_fraction}")
    if not 0 < config.test_crop <= 1:
        raise DataError(f"`test_crop` must be in (0, 1], got {config.test_crop}")
    if config.image_size is not None and config.image_size < 1:
        raise DataError(f"`image_size` must be 1 or more, got {config.image_size}")
    if config.unreadable not in ("stop", "skip"):
        raise DataError(f"`unreadable` must be stop or skip, got {config.unreadable!r}")


def _check_settings(config: DataConfig) -> tuple[DatasetSpec, str, Path | None]:
    """The spec of the data set, what follows its name's slash, and the absolute root.

    Raises:
        DataError: If there is no such data set, or a setting is out of range.
    """
    name = config.name
    kind, slash, member = name.partition("/")
    if name == MEMORY:
        _check_ranges(config)
        return _MEMORY, "", None
    if (slash and kind not in LIBRARIES) or (kind not in DATASETS and kind not in LIBRARIES):
        known = (*DATASETS, *(f"{library}/NAME" for library in LIBRARIES))
        hint = closest(name, known, form="{!r}")
        raise DataError(f"unknown data set {name!r}: {hint}choose from {', '.join(known)}")
    if slash and not member:
        raise DataError(f"{name!r} lacks the name of a set: write {kind}/NAME")
    _check_ranges(config)
    root = None if config.root is None else user_path(config.root).absolute()
    if len(str(root)) > MOST_PATH:
        raise DataError(f"--data.root has {len(str(root))} characters, more than {MOST_PATH}")
    spec = LIBRARIES[kind] if slash else DATASETS.get(kind)
    if spec is None:
        raise DataError(f"{kind} holds many sets: name one, as in torchvision/SVHN")
    if kind == "hub" and (root is None) != bool(slash):
        raise DataError("pass either hub/USER/NAME, or hub with a folder as --data.root")
    pattern = kind in ("webdataset", "imagenet-1k") and "{" in str(root)
    if root is not None and not pattern and not os.path.exists(root):  # noqa: PTH110
        raise DataError(f"no such file or folder: {root} (given as --data.root for {name})")
    return spec, member, root


def load_dataset(
    name: str,
    root: str | Path | None = None,
    *,
    cache_dir: str | Path | None = None,
    progress: Progress = no_progress,
    **settings: Any,
) -> ImageData:
    """Read a data set by name (`gvbsm.load_dataset`).

    Args:
        name: A key of `DATASETS`, `torchvision/NAME` or `hub/USER/NAME`.
        root: Folder or file of the data; of `webdataset` also a pattern. `digits`, the CIFAR sets,
            `torchvision/` and `hub/` do without.
        cache_dir: As for `read_dataset`.
        progress: As for `read_dataset`.
        settings: Other fields of `DataConfig`, such as `image_size=32` or `unreadable="skip"`.

    Returns:
        As `read_dataset`.

    Raises:
        DataError: If the data is not as described.
    """
    config = DataConfig(name=name, root=None if root is None else str(root), **settings)
    return read_dataset(config, cache_dir, progress)


@torch_defaults()
def read_dataset(
    config: DataConfig,
    cache_dir: str | Path | None = None,
    progress: Progress = no_progress,
    pictures: InMemory | None = None,
) -> ImageData:
    """Read the data set that the settings name.

    Without `image_size`, the size is the data set's own. For `folder` that is, over up to 200
    pictures, spread evenly over both splits in the order of their names, their short side if all
    have one size, else the median short side or 224, whichever is smaller. Without `in_memory`,
    files are decoded at once if their pixels take up to 2 GiB, and else streamed (`imagenet-1k`
    always streams). Arrays (`digits`, .npz, official CIFAR) are always in memory. A share
    `val_fraction` of each class is held out, at least one picture, where the data has no split of
    its own (`digits`, `folder` without train/ and others).

    Args:
        config: The settings.
        cache_dir: Folder of downloads, and of the mean and standard deviation of streamed sets;
            None is ~/.cache/gvbsm.
        progress: Wraps each loop over pictures to decode, as `tqdm` does.
        pictures: Pictures from Python code, if `config.name` is `memory`.

    Returns:
        The data set. Its normalization is that of the training pictures, over 20,000 of them, drawn
        with a fixed seed, if a streamed set has more; `imagenet-1k` has the usual constants, which
        pre-trained backbones expect.

    Raises:
        DataError: If the data is not as described.
    """
    cache = cache_folder() if cache_dir is None else user_path(cache_dir)
    spec, raw, skipped, root = _open(config, cache, progress, pictures)
    for note in raw.notes:
        log.warning("%s", note)
    size, channels = _size(config, spec, raw)
    in_memory = is_kept(config, len(raw.train) + len(raw.test), channels, size)
    train = _settle(raw.train, channels, size, in_memory, progress)
    test = replace(raw.test, crop=config.test_crop)
    test = _settle(test, channels, size, in_memory, progress)
    header = [config.name, raw.class_names, channels, size]
    header += [] if config.test_crop == 1 else [config.test_crop]
    fingerprint = _fingerprint(header, (train, test), raw.root or root)
    normalization, value_range = spec.normalization, None
    if normalization is None:
        if train.images is not None:
            statistics = pixel_statistics([train.images], channels)
        else:
            file = cache / "mean_std" / f"{fingerprint}.json"
            statistics = cached_pixel_statistics(file, train.paths or (), channels, size, progress)
        normalization, value_range = statistics
        check_range(config.name, value_range)
    left_out = {**raw.left_out, **({UNREADABLE: skipped} if skipped else {})}
    splits = {"train": raw.train, "test": raw.test}
    reading = account(splits, raw.class_names, left_out, raw.notes, value_range, raw.held_out)
    return ImageData(
        config.name,
        raw.class_names,
        channels,
        size,
        train,
        test,
        normalization,
        fingerprint,
        skipped,
        raw.notes,
        reading,
        config.test_crop,
    )


def is_kept(config: DataConfig, pictures: int, channels: int, size: int) -> bool:
    """Return whether the pictures of files are decoded at once and kept in memory."""
    if config.in_memory is not None:
        return config.in_memory
    spec, *_ = _check_settings(config)
    return pictures * channels * size**2 <= MEMORY_LIMIT and not spec.streams


@torch_defaults()
def survey_dataset(config: DataConfig, pictures: InMemory | None = None) -> ImageData:
    """List a data set without decoding its files: classes, pictures, side and channels.

    Args:
        config: The settings.
        pictures: Pictures from Python code, as for `read_dataset`.

    Returns:
        As `read_dataset`, with pictures of any size, with a fingerprint only if they are files, and
        normalized to the interval from -1 to 1.

    Raises:
        DataError: If the data is not as described.
    """
    spec, raw, _, root = _open(config, cache_folder(), pictures=pictures)
    size, channels = _size(config, spec, raw)
    plain = Normalization((0.5,) * channels, (0.5,) * channels)
    splits, fingerprint = (raw.train, raw.test), ""
    if raw.train.paths is not None:
        fingerprint = _fingerprint([config.name, raw.class_names], splits, raw.root or root)
    return ImageData(config.name, raw.class_names, channels, size, *splits, plain, fingerprint)


def _open(
    config: DataConfig,
    cache: Path,
    progress: Progress = no_progress,
    pictures: InMemory | None = None,
) -> tuple[DatasetSpec, Raw, tuple[str, ...], Path | None]:
    """Find the pictures: the spec, both splits, the names of those left out, and the root."""
    spec, member, root = _check_settings(config)
    load = spec.load if pictures is None else partial(memory.read_memory, pictures)
    raw = load(Request(config, root, cache, member, progress))
    _check(raw, str(root or config.name))
    skipped: tuple[str, ...] = ()
    if config.unreadable == "skip":
        (train, test), skipped = leave_out((raw.train, raw.test), cache / "unreadable", progress)
        raw = replace(raw, train=train, test=test)
        _check(raw, str(root or config.name))
    return spec, raw, skipped, root


def _size(config: DataConfig, spec: DatasetSpec, raw: Raw) -> tuple[int, int]:
    """Side of the pictures in pixels, and number of channels, by the settings or a sample."""
    check_depth(sample := sample_files(raw))
    size, channels = _geometry(raw, spec, sample)
    return config.image_size or size, channels


_IMAGENET_PIXELS = Normalization((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_SPECS = (
    DatasetSpec(SOURCES["digits"], sources.read_digits),
    DatasetSpec(SOURCES["cifar10"], partial(arrays.read_cifar, kind="CIFAR10")),
    DatasetSpec(SOURCES["cifar100"], partial(arrays.read_cifar, kind="CIFAR100")),
    DatasetSpec(SOURCES["tiny-imagenet"], folders.read_tiny_imagenet),
    DatasetSpec(SOURCES["imagenette"], folders.read_folder, _IMAGENET_PIXELS),
    DatasetSpec(SOURCES["imagenet-1k"], shards.read_imagenet, _IMAGENET_PIXELS, streams=True),
    DatasetSpec(SOURCES["folder"], partial(folders.read_folder, may_split=True)),
    DatasetSpec(SOURCES["npz"], arrays.read_npz),
    DatasetSpec(SOURCES["webdataset"], shards.read_shards),
    DatasetSpec(SOURCES["hub"], hub_sets.read_hub),
)
DATASETS: dict[str, DatasetSpec] = {spec.source.name: spec for spec in _SPECS}
_MEMORY = DatasetSpec(SOURCES[MEMORY], memory.refuse)
# Names that go on after a slash.
LIBRARIES = {
    "hub": DatasetSpec(SOURCES["hub/USER/NAME"], hub_sets.read_hub),
    "torchvision": DatasetSpec(SOURCES["torchvision/NAME"], torchvision_sets.read_torchvision),
}
