"""A sample of the files of a data set: the sizes, kinds and depths of its pictures."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass

import numpy as np

from gvbsm.data.pictures import (
    REPAIR_OR_SKIP,
    DataError,
    greatest_value,
    is_deep,
    open_image,
)
from gvbsm.data.sources.request import Raw

SAMPLED_HEADERS = 200  # files whose headers are read for the image size, channels and depth
SAMPLED_DEEP = 20  # of these, pictures of more than 8 bits whose pixels are read
LEAST_DEEP = 2**14  # a set of 16 bits whose greatest value is less holds fewer bits


@dataclass(frozen=True)
class FileSample:
    """What the sampled files of a data set hold (`sample_files`).

    Attributes:
        sizes: Width and height of each picture.
        modes: Pillow's names of their kinds of pixels.
        greatest: The greatest value of each picture of more than 8 bits, of the first
            `SAMPLED_DEEP`.
        fault: Why the first picture that cannot be opened cannot; None if all can.
    """

    sizes: tuple[tuple[int, int], ...]
    modes: frozenset[str]
    greatest: tuple[int, ...]
    fault: DataError | None


def sample_files(raw: Raw) -> FileSample:
    """Open up to `SAMPLED_HEADERS` files, spread evenly over both splits in the order of names.

    One order for both, so that what is found does not depend on how a folder was split.
    """
    paths = sorted((*(raw.train.paths or ()), *(raw.test.paths or ())))
    sizes: list[tuple[int, int]] = []
    modes: set[str] = set()
    greatest: list[int] = []
    fault: DataError | None = None
    spread = np.unique(np.linspace(0, len(paths) - 1, SAMPLED_HEADERS).astype(int))
    for path in (paths[index] for index in spread if paths):
        try:
            with open_image(path) as file:
                sizes.append(file.size)
                modes.add(file.mode)
                if is_deep(file) and len(greatest) < SAMPLED_DEEP:
                    with suppress(Exception):  # what cannot be decoded is met where it is read
                        greatest.append(greatest_value(file, path))
        except Exception as error:  # as in `read_image`
            fault = fault or DataError(f"cannot read {path}: {error}; {REPAIR_OR_SKIP}")
    return FileSample(tuple(sizes), frozenset(modes), tuple(greatest), fault)


def check_depth(sample: FileSample) -> None:
    """Check that 16-bit pictures use their full range: others would become nearly black.

    Raises:
        DataError: If the greatest value of a sample is that of fewer bits.
    """
    values = sample.greatest
    if values and max(values) < LEAST_DEEP:
        raise DataError(
            f"the pictures of more than 8 bits reach {max(values)} of 65535 in a sample of "
            f"{len(values)}, and would be nearly black: scale their values to 16 bits, or save "
            "them with 8"
        )
