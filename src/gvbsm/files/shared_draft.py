"""A safetensors file that several processes write, and that a stopped run goes on with.

Rows are written once, at their final positions in a draft, `.gvbsm-NAME.draft` beside the file.
When all are there, the header is written and the draft is renamed.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from gvbsm.files.artifacts import (
    ArtifactError,
    check_replaceable,
    explain_write_errors,
    publish,
)
from gvbsm.files.streamed_file import Layout, Rows

ALIGNMENT = 4096  # bytes; so a longer version number in the header moves no row


def draft_of(path: Path) -> Path:
    """Return the path of the draft of a file."""
    return path.with_name(f".gvbsm-{path.name}.draft")


def remove_draft(path: Path) -> None:
    """Remove the draft of a file, if there is one."""
    draft = draft_of(path)
    if draft.is_file() and not draft.is_symlink():
        draft.unlink()


def row_checksums(values: Tensor) -> list[int]:
    """CRC-32 of each row of a tensor (rows, ...)."""
    rows = values.detach().cpu().contiguous().view(len(values), -1)
    return [zlib.crc32(row.view(torch.uint8).numpy().data) for row in rows]


class SharedDraft:
    """The draft of a file.

    Args:
        path: The file.
        tensors: Name -> type and shape of the tensor.
        longest_header: A header that is at least as long as that in the end, since the tensors
            follow it.
    """

    def __init__(
        self, path: Path, tensors: Mapping[str, Rows], longest_header: Mapping[str, Any]
    ) -> None:
        self._final, self.path = path, draft_of(path)
        self._layout = Layout(tensors, longest_header, ALIGNMENT)

    def prepare(self) -> bool:
        """Create the draft in its full size, if there is none of that size.

        One process calls this before any of them writes.

        Returns:
            Whether there was one, so that rows in it may be valid.

        Raises:
            ArtifactError: If the file may not be written, or something else has the draft's name.
            OSError: If the disk may not be written.
        """
        check_replaceable(self._final)
        if os.path.lexists(self.path) and (self.path.is_symlink() or not self.path.is_file()):
            raise ArtifactError(f"{self.path} is no regular file; move it away")
        if self.path.is_file() and self.path.stat().st_size == self._layout.nbytes:
            return True
        with explain_write_errors(self._final):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.path.unlink(missing_ok=True)
            with self.path.open("xb") as file:
                file.truncate(self._layout.nbytes)
        return False

    @contextmanager
    def _opened(self) -> Iterator[BinaryIO]:
        """Open the draft; all that was written is on the disk when the block ends."""
        with explain_write_errors(self._final), self.path.open("r+b") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())

    def write(self, name: str, index: Tensor, values: Tensor) -> None:
        """Write rows of a tensor (`Layout.write`); they are on the disk on return.

        Raises:
            OSError: If the disk is full or may not be written.
        """
        with self._opened() as file:
            self._layout.write(file, name, index, values)

    def read(self, name: str, index: Tensor) -> Tensor:
        """Read rows of a tensor (`Layout.read`)."""
        with self.path.open("rb") as file:
            return self._layout.read(file, name, index)

    def finish(self, header: Mapping[str, Any], checksums: Mapping[str, Tensor]) -> None:
        """Check the rows, write the header, and give the file its name.

        Args:
            header: As for `tensors.save`: needs `kind` and `recipe`.
            checksums: Name of a tensor -> CRC-32 of each of its rows, int64 (rows,).

        Raises:
            ArtifactError: If a row is not as it was written.
            OSError: If the disk is full or may not be written.
        """
        with self._opened() as file:
            digest = self._layout.digest(file, checksums)
            file.seek(0)
            file.write(self._layout.head(header, digest))
        with explain_write_errors(self._final):
            publish(self.path, self._final)
