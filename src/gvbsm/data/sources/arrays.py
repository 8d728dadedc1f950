"""Data sets of arrays: an .npz of the user's own, and CIFAR's official files.

Shapes: N pictures, C channels, H rows, W columns.
"""

from __future__ import annotations

import math
import os
import warnings
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.lib import format as npy
from numpy.typing import ArrayLike, NDArray

from gvbsm.data.classes import (
    MOST_NAMES_BYTES,
    check_names,
    class_name,
    labels_of,
    number_classes,
)
from gvbsm.data.pictures import DataError, Split
from gvbsm.data.reading import Findings
from gvbsm.data.sources.folders import read_folder
from gvbsm.data.sources.request import MOST_PICTURES, Raw, Request

SIDES = ("train", "test")  # each has arrays SIDE_images and SIDE_labels
MOST_RATIO = 200  # of unpacked to packed bytes: pictures do not compress so well
SMALL = 64 * 1024**2  # bytes that are unpacked whatever the ratio
MOST_SHOWN = 8  # names of a file's arrays in a message
DIM = 64  # a brightest pixel below it, of 255, is noted
_OFFICIAL_FOLDERS = {"CIFAR10": "cifar-10-batches-py", "CIFAR100": "cifar-100-python"}


def array_split(images: ArrayLike, labels: ArrayLike, where: str) -> Split:
    """Turn uint8 [N, H, W] or [N, H, W, C] and integer [N] into a split of (N, C, H, W).

    Raises:
        DataError: If the arrays are of another kind, or do not belong together.
    """
    images, labels = np.asarray(images), np.asarray(labels)
    if images.dtype != np.uint8:
        raise DataError(f"images of {where} must be uint8 (0 to 255), found {images.dtype}")
    images = images[..., None] if images.ndim == 3 else images
    if images.ndim != 4 or images.shape[3] not in (1, 3) or 0 in images.shape:
        raise DataError(
            f"images of {where} must be [N,H,W], [N,H,W,1] or [N,H,W,3], found {images.shape}"
        )
    if not np.issubdtype(labels.dtype, np.integer) or labels.size != max(labels.shape, default=0):
        raise DataError(
            f"labels of {where} must be integers [N], found {labels.dtype} {labels.shape}"
        )
    if labels.size != len(images):
        raise DataError(f"{where} has {len(images)} images but {labels.size} labels")
    pixels = torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))
    return Split(torch.from_numpy(labels.astype(np.int64).reshape(-1)), pixels)


@dataclass(frozen=True)
class _Header:
    """What an array's header says, and the bytes that the array takes in the archive."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    packed: int

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


def _find_npz(root: Path) -> Path | None:
    if not root.is_dir():
        return root
    files = sorted(path for path in root.glob("*.npz") if path.name[0] != ".")
    if len(files) > 1:
        raise DataError(f"several .npz files in {root}: pass one of {[p.name for p in files[:5]]}")
    return files[0] if files else None


def read_npz(request: Request) -> Raw:
    """Read one .npz of training and test arrays, and of `class_names` if they are given.

    Shapes and sizes are compared before an array is unpacked. Pixels of other types than uint8 are
    brought to 0 to 255 where their range leaves no doubt.

    Raises:
        DataError: If the arrays are not as expected, or unpack to more than the memory.
    """
    file = _find_npz(request.need_root())
    if file is None:
        raise DataError(f"no .npz file in {request.root}: pass the file itself as --data.root")
    names, (train, test), notes = _read_splits(file, SIDES)
    findings, known = Findings(), (*_keys(SIDES), "class_names")
    with zipfile.ZipFile(file) as archive:
        members = [name.removesuffix(".npy") for name in archive.namelist()]
    findings.leave_out("arrays of other names", *(name for name in members if name not in known))
    return Raw(names, train, test, notes=notes, left_out=findings.left_out)


def read_training_arrays(file: Path) -> tuple[tuple[str, ...], Split, tuple[str, ...]]:
    """Read the training arrays of an .npz, whether or not it has test arrays.

    Args:
        file: The .npz, as for `read_npz`.

    Returns:
        The class names, the training pictures, and what was assumed, a line each.

    Raises:
        DataError: If the training arrays are not as expected, or unpack to more than the memory.
    """
    names, (train,), notes = _read_splits(file, ("train",))
    return names, train, notes


def _read_splits(
    file: Path, sides: Sequence[str]
) -> tuple[tuple[str, ...], list[Split], tuple[str, ...]]:
    """Class names, the split of each side, and notes of what was assumed."""
    if not file.is_file():
        raise DataError(f"{file} is no regular file: expected an .npz")
    try:
        with zipfile.ZipFile(file) as archive:
            headers = _read_headers(archive, sides)
            _check_names(headers, file, sides, archive.namelist())
            _check_headers(headers, file, sides)
            arrays = {key: _read_array(archive, key) for key in headers}
    except DataError:
        raise
    except Exception as error:  # not an archive, a broken one, or pickled objects inside
        raise DataError(f"cannot read {file} as an .npz of plain arrays: {error}") from error
    notes: list[str] = []
    images = [f"{side}_images" for side in sides]
    for key in images:
        arrays[key], assumed = channels_last(arrays[key], f"{key} in {file}")
        notes += assumed
    notes += to_uint8(arrays, images, file)
    values = {side: arrays[f"{side}_labels"].reshape(-1).tolist() for side in sides}
    classes = number_classes(values["train"], _class_names(arrays, file), f"train in {file}")
    splits = [
        array_split(
            arrays[f"{side}_images"], labels_of(values[side], classes, f"{side} in {file}"), side
        )
        for side in sides
    ]
    return classes.names, splits, (*notes, *classes.notes)


def _keys(sides: Sequence[str]) -> list[str]:
    """Names of the arrays that each side must have."""
    return [f"{side}_{kind}" for side in sides for kind in ("images", "labels")]


def _read_headers(archive: zipfile.ZipFile, sides: Sequence[str]) -> dict[str, _Header]:
    """Headers of the arrays that are read, without the arrays."""
    headers = {}
    members = {info.filename: info for info in archive.infolist()}
    for key in (*_keys(sides), "class_names"):
        info = members.get(f"{key}.npy")
        if info is None:
            continue
        with archive.open(info) as stream:
            version = npy.read_magic(stream)
            read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
            shape, _, dtype = read(stream)
            array_bytes = info.file_size - stream.tell()
        header = _Header(shape, dtype, info.compress_size)
        if dtype.hasobject:
            raise ValueError(f"{key} holds Python objects; save it with a plain type")
        if header.nbytes != array_bytes:
            raise ValueError(
                f"{key} of {shape} {dtype} must have {header.nbytes} bytes, not {array_bytes}"
            )
        headers[key] = header
    return headers


def _check_names(
    headers: Mapping[str, _Header], file: Path, sides: Sequence[str], members: Sequence[str]
) -> None:
    """Check that the arrays that are read are there."""
    missing = [key for key in _keys(sides) if key not in headers]
    if missing:
        names = [name.removesuffix(".npy")[:40] for name in members]
        found = ", ".join(map(repr, names[:MOST_SHOWN])) + ", ..." * (len(names) > MOST_SHOWN)
        raise DataError(
            f"{file} lacks {', '.join(missing)}: it holds {found or 'nothing'}; save its arrays "
            f"under the names {', '.join(_keys(sides))}"
        )


def _check_headers(headers: Mapping[str, _Header], file: Path, sides: Sequence[str]) -> None:
    """Check by their headers that the arrays belong together and fit into memory."""
    for side in sides:
        images, labels = headers[f"{side}_images"], headers[f"{side}_labels"]
        count = math.prod(labels.shape)
        if labels.dtype.kind not in "iu" or count != max(labels.shape, default=0):
            raise DataError(
                f"labels of {side} in {file} must be integers [N], found {labels.dtype} "
                f"{labels.shape}"
            )
        if len(images.shape) not in (3, 4) or 0 in images.shape:
            raise DataError(
                f"images of {side} in {file} must be [N,H,W], [N,H,W,1] or [N,H,W,3], found "
                f"{images.shape}"
            )
        if images.shape[0] != count:
            raise DataError(f"{side} in {file} has {images.shape[0]} images but {count} labels")
        if count > MOST_PICTURES:  # an image of one pixel takes a hundred bytes of memory
            raise DataError(
                f"{side} in {file} has {count} images, more than {MOST_PICTURES}: take a part of it"
            )
    names = headers.get("class_names")
    if names is not None and names.nbytes > MOST_NAMES_BYTES:
        raise DataError(f"class_names in {file} have {names.nbytes} bytes: expected a name a class")
    _check_memory(headers, file)


def _check_memory(headers: Mapping[str, _Header], file: Path) -> None:
    for key, header in headers.items():
        if header.nbytes > max(SMALL, MOST_RATIO * header.packed):
            raise DataError(
                f"{key} in {file} unpacks {header.packed} bytes to {header.nbytes}, more than "
                f"{MOST_RATIO} times as many, as no pictures do: save them anew"
            )
    total = sum(header.nbytes for header in headers.values())
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if total > memory // 2:
        raise DataError(
            f"{file} unpacks to {total / 1024**3:.1f} GiB, more than half of the machine's "
            f"{memory / 1024**3:.1f} GiB of memory: save the pictures as files or tar shards, "
            "which are streamed"
        )


def _read_array(archive: zipfile.ZipFile, key: str) -> NDArray[Any]:
    with archive.open(f"{key}.npy") as stream:
        array: NDArray[Any] = npy.read_array(stream, allow_pickle=False)
    return array


def channels_last(images: NDArray[Any], where: str) -> tuple[NDArray[Any], list[str]]:
    """[N, C, H, W] as [N, H, W, C], where the sides leave no doubt; and a note of it."""
    if images.ndim == 4 and images.shape[1] in (1, 3) and images.shape[3] not in (1, 3):
        note = f"{where} of {images.shape} are taken as [N,C,H,W], channels first"
        return images.transpose(0, 2, 3, 1), [note]
    return images, []


def to_uint8(arrays: dict[str, NDArray[Any]], keys: Sequence[str], file: Path) -> list[str]:
    """Bring the images of all splits to uint8 by one rule; return notes of what was assumed.

    Args:
        arrays: Name -> array; the images among them are replaced.
        keys: Names of the images.
        file: The file, for messages.
    """
    kinds = sorted({str(arrays[key].dtype) for key in keys})
    if len(kinds) > 1:
        raise DataError(f"images of train and test in {file} must have one type, found {kinds}")
    if arrays[keys[0]].dtype.kind not in "biuf":
        raise DataError(f"images of {file} must be uint8 (0 to 255), found {kinds[0]}")
    # np.min and np.max keep a NaN of any split, which min and max may drop
    low = float(np.min([arrays[key].min() for key in keys]))
    high = float(np.max([arrays[key].max() for key in keys]))
    span = f"{low:.6g} to {high:.6g}"
    scale = 255 if high <= 1 and kinds[0] != "uint8" else 1
    # a comparison with NaN is false
    if not (low >= 0 and DIM <= scale * high <= 255) and kinds[0] != "uint8":
        raise DataError(
            f"images of {file} are {kinds[0]} from {span}: expected 0 to 255, or 0 to 1; if they "
            "are normalized, undo it, and save them as uint8"
        )
    if kinds[0] == "uint8" and high <= 1:
        raise DataError(
            f"images of {file} are uint8 from {span}, so all black of 255: multiply them by 255"
        )
    if kinds[0] == "uint8":
        dim = f"the brightest pixel of {file} is {high:.0f} of 255: should it be brighter?"
        return [dim] if high < DIM else []
    for key in keys:
        arrays[key] = _rounded(arrays[key], scale)
    return [f"images of {file} are {kinds[0]} from {span}, taken as 0 to {255 // scale}"]


def _rounded(images: NDArray[Any], scale: int) -> NDArray[np.uint8]:
    """Scaled and rounded pixels, picture by picture, so that no second float array is held."""
    pixels = np.empty(images.shape, dtype=np.uint8)
    for target, image in zip(pixels, images, strict=True):
        target[...] = np.rint(image.astype(np.float64) * scale)
    return pixels


def _class_names(arrays: Mapping[str, NDArray[Any]], file: Path) -> tuple[str, ...] | None:
    """The names of the classes, if the file gives them."""
    if "class_names" not in arrays:
        return None
    cells = arrays["class_names"].reshape(-1).tolist()
    try:
        names = tuple(class_name(c if isinstance(c, bytes) else str(c)) for c in cells)
    except UnicodeDecodeError as error:
        raise DataError(f"class_names in {file} are bytes, but no UTF-8: {error}") from error
    check_names(names, f"class_names in {file}")
    return names


def read_cifar(request: Request, kind: str) -> Raw:
    """Read an .npz, class folders or the official files, which are downloaded without a root."""
    root, folder = request.root, _OFFICIAL_FOLDERS[kind]
    if root is not None and root.name == folder:
        root = root.parent
    if root is not None and not (root / folder).is_dir():
        return read_folder(request) if _find_npz(root) is None else read_npz(request)
    import torchvision.datasets  # slow to import, and needed for these files only

    try:  # the official files are pickles; torchvision compares their md5 before it opens them
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", np.exceptions.VisibleDeprecationWarning)
            source = getattr(torchvision.datasets, kind)
            halves = [
                source(root or request.cache, t, download=root is None) for t in (True, False)
            ]
    except Exception as error:  # no network, a refused or cut connection, a wrong checksum
        raise DataError(
            f"cannot get {kind} from {root or 'its web site'}: {error}; pass as --data.root an .npz"
            f" file, a folder with train/ and test/ class folders, or one that holds {folder}/"
        ) from error
    train, test = (array_split(half.data, half.targets, kind) for half in halves)
    return Raw(tuple(halves[0].classes), train, test)
