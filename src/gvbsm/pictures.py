"""Pictures: reading them from files, resizing them, and to and from normalized pixels.

Shapes: N pictures, C channels, H rows, W columns, S the side of a square picture.
"""

import math
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal, Protocol, TypeVar

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor
from torchvision.transforms.v2 import functional as transforms

MOST_PIXELS = 89_478_485  # of one picture: Pillow warns beyond, and refuses twice as many
FORMATS = ("PNG", "JPEG", "MPO", "JPEG2000", "WEBP", "AVIF", "BMP", "GIF", "PPM", "TIFF")
CHUNK = 256  # pictures handed to the decoding threads at a time

Item = TypeVar("Item")
Progress = Callable[[Iterable[Any]], Iterable[Any]]
"""Wraps a loop, as `tqdm` does."""


class DataError(ValueError):
    """A fault of the user's data: one line saying what was expected, what was found, what to do."""


class Stored(Protocol):
    """A picture that is no file of its own: a member of an archive, a row of a table.

    Its text names it, in messages and in fingerprints; all pictures of a split can be sorted.
    """

    @property
    def nbytes(self) -> int:
        """Bytes of the encoded picture, known without reading it."""
        ...

    def open(self) -> Image.Image:
        """Open it as Pillow opens a file: the head is read, the pixels are not."""
        ...

    def __lt__(self, other: Any) -> bool: ...


Lying = Path | Stored
"""Where a picture lies."""


@dataclass(frozen=True, eq=False)
class Split:
    """Pictures of one split: in memory (`images`) or where they lie (`paths`), never both."""

    labels: Tensor  # int64, shape (N,)
    images: Tensor | None = None  # uint8, shape (N, C, H, W)
    paths: tuple[Lying, ...] | None = None

    def __post_init__(self) -> None:
        pictures = self.images if self.paths is None else self.paths
        if pictures is None or (self.images is not None and self.paths is not None):
            raise ValueError("give exactly one of `images` and `paths`")
        if len(pictures) != len(self.labels):
            raise DataError(f"{len(pictures)} pictures but {len(self.labels)} labels in one split")

    def __len__(self) -> int:
        return len(self.labels)

    def select(self, index: Tensor) -> "Split":
        """The pictures at `index`, int64 (n,), in its order."""
        if self.images is not None:
            return Split(self.labels[index], self.images[index])
        assert self.paths is not None
        return Split(self.labels[index], paths=tuple(self.paths[i] for i in index.tolist()))


def _per_channel(values: Sequence[float], like: Tensor | None = None) -> Tensor:
    found = torch.tensor(values, dtype=torch.float32).view(-1, 1, 1)  # (C, 1, 1)
    return found if like is None else found.to(like.device, non_blocking=True)


def normalize(images: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Turn uint8 pictures, shape (..., C, H, W), into float32 `(pixel / 255 - mean) / std`."""
    if images.dtype != torch.uint8:
        raise ValueError(f"`images` must be uint8, got {images.dtype}")
    return (images.float() / 255 - _per_channel(mean, images)) / _per_channel(std, images)


def denormalize(
    images: Tensor,
    mean: Sequence[float],
    std: Sequence[float],
    rounding: Literal["nearest", "truncate"] = "nearest",
) -> Tensor:
    """Turn normalized pictures, shape (..., C, H, W), back into uint8: the inverse of `normalize`.

    Rounds and clamps. The field's reference code truncates, which darkens by half a grey level:
    `rounding="truncate"` does so, and is no inverse.
    """
    levels = (images.float() * _per_channel(std, images) + _per_channel(mean, images)) * 255
    levels = levels.round() if rounding == "nearest" else levels
    return levels.clamp(0, 255).to(torch.uint8)


def pixel_bounds(mean: Sequence[float], std: Sequence[float]) -> tuple[Tensor, Tensor]:
    """The normalized values of black and of white, each of shape (1, C, 1, 1)."""
    center, scale = _per_channel(mean)[None], _per_channel(std)[None]
    return (0 - center) / scale, (1 - center) / scale


def _to_mode(picture: Image.Image, mode: str) -> Image.Image:
    if picture.mode == "F":
        raise ValueError("float pixels have no fixed white: save it with 8 or 16 bits")
    if picture.mode.startswith("I"):  # Pillow's own conversion would clip 16 bits, not scale them
        values = np.asarray(picture).astype(np.int64)
        if values.min() < 0 or values.max() > 65535:
            raise ValueError("pixels beyond 16 bits: save it with 8 or 16 bits")
        picture = Image.fromarray(np.rint(values / 257).astype(np.uint8))
    elif picture.has_transparency_data:
        picture = picture.convert("RGBA")
        white = Image.new("RGBA", picture.size, "white")
        picture = Image.alpha_composite(white, picture)
    return picture.convert(mode)


def no_progress(items: Iterable[Any]) -> Iterable[Any]:
    """The `Progress` of those who want none."""
    return items


def open_file(file: Path | BinaryIO) -> Image.Image:
    """Open an encoded picture of one of `FORMATS` without reading its pixels.

    The content decides the format, never the name. PostScript and other formats that Pillow hands
    to a program are not among them.

    Raises:
        OSError: If it is a folder, pipe or device, or no picture of these formats.
    """
    if isinstance(file, Path) and not file.is_file():
        kind = "no regular file" if os.path.lexists(file) else "missing"
        raise OSError(f"it is {kind}")
    Image.init()
    return Image.open(file, formats=[name for name in FORMATS if name in Image.OPEN])


def open_image(path: Lying) -> Image.Image:
    """Open a picture without reading its pixels."""
    return open_file(path) if isinstance(path, Path) else path.open()


def read_image(path: Lying, channels: int) -> Tensor:
    """Read one picture upright (EXIF orientation applied), as uint8 of shape (C, H, W).

    Transparency is laid over white, the page that such pictures are drawn for; the colour stored
    under a clear pixel is arbitrary. 16-bit grey is scaled to 8 bits.

    Args:
        path: A file that Pillow can read, or a picture stored otherwise; of an animation, its
            first frame is taken.
        channels: 1 for greyscale, 3 for RGB.

    Raises:
        DataError: If the file cannot be read to its end.
    """
    if channels not in (1, 3):
        raise ValueError(f"`channels` must be 1 or 3, got {channels}")
    try:
        with open_image(path) as file:
            if math.prod(file.size) > MOST_PIXELS:  # a few bytes may unpack into a full memory
                raise ValueError(f"{file.size[0]} x {file.size[1]} pixels are too many")
            file.load()
            picture = _to_mode(ImageOps.exif_transpose(file), "L" if channels == 1 else "RGB")
    except Exception as error:  # on a broken file Pillow's decoders raise almost any built-in
        raise DataError(f"cannot read {path}: {error}; repair or remove the file") from error
    pixels = torch.from_numpy(np.array(picture))
    return pixels[None] if channels == 1 else pixels.permute(2, 0, 1).contiguous()


def write_image(path: Path | BinaryIO, image: Tensor, **options: Any) -> None:
    """Write a uint8 picture, shape (C, H, W) with 1 or 3 channels, in the format of its suffix.

    Args:
        path: The file; an open one is told its `format` among the options.
        image: The picture.
        options: The format's own, such as `quality` of JPEG.
    """
    pixels = image.permute(1, 2, 0).numpy()  # (H, W, C)
    Image.fromarray(pixels.squeeze(2) if len(image) == 1 else pixels).save(path, **options)


def resize_to(image: Tensor, size: int) -> Tensor:
    """Scale the short side to `size` (antialiased bilinear) and crop the centre square.

    Args:
        image: uint8, shape (..., C, H, W).
        size: Side of the result, in pixels.

    Returns:
        uint8, shape (..., C, size, size).
    """
    if tuple(image.shape[-2:]) == (size, size):
        return image
    scaled = transforms.resize(image, [size], antialias=True)
    cropped: Tensor = transforms.center_crop(scaled, [size, size])
    return cropped.contiguous()


def decode(
    paths: Sequence[Lying], channels: int, size: int, progress: Progress
) -> Iterator[Tensor]:
    """Yield each picture, shape (C, S, S), in order; a broken file stops within one chunk."""
    pictures = in_threads(lambda path: resize_to(read_image(path, channels), size), paths)
    for _ in progress(range(len(paths))):  # a range, so that a progress bar knows the total
        yield next(pictures)


def in_threads(function: Callable[[Any], Item], items: Sequence[Any]) -> Iterator[Item]:
    """What a function gives for each item, in order, by threads that are a chunk ahead at most."""
    with ThreadPoolExecutor(max_workers=min(16, os.cpu_count() or 1)) as pool:
        for start in range(0, len(items), CHUNK):
            yield from pool.map(function, items[start : start + CHUNK])


def class_members(labels: Tensor, classes: int, ipc: int) -> Iterator[Tensor]:
    """Indices of each class's pictures, int64 (n,), class by class.

    Args:
        labels: Classes of the pictures, int64 (pictures,).
        classes: Number of classes.
        ipc: Pictures that each class must have.

    Raises:
        DataError: If a class has fewer.
    """
    for label in range(classes):
        members = (labels == label).nonzero().squeeze(1)
        if len(members) < ipc:
            raise DataError(
                f"class {label} has {len(members)} training pictures, fewer than ipc={ipc}; lower "
                "ipc, or leave out the methods that select pictures (--baselines.methods '[full]')"
            )
        yield members
