"""Bound what the files of a table decode to, before memory or disk space is taken for it.

A column may store one large cell once and repeat it in millions of rows, or compress its cells, so
that a file of a megabyte decodes to terabytes. Encoded pictures (PNG, JPEG) decode to about the
bytes that they take in the file.
"""

from __future__ import annotations

from dataclasses import dataclass

from gvbsm.data.pictures import DataError

MOST_RATIO = 50  # decoded bytes for each byte in the files
MOST_GROWTH = 256 * 1024**2  # bytes by which files may grow whatever the ratio
VALUE_BYTES = 8  # of a number, or of the place of a text or picture


@dataclass
class Budget:
    """The bytes that files may decode to, and those counted so far.

    Attributes:
        packed: Bytes that the columns take in the files.
        limit: The most that they may decode to.
        decoded: The count.
    """

    packed: int
    limit: int
    decoded: int = 0

    def add(self, nbytes: int, path: str) -> None:
        """Count decoded bytes of a file.

        Raises:
            DataError: If the count exceeds the limit.
        """
        self.decoded += nbytes
        if self.decoded > self.limit:
            raise DataError(
                f"{path} should decode its {self.packed} bytes to at most {self.limit}, found "
                f"{self.decoded} or more: it repeats or compresses cells as no pictures do; write "
                "it anew with each picture once, as PNG or JPEG"
            )


def budget_of(packed: int) -> Budget:
    """The budget of all files of a table, whose columns take `packed` bytes."""
    return Budget(packed, max(packed + MOST_GROWTH, MOST_RATIO * packed))
