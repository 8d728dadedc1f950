"""Pictures that are programs, bombs, pipes, broken or of odd modes, in data and in sets."""

import io
import os
import struct
import zlib

import numpy as np
from PIL import Image

from faults.hostile.case import Case, export, read_data, same_pictures, squeeze
from faults.hostile.samples import copy

SCENE = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
LOOP = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n{ } loop\nshowpage\n"


def encoded(image=SCENE, form="PNG", **options):
    file = io.BytesIO()
    (Image.fromarray(image) if isinstance(image, np.ndarray) else image).save(file, form, **options)
    return file.getvalue()


def chunk(kind, content):
    return (
        struct.pack(">I", len(content))
        + kind
        + content
        + struct.pack(">I", zlib.crc32(kind + content))
    )


def png(width, height, *chunks, depth=8, color=2):
    """A PNG of these chunks behind a head that claims a size."""
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + b"".join(chunks) + chunk(b"IEND", b"")


def bad(kind, chance):
    """Content that is no picture of the formats that are read."""
    whole = encoded()
    rows = zlib.compress(bytes(25 * 8))
    return {
        "postscript": lambda: LOOP,
        "postscript-dos": lambda: (
            b"\xc5\xd0\xd3\xc6" + struct.pack("<II", 32, len(LOOP)) + bytes(20) + LOOP
        ),
        "pdf": lambda: b"%PDF-1.4\n1 0 obj\n<<>>\nendobj\n%%EOF",
        "svg": lambda: b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>',
        "html": lambda: b"<html><body>not found</body></html>",
        "zip": lambda: b"PK\x03\x04" + chance.randbytes(200),
        "pickle": lambda: b"\x80\x04cos\nsystem\n(Vtrue\ntR.",
        "pcd": lambda: bytes(2048) + b"PCD_" + bytes(100),
        "fits": lambda: b"SIMPLE  =                    T".ljust(2880),
        "wmf": lambda: b"\xd7\xcd\xc6\x9a" + bytes(100),
        "icns": lambda: b"icns" + struct.pack(">I", 100) + bytes(92),
        "lfs": lambda: b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n",
        "nothing": lambda: b"",
        "zeros": lambda: bytes(500),
        "random": lambda: chance.randbytes(500),
        "cut": lambda: whole[: chance.randrange(40, len(whole) - 40)],
        "cut-head": lambda: whole[: chance.randrange(1, 30)],
        "flip": lambda: whole[:45] + bytes([whole[45] ^ 16]) + whole[46:],
        "bomb": lambda: png(40_000, 40_000, chunk(b"IDAT", zlib.compress(bytes(10**6)))),
        "bomb-gray": lambda: encoded(Image.new("1", (20_000, 20_000))),
        "huge-head": lambda: png(2**31 - 1, 2**31 - 1, chunk(b"IDAT", rows)),
        "no-side": lambda: png(0, 8, chunk(b"IDAT", rows)),
        "no-pixels": lambda: png(8, 8),
        "few-pixels": lambda: png(8, 8, chunk(b"IDAT", zlib.compress(bytes(20)))),
        "depth": lambda: png(8, 8, chunk(b"IDAT", rows), depth=7),
        "color": lambda: png(8, 8, chunk(b"IDAT", rows), color=9),
        "no-palette": lambda: png(8, 8, chunk(b"IDAT", rows), color=3),
        "jpeg-cut": lambda: encoded(form="JPEG", quality=95)[: -chance.randrange(40, 200)],
        "jpeg-head": lambda: b"\xff\xd8\xff\xe0\x00\x10JFIF" + chance.randbytes(50),
        "gif-cut": lambda: encoded(form="GIF")[: chance.randrange(10, 40)],
        "tiff-loop": lambda: b"II*\0\x08\0\0\0" + struct.pack("<H", 0) + struct.pack("<I", 8),
        "tiff-count": lambda: b"II*\0\x08\0\0\0" + struct.pack("<H", 65535) + bytes(40),
        "webp-cut": lambda: encoded(form="WEBP")[: chance.randrange(12, 30)],
        "bmp-lie": lambda: encoded(form="BMP")[:18] + struct.pack("<ii", 2**30, 2**30) + bytes(100),
        "ppm-lie": lambda: b"P6 999999999 999999999 255\n" + bytes(100),
    }[kind]()


BAD = (
    "postscript",
    "postscript-dos",
    "pdf",
    "svg",
    "html",
    "zip",
    "pickle",
    "pcd",
    "fits",
    "wmf",
    "icns",
    "lfs",
    "nothing",
    "zeros",
    "random",
    "cut",
    "cut-head",
    "flip",
    "bomb",
    "bomb-gray",
    "huge-head",
    "no-side",
    "no-pixels",
    "few-pixels",
    "depth",
    "color",
    "no-palette",
    "jpeg-cut",
    "jpeg-head",
    "gif-cut",
    "tiff-loop",
    "tiff-count",
    "webp-cut",
    "bmp-lie",
    "ppm-lie",
)


def picture_in(place, suffix):
    """A copy of the sample pictures, and the path of one that is to be replaced."""
    root = copy(place.samples / "files", place.folder / "data")
    old = root / "train" / place.chance.choice("abcd") / "0.png"
    old = old if old.is_file() else next(old.parent.glob("*.png"))
    old.unlink()
    return root, old.with_suffix(suffix)


def bad_case(kind):
    def make(place):
        suffix = place.chance.choice((".png", ".jpg", ".jpeg", ".gif", ".webp", ".bmp"))
        root, path = picture_in(place, suffix)
        path.write_bytes(bad(kind, place.chance))
        return squeeze(place, "folder", root, refused=(path.name,))

    return Case(f"pictures/bad.{kind}", make)


def skipped_case(kind):
    """The same with `--data.unreadable skip`: it is left out by name, all others are read."""

    def make(place):
        root, path = picture_in(place, ".png")
        path.write_bytes(bad(kind, place.chance))

        def check():
            data = read_data("folder", root, unreadable="skip")
            assert [path.name in name for name in data.skipped] == [True], data.skipped
            assert (len(data.train), len(data.test)) == (47, 16)

        return squeeze(place, "folder", root, "--data.unreadable", "skip", check=check)

    return Case(f"pictures/skip.{kind}", make)


def set_case(kind):
    """The same in the place of a picture of a distilled set, where PNG alone is read."""

    def make(place):
        source = copy(place.samples / "folder", place.folder / "set")
        content = bad(kind, place.chance) if kind in BAD else odd(kind)[0]
        (source / place.chance.choice("abcd") / "00000.png").write_bytes(content)
        return export(source, refused=("00000.png",))

    return Case(f"pictures/set.{kind}", make)


def animated(form, **options):
    frames = [Image.fromarray(np.full((8, 8, 3), value, np.uint8)) for value in (0, 90, 200)]
    return encoded(Image.fromarray(SCENE), form, save_all=True, append_images=frames, **options)


def exif(content):
    """A PNG with this content as its EXIF."""
    whole = encoded()
    return whole[:33] + chunk(b"eXIf", content) + whole[33:]


def turned():
    image = Image.fromarray(SCENE)
    data = image.getexif()
    data[274] = 6  # its top is at the right
    return encoded(np.ascontiguousarray(np.rot90(SCENE)), exif=data)


def odd(kind):
    """Content that is odd and sound, and the pixels that it holds."""
    gray = SCENE[..., 0]
    gray3 = np.repeat(gray[..., None], 3, 2)
    clear = np.dstack([SCENE, np.full((8, 8), 0, np.uint8)])
    index = Image.fromarray(gray % 4, "P")
    index.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0, 0, 0, 255])
    colors = np.array([[0, 0, 0], [255, 0, 0], [0, 255, 0], [0, 0, 255]], np.uint8)
    whole = encoded()
    return {
        "plain": lambda: (whole, SCENE),
        "gray": lambda: (encoded(gray), gray3),
        "sixteen": lambda: (encoded(gray.astype(np.uint16) * 257), gray3),
        "bits": lambda: (encoded(Image.fromarray(gray > 90)), 255 * (gray3 > 90).astype(np.uint8)),
        "clear": lambda: (encoded(clear), np.full((8, 8, 3), 255, np.uint8)),
        "palette": lambda: (encoded(index), colors[gray % 4]),
        "apng": lambda: (animated("PNG"), SCENE),
        "webp": lambda: (encoded(form="WEBP", lossless=True), SCENE),
        "bmp": lambda: (encoded(form="BMP"), SCENE),
        "tiff": lambda: (encoded(form="TIFF"), SCENE),
        "tiff-deflate": lambda: (encoded(form="TIFF", compression="tiff_deflate"), SCENE),
        "ppm": lambda: (encoded(form="PPM"), SCENE),
        "broken-exif": lambda: (exif(b"MM\0*" + bytes(range(200))), SCENE),
        "exif-loop": lambda: (
            exif(b"II*\0\x08\0\0\0" + struct.pack("<HHHIII", 1, 0x8769, 4, 1, 8, 8)),
            SCENE,
        ),
        "turned": lambda: (turned(), SCENE),
        "text": lambda: (whole[:33] + chunk(b"tEXt", b"Title\0\xff\xfe") + whole[33:], SCENE),
        "text-bomb": lambda: (
            whole[:33] + chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(10**7))) + whole[33:],
            SCENE,
        ),
        "profile": lambda: (encoded(icc_profile=b"no profile" * 10), SCENE),
        "tail": lambda: (whole + b"PK\x03\x04" + LOOP, SCENE),
        "unknown-chunk": lambda: (whole[:33] + chunk(b"vpAg", bytes(9)) + whole[33:], SCENE),
    }[kind]()


ODD = (
    "plain",
    "gray",
    "sixteen",
    "bits",
    "clear",
    "palette",
    "apng",
    "webp",
    "bmp",
    "tiff",
    "tiff-deflate",
    "ppm",
    "broken-exif",
    "exif-loop",
    "turned",
    "text",
    "text-bomb",
    "profile",
    "tail",
    "unknown-chunk",
)


def odd_case(kind):
    def make(place):
        root, path = picture_in(place, ".png")
        content, pixels = odd(kind)
        path.write_bytes(content)

        def check():
            import torch

            data = read_data("folder", root)
            expected = torch.from_numpy(np.ascontiguousarray(pixels)).permute(2, 0, 1)
            label = "abcd".index(path.parent.name)
            of_class = data.train.images[data.train.labels == label]
            assert any(torch.equal(image, expected) for image in of_class), kind
            assert len(data.train) == 48

        return squeeze(place, "folder", root, check=check)

    return Case(f"pictures/odd.{kind}", make)


def place_case(kind):
    """Something that is no file in the place of a picture."""

    def make(place):
        root, path = picture_in(place, ".png")
        left = 47
        match kind:
            case "pipe":
                os.mkfifo(path)
            case "device":
                path.symlink_to("/dev/zero")
            case "broken-link":
                path.symlink_to("nowhere.png")
            case "itself":
                path.symlink_to(path.name)
            case "folder":
                path.mkdir()
            case "link":
                path.symlink_to(next(path.parent.glob("*.png")).name)
                left = 48
            case "hard-link":
                os.link(next(path.parent.glob("*.png")), path)
                left = 48

        def check():
            assert len(read_data("folder", root).train) == left

        return squeeze(place, "folder", root, check=check)

    return Case(f"pictures/place.{kind}", make)


def long_case(kind, width, height):
    """Pictures of one pixel by thousands: a part of each is seen, in little memory."""

    def make(place):
        root, path = picture_in(place, ".png")
        path.write_bytes(encoded(Image.new("RGB", (width, height), (9, 99, 199))))

        def check():
            data = read_data("folder", root, image_size=224)
            found = data.train.images.flatten(2).float()
            wanted = found.new_tensor([9, 99, 199])[:, None]
            assert any(bool((image == wanted).all()) for image in found)

        options = ("--data.image_size", "224", "--squeeze.batch_size", "4")
        return squeeze(place, "folder", root, *options, check=check)

    return Case(f"pictures/long.{kind}", make)


def set_place_case(kind):
    """Something else in the place of a picture of a distilled set."""

    def make(place):
        source = copy(place.samples / "folder", place.folder / "set")
        path = source / "a" / "00000.png"
        path.unlink()
        match kind:
            case "pipe":
                os.mkfifo(path)
            case "outside":
                path.symlink_to(place.samples / "folder" / "a" / "00000.png")
            case "folder":
                path.mkdir()
            case "device":
                path.symlink_to("/dev/zero")
            case "more":
                copy(source / "a" / "00001.png", path)
                copy(path, source / "a" / "00002.png")
            case "fewer":
                pass
        return export(source, refused=("set",))

    return Case(f"pictures/set-place.{kind}", make)


def sound_set_case(kind):
    """Files of other programs in a set: they are passed over."""

    def make(place):
        source = copy(place.samples / "folder", place.folder / "set")
        (source / kind).write_bytes(b"stray")
        return export(source, check=same_pictures(place))

    return Case(f"pictures/set-beside.{kind}", make)


def cases():
    """All cases of pictures."""
    yield from map(bad_case, BAD)
    yield from map(skipped_case, ("postscript", "cut", "bomb", "nothing", "huge-head"))
    yield from map(
        set_case,
        (
            "postscript",
            "postscript-dos",
            "bomb",
            "cut",
            "nothing",
            "huge-head",
            "bmp",
            "tiff",
            "webp",
            "ppm",
        ),
    )
    yield from map(odd_case, ODD)
    for kind in ("pipe", "device", "broken-link", "itself", "folder", "link", "hard-link"):
        yield place_case(kind)
    yield long_case("flat", 30_000, 1)
    yield long_case("tall", 1, 30_000)
    for kind in ("pipe", "outside", "folder", "device", "more", "fewer"):
        yield set_place_case(kind)
    yield from map(sound_set_case, ("notes.txt", ".hidden.png", "Thumbs.db"))
