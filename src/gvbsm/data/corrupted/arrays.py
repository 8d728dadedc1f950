"""Corrupted sets in the form of CIFAR-10-C: a folder with KIND.npy and labels.npy.

KIND.npy holds the N test pictures at severity 1, then at severity 2, and so on to 5: uint8
(5 N, size, size, channels). labels.npy holds the labels of all rows, (5 N,), or of N.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gvbsm.data.datasets import ImageData
from gvbsm.data.pictures import DataError

SEVERITIES = 5


def check_arrays(folder: Path, kinds: Sequence[str], data: ImageData) -> None:
    """Check that a folder has the corrupted copies of the test pictures, in their order.

    Raises:
        DataError: If a file is missing or does not fit the test pictures.
    """
    if not folder.is_dir():
        raise DataError(f"evaluation.corruptions.folder: {folder} is not a folder")
    labels, expected = _opened(folder / "labels.npy"), data.test.labels.numpy()
    rows = len(expected) if labels.shape == expected.shape else SEVERITIES * len(expected)
    whole = np.resize(expected, rows)
    if labels.shape != whole.shape or not np.array_equal(labels, whole):
        raise DataError(
            f"{folder / 'labels.npy'}: its labels are not those of the {len(expected)} test "
            f"pictures of {data.name}, {SEVERITIES} times or once; give the corrupted set of these"
        )
    size = data.image_size
    shape = (SEVERITIES * len(expected), size, size, data.channels)
    for kind in kinds:
        array = _opened(path := array_path(folder, kind))
        if array.dtype != np.uint8 or array.shape != shape:
            raise DataError(
                f"{path} must be uint8 {list(shape)}, found {array.dtype} {list(array.shape)}"
            )


def array_path(folder: Path, kind: str) -> Path:
    """The file of a kind."""
    return folder / f"{kind}.npy"


def count_pictures(folder: Path, kind: str) -> int:
    """Return of how many test pictures a folder has copies.

    Raises:
        DataError: If the file of the kind cannot be read.
    """
    return len(_opened(array_path(folder, kind))) // SEVERITIES


def read_copies(folder: Path, kind: str, severities: Sequence[int], index: Tensor) -> Tensor:
    """Read the copies of some test pictures.

    Args:
        folder: The folder.
        kind: Kind of corruption.
        severities: Severities, each from 1 to 5.
        index: Which of the test pictures, int64 (n,).

    Returns:
        uint8 (severities, n, channels, size, size).

    Raises:
        DataError: If the file cannot be read.
    """
    chosen = np.stack([*_chosen(folder, kind, severities, index)])
    return torch.from_numpy(chosen).permute(0, 1, 4, 2, 3).contiguous()


def hash_copies(folder: Path, kind: str, severities: Sequence[int], index: Tensor) -> str:
    """Return the SHA-256 of the copies that `read_copies` reads, one severity in memory at a time.

    Raises:
        DataError: If the file cannot be read.
    """
    digest = hashlib.sha256()
    for copies in _chosen(folder, kind, severities, index):
        digest.update(copies.data)
    return digest.hexdigest()


def _chosen(
    folder: Path, kind: str, severities: Sequence[int], index: Tensor
) -> Iterator[NDArray[Any]]:
    """Yield the copies of some pictures, (n, size, size, channels), severity by severity."""
    array = _opened(array_path(folder, kind))
    count, rows = len(array) // SEVERITIES, index.numpy()
    for severity in severities:
        yield array[count * (severity - 1) + rows]


def _opened(path: Path) -> NDArray[Any]:
    """Map an array of a file into memory."""
    try:
        array: NDArray[Any] = np.lib.format.open_memmap(path, mode="r")
    except FileNotFoundError:
        raise DataError(f"evaluation.corruptions.folder: there is no {path}") from None
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read as an array: {error}") from None
    return array
