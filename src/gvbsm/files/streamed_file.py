"""Tensors that go to disk row by row, in any order, so that none is ever held whole.

The file is the one that `artifacts.save` would write, byte for byte.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from gvbsm.files.artifacts import KEY, atomic, described, digest_of, header_text

# safetensors' names of types, in the order in which it lays tensors out, from the last to the first
_TYPES = {
    torch.bool: "BOOL",
    torch.uint8: "U8",
    torch.int16: "I16",
    torch.float16: "F16",
    torch.int32: "I32",
    torch.float32: "F32",
    torch.int64: "I64",
}

PART = 2**20  # bytes that are read back at once


@dataclass(frozen=True)
class Rows:
    """What is known of a tensor before it is there.

    Attributes:
        dtype: Type of its numbers.
        shape: Its shape; the first dimension is that of its rows.
    """

    dtype: torch.dtype
    shape: Sequence[int]

    @property
    def row_bytes(self) -> int:
        """Bytes of a row."""
        return self.dtype.itemsize * math.prod(self.shape[1:])

    @property
    def nbytes(self) -> int:
        """Bytes of all rows."""
        return self.row_bytes * self.shape[0]


class RowFile:
    """A file whose tensors are being written.

    Args:
        file: It, empty.
        tensors: Name -> what the tensor will be.
        header: As for `artifacts.save`.
    """

    def __init__(
        self, file: BinaryIO, tensors: Mapping[str, Rows], header: Mapping[str, Any]
    ) -> None:
        self._file, self._tensors, self._header = file, tensors, header
        self._digest = digest_of(())  # of a length that stays
        self._left = {name: rows.shape[0] for name, rows in tensors.items()}
        order = list(_TYPES.values())
        ranked = sorted(tensors, key=lambda name: (-order.index(_TYPES[tensors[name].dtype]), name))
        self._starts, end = {}, 0
        for name in ranked:
            self._starts[name] = end
            end += tensors[name].nbytes
        self._data = len(self._head())

    def _head(self) -> bytes:
        """Everything before the tensors' bytes; its length is known before the tensors are."""
        listing: dict[str, Any] = {
            "__metadata__": {KEY: header_text({**self._header, "digest": self._digest})}
        }
        for name, start in self._starts.items():
            rows = self._tensors[name]
            listing[name] = {
                "dtype": _TYPES[rows.dtype],
                "shape": list(rows.shape),
                "data_offsets": [start, start + rows.nbytes],
            }
        text = json.dumps(listing, separators=(",", ":"), ensure_ascii=False).encode()
        text += b" " * (-len(text) % 8)
        return len(text).to_bytes(8, "little") + text

    def write(self, name: str, index: Tensor, values: Tensor) -> None:
        """Write rows of a tensor to their places; each row once.

        Args:
            name: The tensor.
            index: Places of the rows, int64 (rows,).
            values: The rows, (rows, ...).

        Raises:
            ValueError: If they are not of the tensor's type and shape, or lie outside of it.
        """
        rows = self._tensors[name]
        expected = (len(index), *rows.shape[1:])
        if values.dtype != rows.dtype or tuple(values.shape) != expected:
            raise ValueError(
                f"`{name}` takes rows {rows.dtype} {expected}, got {values.dtype} "
                f"{tuple(values.shape)}"
            )
        if len(index) and not 0 <= int(index.min()) <= int(index.max()) < rows.shape[0]:
            raise ValueError(f"`{name}` has rows 0 to {rows.shape[0] - 1}, got {index.tolist()}")
        plain = values.detach().cpu().contiguous()
        for place, run in _runs(index):
            part = plain[run].reshape(-1).view(torch.uint8)
            self._file.seek(self._data + self._starts[name] + place * rows.row_bytes)
            self._file.write(part.numpy().data)
        self._left[name] -= len(index)

    def finish(self) -> None:
        """Write what precedes the tensors.

        Raises:
            ValueError: If rows are missing.
        """
        if any(self._left.values()):
            raise ValueError(f"rows that were not written, by tensor: {self._left}")
        self._digest = digest_of(self._read_back())
        self._file.seek(0)
        self._file.write(self._head())

    def _read_back(self) -> Iterator[bytes]:
        """What `artifacts.digest` takes in, a part at a time: rows come in any order."""
        for name in sorted(self._tensors):
            rows = self._tensors[name]
            yield described(name, rows.dtype, rows.shape)
            self._file.seek(self._data + self._starts[name])
            for start in range(0, rows.nbytes, PART):
                yield self._file.read(min(PART, rows.nbytes - start))


def _runs(index: Tensor) -> Iterator[tuple[int, slice]]:
    """Rows that follow one another: the place of the first, and where they are among `index`."""
    breaks = (index[1:] - index[:-1] != 1).nonzero().flatten() + 1
    edges = [0, *breaks.tolist(), len(index)]
    for start, stop in itertools.pairwise(edges):
        if stop > start:
            yield int(index[start]), slice(start, stop)


@contextmanager
def row_file(
    path: Path, tensors: Mapping[str, Rows], header: Mapping[str, Any]
) -> Iterator[RowFile]:
    """A file to be filled within the block; it takes its name in one step at the block's end.

    Args:
        path: The file.
        tensors: Name -> what the tensor will be.
        header: As for `artifacts.save`: needs `kind` and `recipe`.

    Raises:
        ValueError: If rows are missing at the end.
        OSError: If it cannot be written.
    """
    with atomic(path) as temporary, temporary.open("w+b") as file:
        rows = RowFile(file, tensors, header)
        yield rows
        rows.finish()
