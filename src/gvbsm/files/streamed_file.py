"""Write safetensors files row by row, so that large tensors never have to be in memory.

The file is the one that `tensors.save` would write, byte for byte.
"""

from __future__ import annotations

import itertools
import json
import math
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from gvbsm.files.artifacts import KEY, ArtifactError, atomic, digest_of, header_text
from gvbsm.files.tensors import described

# safetensors' names of types; it puts tensors of the last type first
_TYPES = {
    torch.bool: "BOOL",
    torch.uint8: "U8",
    torch.int16: "I16",
    torch.float16: "F16",
    torch.int32: "I32",
    torch.float32: "F32",
    torch.int64: "I64",
}

BLOCK_BYTES = 2**20  # read at once to compute the digest
NO_CHECKSUMS: Mapping[str, Tensor] = {}


@dataclass(frozen=True)
class Rows:
    """Type and shape of a tensor that is written row by row.

    Attributes:
        dtype: Type of its numbers.
        shape: Its shape; the first dimension counts its rows.
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


class Layout:
    """Positions of the header and of all rows in a safetensors file.

    Args:
        tensors: Name -> type and shape of the tensor.
        header: As for `tensors.save`, or one that is at least as long as that in the end.
        alignment: The tensors begin at a multiple of so many bytes, itself a multiple of 8.
    """

    def __init__(
        self, tensors: Mapping[str, Rows], header: Mapping[str, Any], alignment: int = 8
    ) -> None:
        self.tensors = tensors
        types = list(_TYPES.values())
        order = sorted(tensors, key=lambda name: (-types.index(_TYPES[tensors[name].dtype]), name))
        self._offsets, end = {}, 0
        for name in order:
            self._offsets[name] = end
            end += tensors[name].nbytes
        longest = 8 + len(self._listing(header, digest_of(())))  # all digests have one length
        self._data = -(-longest // alignment) * alignment
        self.nbytes = self._data + end

    def head(self, header: Mapping[str, Any], digest: str) -> bytes:
        """Return the bytes before the tensors, padded with blanks as safetensors permits.

        Raises:
            ValueError: If the header is longer than the layout's.
        """
        listing = self._listing(header, digest)
        room = self._data - 8
        if len(listing) > room:
            raise ValueError(f"the header takes {len(listing)} bytes, reserved were {room}")
        return room.to_bytes(8, "little") + listing.ljust(room)

    def _listing(self, header: Mapping[str, Any], digest: str) -> bytes:
        content: dict[str, Any] = {
            "__metadata__": {KEY: header_text({**header, "digest": digest})},
        }
        for name, start in self._offsets.items():
            rows = self.tensors[name]
            content[name] = {
                "dtype": _TYPES[rows.dtype],
                "shape": list(rows.shape),
                "data_offsets": [start, start + rows.nbytes],
            }
        return json.dumps(content, separators=(",", ":"), ensure_ascii=False).encode()

    def write(self, file: BinaryIO, name: str, index: Tensor, values: Tensor) -> None:
        """Write rows of a tensor to their positions.

        Args:
            file: The file, open for writing.
            name: Name of the tensor.
            index: Numbers of the rows, int64 (rows,).
            values: The rows, (rows, ...).

        Raises:
            ValueError: If type, shape or numbers of the rows do not fit the tensor.
        """
        rows = self.tensors[name]
        shape = (len(index), *rows.shape[1:])
        if values.dtype != rows.dtype or tuple(values.shape) != shape:
            raise ValueError(
                f"`{name}` takes rows {rows.dtype} {shape}, got {values.dtype} "
                f"{tuple(values.shape)}"
            )
        if len(index) and not 0 <= int(index.min()) <= int(index.max()) < rows.shape[0]:
            raise ValueError(f"`{name}` has rows 0 to {rows.shape[0] - 1}, got {index.tolist()}")
        plain = values.detach().cpu().contiguous()
        for first, run in _runs(index):
            file.seek(self._data + self._offsets[name] + first * rows.row_bytes)
            file.write(plain[run].reshape(-1).view(torch.uint8).numpy().data)

    def read(self, file: BinaryIO, name: str, index: Tensor) -> Tensor:
        """Read rows of a tensor: (rows, ...).

        Args:
            file: The file, open for reading.
            name: Name of the tensor.
            index: Numbers of the rows, int64 (rows,).
        """
        rows = self.tensors[name]
        values = torch.empty(len(index), *rows.shape[1:], dtype=rows.dtype)
        for first, run in _runs(index):
            file.seek(self._data + self._offsets[name] + first * rows.row_bytes)
            file.readinto(values[run].view(-1).view(torch.uint8).numpy().data)  # type: ignore[attr-defined]
        return values

    def digest(self, file: BinaryIO, checksums: Mapping[str, Tensor] = NO_CHECKSUMS) -> str:
        """Compute `tensors.digest` of the tensors in the file, which is read once.

        Args:
            file: The file, open for reading.
            checksums: Name of a tensor -> CRC-32 of each of its rows, int64 (rows,).

        Raises:
            ArtifactError: If a row does not match its checksum.
        """
        return digest_of(self._content(file, checksums))

    def _content(self, file: BinaryIO, checksums: Mapping[str, Tensor]) -> Iterator[bytes]:
        for name, rows in sorted(self.tensors.items()):
            yield described(name, rows.dtype, rows.shape)
            if name not in checksums:
                yield from self._blocks(file, name, BLOCK_BYTES)
                continue
            blocks = self._blocks(file, name, rows.row_bytes)
            for number, (row, checksum) in enumerate(
                zip(blocks, checksums[name].tolist(), strict=True)
            ):
                if zlib.crc32(row) != checksum:
                    raise ArtifactError(
                        f"{file.name} is damaged (row {number} of `{name}` does not match its "
                        "checksum); the same command makes it again"
                    )
                yield row

    def _blocks(self, file: BinaryIO, name: str, block_bytes: int) -> Iterator[bytes]:
        """Read a tensor's bytes in order, at most `block_bytes` at a time."""
        nbytes = self.tensors[name].nbytes
        file.seek(self._data + self._offsets[name])
        for start in range(0, nbytes, max(block_bytes, 1)):
            yield file.read(min(block_bytes, nbytes - start))


class RowFile:
    """A file whose tensors are being written."""

    def __init__(
        self, file: BinaryIO, tensors: Mapping[str, Rows], header: Mapping[str, Any]
    ) -> None:
        self._file, self._header = file, header
        self._layout = Layout(tensors, header)
        self._missing = {name: rows.shape[0] for name, rows in tensors.items()}

    def write(self, name: str, index: Tensor, values: Tensor) -> None:
        """Write rows of a tensor to their positions (`Layout.write`); each row once."""
        self._layout.write(self._file, name, index, values)
        self._missing[name] -= len(index)

    def finish(self) -> None:
        """Write the header.

        Raises:
            ValueError: If rows are missing.
        """
        if any(self._missing.values()):
            raise ValueError(f"rows that were not written, by tensor: {self._missing}")
        digest = self._layout.digest(self._file)
        self._file.seek(0)
        self._file.write(self._layout.head(self._header, digest))


def _runs(index: Tensor) -> Iterator[tuple[int, slice]]:
    """Cut row numbers into runs of successive ones: the first number, and the run in `index`."""
    breaks = (index[1:] - index[:-1] != 1).nonzero().flatten() + 1
    edges = [0, *breaks.tolist(), len(index)]
    for start, stop in itertools.pairwise(edges):
        if stop > start:
            yield int(index[start]), slice(start, stop)


@contextmanager
def row_file(
    path: Path, tensors: Mapping[str, Rows], header: Mapping[str, Any]
) -> Iterator[RowFile]:
    """Open a file to be filled within the block; it takes its name in one step at the block's end.

    Args:
        path: The file.
        tensors: Name -> type and shape of the tensor.
        header: As for `tensors.save`: needs `kind` and `recipe`.

    Raises:
        ValueError: If rows are missing at the end.
        OSError: If it cannot be written.
    """
    with atomic(path) as temporary, temporary.open("w+b") as file:
        rows = RowFile(file, tensors, header)
        yield rows
        rows.finish()
