"""Mean, deviation and range of the training pixels."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from gvbsm.data.pictures import DataError, PictureFile, Progress, decode
from gvbsm.data.pixels import Normalization
from gvbsm.files.jsontext import write_cache

SAMPLED_PICTURES = 20_000  # pictures that these are taken over in a streamed set
LEAST_BRIGHTEST = 32  # of 255; a set whose brightest pixel is darker was not scaled to 0..255


class PixelStatistics(NamedTuple):
    """Normalization of the training pixels, and their least and greatest level of 0 to 255."""

    normalization: Normalization
    value_range: tuple[int, int]


def pixel_statistics(batches: Iterable[Tensor], channels: int) -> PixelStatistics:
    """Exact statistics, from whole-number histograms, in float64.

    The deviation is the population's (divided by the count), at least 1/255.

    Args:
        batches: uint8 pictures, each of shape (n, C, H, W).
        channels: C.
    """
    counts = torch.zeros(channels, 256, dtype=torch.int64)
    for batch in batches:
        for channel in range(channels):
            counts[channel] += torch.bincount(batch[:, channel].flatten(), minlength=256)
    weights = counts.double() / counts.sum(1, keepdim=True)
    values = torch.arange(256, dtype=torch.float64) / 255
    mean = weights @ values  # (C,)
    variance = (weights * (values - mean[:, None]) ** 2).sum(1)
    std = variance.sqrt().clamp(min=1 / 255)  # a constant channel must not divide by zero
    levels = counts.sum(0).nonzero().flatten()
    value_range = (int(levels[0]), int(levels[-1])) if len(levels) else (0, 0)
    normalization = Normalization(tuple(mean.tolist()), tuple(std.tolist()))
    return PixelStatistics(normalization, value_range)


def cached_pixel_statistics(
    file: Path, paths: Sequence[PictureFile], channels: int, size: int, progress: Progress
) -> PixelStatistics:
    """Statistics of a streamed set, over a sample that is drawn with a fixed seed."""
    with suppress(OSError, ValueError, KeyError, TypeError):
        stored = json.loads(file.read_text(encoding="utf-8"))
        mean, std = (tuple(float(value) for value in stored[key]) for key in ("mean", "std"))
        low, high = (int(value) for value in stored["range"])
        if len(mean) == len(std) == channels and min(std) > 0 and 0 <= low <= high <= 255:
            return PixelStatistics(Normalization(mean, std), (low, high))
    order = torch.randperm(len(paths), generator=torch.Generator().manual_seed(0))
    chosen = [paths[index] for index in order[:SAMPLED_PICTURES].sort().values.tolist()]
    pictures = decode(chosen, channels, size, progress)
    statistics = pixel_statistics((picture[None] for picture in pictures), channels)
    write_cache(file, {**asdict(statistics.normalization), "range": statistics.value_range})
    return statistics


def check_range(name: str, value_range: tuple[int, int]) -> None:
    """Check that pixels were scaled to 0..255, as those of masks or of few bits are not.

    Raises:
        DataError: If the brightest is nearly black.
    """
    low, high = value_range
    if 0 < high < LEAST_BRIGHTEST:
        raise DataError(
            f"the training pixels of {name} are {low} to {high} of 255, nearly black: scale them "
            "to 0 to 255"
        )
