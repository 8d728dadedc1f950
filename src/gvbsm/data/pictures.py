"""Read pictures from files, write them, and bring them to size.

Shapes: N pictures, C channels, H rows, W columns, S the side of a square picture.
"""

import io
import logging
import math
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO, Protocol, TypeVar

import numpy as np
import torch
from PIL import (
    ExifTags,
    Image,
    JpegImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    UnidentifiedImageError,
)
from torch import Tensor

log = logging.getLogger("gvbsm")

MOST_PIXELS = 89_478_485  # of one picture: Pillow warns beyond, and refuses twice as many
MOST_ELONGATED = 16  # long side over short side: what lies further out is cut off before scaling
CHUNK = 256  # pictures handed to the decoding threads at a time
PngImagePlugin.MAX_TEXT_CHUNK = 16 * 1024**2  # bytes: editors put whole histories beside pixels

# Formats that are read, by their content; none of them starts a program or holds vectors. `dib` and
# `mpo` are what some cameras and editors call BMP and JPEG.
FORMATS = ("AVIF", "BMP", "DIB", "GIF", "JPEG", "JPEG2000", "MPO", "PNG", "PPM", "TIFF", "WEBP")
SUFFIXES = (
    ".avif",
    ".bmp",
    ".dib",
    ".gif",
    ".jfif",
    ".jp2",
    ".jpe",
    ".jpeg",
    ".jpg",
    ".mpo",
    ".pbm",
    ".pgm",
    ".png",
    ".pnm",
    ".ppm",
    ".tif",
    ".tiff",
    ".webp",
)

REPAIR = "repair it or take it out"
REPAIR_OR_SKIP = f"{REPAIR}, or leave out all such pictures with --data.unreadable skip"

GRAY_MODES = {"1", "L", "LA", "I", "I;16", "I;16B", "I;16L"}  # Pillow's

_TURNS = {  # EXIF's orientation -> how to turn a picture upright
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_END_OF_JPEG = b"\xff\xd9"

Item = TypeVar("Item")
Progress = Callable[[Iterable[Any]], Iterable[Any]]
"""Wraps a loop, as `tqdm` does."""


class DataError(ValueError):
    """A fault of the user's data: one line saying what was expected, what was found, what to do."""


class PackedPicture(Protocol):
    """A picture that is no file of its own: a member of an archive, a row of a table.

    Its text names it, in messages and in fingerprints; all pictures of a split can be sorted.
    """

    @property
    def nbytes(self) -> int:
        """Bytes of the encoded picture, known without reading it."""
        ...

    def open(self) -> Image.Image:
        """Open it by `open_file`: the head is read, the pixels are not."""
        ...

    def __lt__(self, other: Any) -> bool: ...


PictureFile = Path | PackedPicture
"""The file of a picture, or a picture inside of another file."""


@dataclass(frozen=True, eq=False)
class Split:
    """Pictures of one split: in memory (`images`) or where they lie (`paths`), never both."""

    labels: Tensor  # int64, shape (N,)
    images: Tensor | None = None  # uint8, shape (N, C, H, W)
    paths: tuple[PictureFile, ...] | None = None
    crop: float = 1.0  # share of the short side that is kept of pictures at `paths`

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
            return replace(self, labels=self.labels[index], images=self.images[index])
        assert self.paths is not None
        paths = tuple(self.paths[i] for i in index.tolist())
        return replace(self, labels=self.labels[index], paths=paths)


def _to_mode(picture: Image.Image, mode: str) -> Image.Image:
    if picture.mode == "F":
        raise ValueError("float pixels have no fixed white: save it with 8 or 16 bits")
    if picture.mode.startswith("I"):  # Pillow's own conversion would clip 16 bits, not scale them
        values = np.asarray(picture).astype(np.int64)
        if values.min() < 0 or values.max() > 65535:
            raise ValueError("pixels beyond 16 bits: save it with 8 or 16 bits")
        if picture.has_transparency_data:  # a gray value that is clear
            values[values == picture.info["transparency"]] = 65535
        picture = Image.fromarray(np.rint(values / 257).astype(np.uint8))
    elif picture.has_transparency_data:
        picture = picture.convert("RGBA")
        white = Image.new("RGBA", picture.size, "white")
        picture = Image.alpha_composite(white, picture)
    return picture.convert(mode)


def no_progress(items: Iterable[Any]) -> Iterable[Any]:
    """The `Progress` of those who want none."""
    return items


def open_file(file: Path | BinaryIO, formats: Sequence[str] = FORMATS) -> Image.Image:
    """Open an encoded picture of one of these formats without reading its pixels.

    The content decides the format, never the name. PostScript and other formats that Pillow hands
    to a program are not among them.

    Raises:
        OSError: If it is a folder, pipe or device, or no picture of these formats.
    """
    if isinstance(file, Path) and not file.is_file():
        kind = "no regular file" if os.path.lexists(file) else "missing"
        raise OSError(f"it is {kind}")
    Image.init()
    try:
        return Image.open(file, formats=[name for name in formats if name in Image.OPEN])
    except UnidentifiedImageError:  # Pillow would name an open file by its place in memory
        kinds = ", ".join(formats)
        raise UnidentifiedImageError(
            f"cannot identify image file: its content is none of {kinds}"
        ) from None


def open_image(path: PictureFile) -> Image.Image:
    """Open a picture without reading its pixels."""
    return open_file(path) if isinstance(path, Path) else path.open()


def read_image(path: PictureFile, channels: int, cure: str = REPAIR_OR_SKIP) -> Tensor:
    """Read one picture upright (EXIF orientation applied), as uint8 of shape (C, H, W).

    Transparency is laid over white, the page that such pictures are drawn for; the color stored
    under a clear pixel is arbitrary. 16-bit gray is scaled to 8 bits. A JPEG that lacks nothing but
    its end marker is read, and so are pictures whose metadata are broken.

    Args:
        path: A file that Pillow can read, or a picture stored otherwise; of an animation, its
            first frame is taken.
        channels: 1 for greyscale, 3 for RGB.
        cure: What to do if it cannot be read.

    Raises:
        DataError: If the file cannot be read to its end.
    """
    if channels not in (1, 3):
        raise ValueError(f"`channels` must be 1 or 3, got {channels}")
    try:
        with open_image(path) as file:
            if math.prod(file.size) > MOST_PIXELS:  # a few bytes may unpack into a full memory
                raise ValueError(f"{file.size[0]} x {file.size[1]} pixels are too many")
            picture = _upright(_loaded(file, path))
            picture = _to_mode(picture, "L" if channels == 1 else "RGB")
    except Exception as error:  # on a broken file Pillow's decoders raise almost any built-in
        raise DataError(f"cannot read {path}: {error}; {cure}") from error
    pixels = torch.from_numpy(np.array(picture))
    return pixels[None] if channels == 1 else pixels.permute(2, 0, 1).contiguous()


def _loaded(file: Image.Image, path: PictureFile) -> Image.Image:
    """The picture with its pixels; of a JPEG, the end marker may be missing."""
    if isinstance(file, TiffImagePlugin.TiffImageFile):
        # Else Pillow maps a gray file into memory with the sides that it has once it is turned,
        # and mixes up the pixels of one that lies on its side.
        file.filename = ""
    try:
        file.load()
    except OSError:
        if not isinstance(file, JpegImagePlugin.JpegImageFile) or file.fp is None:
            raise
        file.fp.seek(0)
        content = file.fp.read()
        # Were pixels missing, the decoder would take them from what is put in their place.
        ends = (b"", bytes(range(1, 250)) * 64)
        first, second = (open_file(io.BytesIO(content + end + _END_OF_JPEG)) for end in ends)
        if first.tobytes() != second.tobytes():
            raise
        log.info("%s lacks its end marker; its pixels are whole", path)
        return first
    if file.format == "TIFF" and is_deep(file) and _is_white_zero(file):
        return Image.fromarray(np.uint16(65535) - np.asarray(file).astype(np.uint16))
    return file


def is_deep(file: Image.Image) -> bool:
    """Whether a picture is gray with more than 8 bits."""
    return file.mode.startswith("I")


def greatest_value(file: Image.Image, path: PictureFile) -> int:
    """The greatest value of the opened picture at `path`, whose pixels are read for it."""
    return int(np.asarray(_loaded(file, path)).max())


def _is_white_zero(file: Image.Image) -> bool:
    """Whether a TIFF stores white as 0, which Pillow heeds up to 8 bits alone."""
    return bool(getattr(file, "tag_v2", {}).get(262) == 0)


def _upright(picture: Image.Image) -> Image.Image:
    """Turn a picture as its EXIF orientation says; broken metadata say nothing."""
    try:
        orientation = picture.getexif().get(ExifTags.Base.Orientation)
    except Exception:  # EXIF is parsed by hand, and raises almost any built-in
        return picture
    turn = _TURNS.get(orientation) if isinstance(orientation, int) else None
    return picture if turn is None else picture.transpose(turn)


def write_image(path: Path | BinaryIO, image: Tensor, **options: Any) -> None:
    """Write a uint8 picture, shape (C, H, W) with 1 or 3 channels, in the format of its suffix.

    Args:
        path: The file; an open one is told its `format` among the options.
        image: The picture.
        options: The format's own, such as `quality` of JPEG.
    """
    pixels = image.permute(1, 2, 0).numpy()  # (H, W, C)
    Image.fromarray(pixels.squeeze(2) if len(image) == 1 else pixels).save(path, **options)


def resize_to(image: Tensor, size: int, crop: float = 1.0) -> Tensor:
    """Scale the short side to `size` (antialiased bilinear) and crop the center square.

    Args:
        image: uint8, shape (..., C, H, W).
        size: Side of the result, in pixels.
        crop: Share of the short side that the square covers, above 0 and at most 1.

    Returns:
        uint8, shape (..., C, size, size).
    """
    if crop == 1 and tuple(image.shape[-2:]) == (size, size):
        return image
    from torchvision.transforms.v2 import functional as transforms  # slow to import

    height, width = image.shape[-2:]
    most = MOST_ELONGATED * min(height, width)
    if max(height, width) > most:  # else a picture of 1 x 30,000 pixels would take gigabytes
        image = transforms.center_crop(image, [min(height, most), min(width, most)])
    scaled = transforms.resize(image, [round(size / crop)], antialias=True)
    cropped: Tensor = transforms.center_crop(scaled, [size, size])
    return cropped.contiguous()


def decode(
    paths: Sequence[PictureFile],
    channels: int,
    size: int,
    progress: Progress,
    crop: float = 1.0,
    cure: str = REPAIR_OR_SKIP,
) -> Iterator[Tensor]:
    """Yield each picture, shape (C, S, S), in order; a broken file stops within one chunk."""
    pictures = in_threads(
        lambda path: resize_to(read_image(path, channels, cure), size, crop), paths
    )
    for _ in progress(range(len(paths))):  # a range, so that a progress bar knows the total
        yield next(pictures)


def in_threads(function: Callable[[Any], Item], items: Sequence[Any]) -> Iterator[Item]:
    """What a function gives for each item, in order, by threads that are a chunk ahead at most."""
    with ThreadPoolExecutor(max_workers=min(16, os.cpu_count() or 1)) as pool:
        for start in range(0, len(items), CHUNK):
            yield from pool.map(function, items[start : start + CHUNK])


def class_members(labels: Tensor, least: Sequence[int]) -> Iterator[Tensor]:
    """Indices of each class's pictures, int64 (n,), class by class.

    Args:
        labels: Classes of the pictures, int64 (pictures,).
        least: Pictures that each class must have, (classes,).

    Raises:
        DataError: If a class has fewer.
    """
    for label, needed in enumerate(least):
        members = (labels == label).nonzero().squeeze(1)
        if len(members) < needed:
            raise DataError(
                f"class {label} has {len(members)} training pictures, fewer than its {needed} "
                "images; lower ipc, or leave out the methods that select pictures "
                "(--baselines.methods '[teacher]')"
            )
        yield members
