"""Pictures: every kind of file and of pixel, and an error line for every fault."""

import os
import struct
import zlib
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from gvbsm.data.pictures import DataError, Split, open_file, read_image, resize_to, write_image
from support.picture_files import draw

# Writing


@pytest.mark.parametrize("channels", [1, 3])
def test_write_image__what_is_read_is_what_was_written(channels, tmp_path):
    picture = torch.randint(0, 256, (channels, 5, 7), dtype=torch.uint8)
    write_image(tmp_path / "picture.png", picture)
    assert torch.equal(read_image(tmp_path / "picture.png", channels), picture)


def test_write_image__options_are_the_formats(tmp_path):
    picture = torch.randint(0, 256, (3, 64, 64), dtype=torch.uint8)
    for quality in (20, 95):
        write_image(tmp_path / f"{quality}.jpg", picture, quality=quality)
    sizes = [(tmp_path / f"{quality}.jpg").stat().st_size for quality in (20, 95)]
    assert sizes[0] < sizes[1] / 2


# Splits


def test_split_holds_images_or_paths():
    with pytest.raises(ValueError, match="exactly one"):
        Split(torch.zeros(1, dtype=torch.int64))
    with pytest.raises(DataError, match="1 pictures but 2 labels"):
        Split(torch.zeros(2, dtype=torch.int64), paths=(Path("a"),))


def test_resize_scales_the_short_side_and_crops_the_center():
    wide = torch.zeros(3, 4, 12, dtype=torch.uint8)
    wide[:, :, 4:8] = 200
    assert torch.equal(resize_to(wide, 4), torch.full((3, 4, 4), 200, dtype=torch.uint8))
    assert resize_to(wide.transpose(1, 2), 7).shape == (3, 7, 7)
    board = torch.tensor([[0, 255], [255, 0]], dtype=torch.uint8).repeat(8, 8)[None]
    assert (resize_to(board, 4).int() - 128).abs().max() < 50  # antialiased: grey, not a pattern


# Kinds of picture


def test_grey_is_repeated_and_color_is_weighed(tmp_path):
    grey = draw(tmp_path / "g.png", mode="L")
    assert torch.equal(read_image(grey, 3), read_image(grey, 1).repeat(3, 1, 1))
    Image.new("RGB", (2, 2), (255, 0, 0)).save(tmp_path / "r.png")
    assert read_image(tmp_path / "r.png", 1).unique().tolist() == [76]  # ITU-R 601


def test_color_is_read_channels_first(tmp_path):
    path = draw(tmp_path / "c.png", size=(5, 3))
    expected = np.asarray(Image.open(path)).transpose(2, 0, 1)
    assert np.array_equal(read_image(path, 3).numpy(), expected)


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparency_is_laid_over_white(tmp_path, mode):
    clear, solid = ((9, 9, 9, 0), (9, 9, 9, 255)) if mode == "RGBA" else ((9, 0), (9, 255))
    picture = Image.new(mode, (2, 1), clear)
    picture.putpixel((1, 0), solid)
    picture.save(tmp_path / "a.png")
    for channels in (1, 3):
        assert read_image(tmp_path / "a.png", channels)[:, 0].tolist() == [[255, 9]] * channels


@pytest.mark.parametrize("transparency", [None, 0, b"\x00\xff"])
def test_palettes(tmp_path, transparency):
    picture = Image.new("P", (2, 1))
    picture.putpalette([10, 20, 30, 40, 50, 60])
    picture.putpixel((1, 0), 1)
    extra = {} if transparency is None else {"transparency": transparency}
    picture.save(tmp_path / "p.png", **extra)
    left = [10, 20, 30] if transparency is None else [255, 255, 255]
    assert read_image(tmp_path / "p.png", 3)[:, 0].T.tolist() == [left, [40, 50, 60]]


@pytest.mark.parametrize("suffix", ["png", "tiff"])
def test_sixteen_bits_are_scaled(tmp_path, suffix):
    path = tmp_path / f"deep.{suffix}"
    Image.fromarray(np.array([[0, 257, 32896, 65535]], dtype=np.uint16)).save(path)
    assert read_image(path, 1).flatten().tolist() == [0, 1, 128, 255]
    assert read_image(path, 3).shape == (3, 1, 4)


def test_transparency_of_sixteen_bits_is_white(tmp_path):
    pixels = np.array([[0, 257, 32896]], dtype=np.uint16)
    Image.fromarray(pixels).save(tmp_path / "deep.png", transparency=257)
    assert read_image(tmp_path / "deep.png", 1).flatten().tolist() == [0, 255, 128]


def test_cmyk_and_one_bit(tmp_path):
    Image.new("CMYK", (8, 8), (0, 255, 255, 0)).save(tmp_path / "c.jpg", quality=95)
    red = read_image(tmp_path / "c.jpg", 3).float().mean((1, 2))
    assert red[0] > 240
    assert red[1:].max() < 15
    Image.new("1", (2, 2), 1).save(tmp_path / "b.png")
    assert read_image(tmp_path / "b.png", 1).unique().tolist() == [255]


def test_exif_orientation_is_applied(tmp_path):
    picture = Image.new("RGB", (4, 2), "black")
    picture.putpixel((0, 0), (255, 255, 255))
    exif = Image.Exif()
    exif[0x0112] = 6  # turn a quarter clockwise: the left top corner goes to the right top
    picture.save(tmp_path / "e.png", exif=exif)
    upright = read_image(tmp_path / "e.png", 1)
    assert upright.shape == (1, 4, 2)
    assert upright[0, 0].tolist() == [0, 255]


@pytest.mark.parametrize("kind", ["text", "truncated", "empty", "float", "32 bits", "missing"])
def test_an_unreadable_picture_is_named(tmp_path, kind):
    path = tmp_path / "odd.tiff"
    if kind == "float":
        Image.fromarray(np.ones((2, 2), dtype=np.float32)).save(path)
    elif kind == "32 bits":
        Image.fromarray(np.full((2, 2), 70000, dtype=np.int32)).save(path)
    elif kind != "missing":
        path = tmp_path / "odd.png"
        whole = draw(path, size=(64, 64)).read_bytes()
        path.write_bytes({"text": b"hello", "empty": b"", "truncated": whole[:900]}[kind])
    with pytest.raises(DataError, match=r"cannot read .*odd\.(png|tiff)"):
        read_image(path, 3)


def test_read_image_takes_one_or_three_channels(tmp_path):
    with pytest.raises(ValueError, match="1 or 3, got 2"):
        read_image(tmp_path / "x.png", 2)


def test_read_image__a_picture_that_unpacks_into_a_full_memory_is_refused(tmp_path):
    path = tmp_path / "bomb.png"
    Image.new("1", (20, 20)).save(path)
    content = path.read_bytes()
    head = b"IHDR" + struct.pack(">II", 50_000, 50_000) + content[24:29]
    rest = head + struct.pack(">I", zlib.crc32(head)) + content[33:]
    path.write_bytes(content[:12] + rest)
    with pytest.raises(DataError, match=r"bomb\.png.*2500000000 pixels.*repair it or take"):
        read_image(path, 3)


def test_read_image__more_pixels_than_are_plausible_are_refused(tmp_path, monkeypatch):
    Image.new("L", (20, 20)).save(tmp_path / "x.png")
    monkeypatch.setattr("gvbsm.data.pictures.MOST_PIXELS", 399)
    with pytest.raises(DataError, match=r"x\.png: 20 x 20 pixels are too many"):
        read_image(tmp_path / "x.png", 3)
    monkeypatch.setattr("gvbsm.data.pictures.MOST_PIXELS", 400)
    assert read_image(tmp_path / "x.png", 3).shape == (3, 20, 20)


@pytest.mark.parametrize("head", [b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n", b"8BPS"])
@pytest.mark.parametrize("stored", [False, True])
def test_open_file__formats_that_are_none_of_pictures_are_refused_by_content(
    head, stored, tmp_path
):
    """Pillow hands PostScript to Ghostscript, whatever a file's name is."""
    path = tmp_path / "a.png"
    path.write_bytes(head + bytes(4096))
    with pytest.raises(OSError, match="cannot identify image file"):
        open_file(BytesIO(path.read_bytes()) if stored else path)


def test_read_image__a_pipe_in_the_place_of_a_picture_is_refused(tmp_path):
    os.mkfifo(tmp_path / "a.png")
    for path in (tmp_path / "a.png", Path("/dev/zero")):
        with pytest.raises(DataError, match=f"cannot read {path}: it is no regular file"):
            read_image(path, channels=3)


# Pictures that are sound though their files are not


def encoded(kind, size=(48, 40), **options):
    content = BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(content, kind, **options)
    return content.getvalue()


@pytest.mark.parametrize("progressive", [False, True])
def test_a_jpeg_that_lacks_its_end_marker_is_read_and_a_cut_one_is_not(progressive, tmp_path):
    content = encoded("JPEG", quality=90, progressive=progressive)
    path = tmp_path / "x.jpg"
    path.write_bytes(content)
    whole = read_image(path, 3)
    for missing in (1, 2):
        path.write_bytes(content[:-missing])
        assert torch.equal(read_image(path, 3), whole)
    for missing in (100, len(content) // 2):
        path.write_bytes(content[:-missing])
        with pytest.raises(DataError, match=r"cannot read .*x\.jpg"):
            read_image(path, 3)


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


@pytest.mark.parametrize(
    "extra",
    [chunk(b"eXIf", b"garbage"), chunk(b"zTXt", b"k\0\0" + zlib.compress(b"a" * 3_000_000))],
)
def test_a_png_with_odd_metadata_is_read(extra, tmp_path):
    content, path = encoded("PNG"), tmp_path / "x.png"
    path.write_bytes(content)
    whole = read_image(path, 3)
    path.write_bytes(content[:33] + extra + content[33:])  # after the header's chunk
    assert torch.equal(read_image(path, 3), whole)


@pytest.mark.parametrize("orientation", range(10))
def test_orientation_is_applied_as_pillow_does(orientation, tmp_path):
    exif = Image.Exif()
    exif[274] = orientation
    path = tmp_path / "x.png"
    path.write_bytes(encoded("PNG", exif=exif))
    with Image.open(path) as file:
        expected = np.asarray(ImageOps.exif_transpose(file)).transpose(2, 0, 1)
    assert np.array_equal(read_image(path, 3).numpy(), expected)


def test_white_is_zero_in_a_tiff_of_16_bits(tmp_path):
    values = np.random.default_rng(0).integers(0, 65536, (8, 8)).astype(np.uint16)
    Image.fromarray(values).save(tmp_path / "black.tif")
    Image.fromarray(65535 - values).save(tmp_path / "white.tif", tiffinfo={262: 0})
    black, white = (read_image(tmp_path / f"{name}.tif", 1) for name in ("black", "white"))
    assert torch.equal(black, white)


@pytest.mark.parametrize("photometric", [0, 1])
@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
def test_a_gray_tiff_is_read_upright(kind, photometric, tmp_path):
    stored = np.array([[0, 51, 102], [153, 204, 255]])
    scale = np.iinfo(kind).max // 255
    upright = {1: stored, 3: stored[::-1, ::-1], 6: np.rot90(stored, -1), 8: np.rot90(stored)}
    for orientation, expected in upright.items():
        inverts = photometric == 0 and kind is np.uint16  # 8 bits are inverted by Pillow's writer
        values = (scale * (255 - stored if inverts else stored)).astype(kind)
        tags = {262: photometric, 274: orientation}
        Image.fromarray(values).save(tmp_path / "a.tif", tiffinfo=tags)
        assert np.array_equal(read_image(tmp_path / "a.tif", 1)[0], expected), orientation


def test_an_elongated_picture_takes_little_memory_and_keeps_its_middle():
    image = torch.zeros(3, 4, 40_000, dtype=torch.uint8)
    image[:, :, 19_990:20_010] = 200
    small = resize_to(image, 32)
    assert small.shape == (3, 32, 32)
    assert int(small.min()) >= 199
