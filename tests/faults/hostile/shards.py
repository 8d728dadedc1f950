"""Tar shards that are bombs, lie, lead outside or are cut; and odd ones that are sound."""

import gzip
import io
import json
import tarfile

import numpy as np

from faults.hostile.arrays import NAMES, expect, png, toy
from faults.hostile.case import Case, squeeze


def add(archive, name, content, **attributes):
    member = tarfile.TarInfo(name)
    member.size = len(content)
    for key, value in attributes.items():
        setattr(member, key, value)
    archive.addfile(member, io.BytesIO(content))


def write_shards(place, folder, change=lambda archive, side: None, label=str, suffix="cls"):
    """The sample data as two shards, with `change` called on each before it is closed."""
    arrays = toy(place)
    folder.mkdir(exist_ok=True)
    for side, word in (("train", "train"), ("test", "val")):
        with tarfile.open(folder / f"{word}-000.tar", "w") as archive:
            rows = zip(arrays[f"{side}_images"], arrays[f"{side}_labels"], strict=True)
            for number, (image, value) in enumerate(rows):
                add(archive, f"{number:04}.png", png(image))
                add(archive, f"{number:04}.{suffix}", label(value).encode())
            change(archive, side)
    return arrays


def bad_tar(kind, place, folder):  # noqa: C901 - a branch for each kind
    """Write shards that must be refused."""

    def change(archive, side):  # noqa: C901 - a branch for each kind
        if side == "test":
            return
        picture = png(np.zeros((8, 8, 3), np.uint8))
        match kind:
            case "link" | "hard-link":
                link = tarfile.SYMTYPE if kind == "link" else tarfile.LNKTYPE
                add(archive, "x.png", b"", type=link, linkname="/etc/passwd")
                add(archive, "x.cls", b"0")
            case "device":
                add(archive, "x.png", b"", type=tarfile.CHRTYPE, devmajor=1, devminor=5)
                add(archive, "x.cls", b"0")
            case "pipe":
                add(archive, "x.png", b"", type=tarfile.FIFOTYPE)
                add(archive, "x.cls", b"0")
            case "pickle":
                add(
                    archive,
                    f"x.{place.chance.choice(('pyd', 'pkl', 'pickle', 'pth'))}",
                    b"\x80\x04K\x07.",
                )
            case "twice":
                add(archive, "0000.png", picture)
            case "two-pictures":
                add(archive, "0000.jpg", picture)
            case "no-label":
                add(archive, "x.png", picture)
            case "label-word":
                add(archive, "x.png", picture)
                add(archive, "x.cls", b"cat")
            case "label-negative":
                add(archive, "x.png", picture)
                add(archive, "x.cls", b"-1")
            case "label-fraction":
                add(archive, "x.png", picture)
                add(archive, "x.json", b'{"label": 1.5}')
            case "label-deep":
                add(archive, "x.png", picture)
                add(archive, "x.json", b"[" * 100_000)
            case "label-bytes":
                add(archive, "x.png", picture)
                add(archive, "x.cls", b"\xff\xfe")
            case "label-large":
                add(archive, "x.png", picture)
                add(archive, "x.cls", b"0" * 80_000_000)
            case "control":
                add(archive, "a\nb.png", picture)
                add(archive, "a\nb.cls", b"0")
            case "no-picture":
                add(archive, "x.png", b"no picture")
                add(archive, "x.cls", b"0")
            case "postscript":
                add(
                    archive, "x.png", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n{ } loop\n"
                )
                add(archive, "x.cls", b"0")
            case "unknown-class":
                pass

    write_shards(place, folder, change)
    shard = folder / "train-000.tar"
    whole = shard.read_bytes()
    match kind:
        case "header":
            spot = whole.index(b"0007.png")
            shard.write_bytes(whole[:spot] + bytes([whole[spot] ^ 1]) + whole[spot + 1 :])
        case "cut":
            shard.write_bytes(whole[: place.chance.randrange(2000, len(whole) - 20_000)])
        case "pax-bomb":
            head = tarfile.TarInfo("x.png")
            head.type, head.size = tarfile.XHDTYPE, 8 * 2**30
            with shard.open("wb") as file:
                file.write(head.tobuf())
                file.truncate(9 * 2**30)
        case "size-lie":
            head = tarfile.TarInfo("x.png")
            head.size = 2**40
            shard.write_bytes(head.tobuf() + whole)
        case "sparse":
            head = tarfile.TarInfo("x.png")
            head.type, head.size = tarfile.GNUTYPE_SPARSE, 512
            shard.write_bytes(head.tobuf() + bytes(512) + whole)
        case "gzip":
            shard.write_bytes(gzip.compress(whole))
        case "empty":
            shard.write_bytes(b"")
        case "bytes":
            shard.write_bytes(place.chance.randbytes(5000))
        case "names-short":
            (folder / "classes.txt").write_text("a\nb\n")
        case "names-twice":
            (folder / "classes.txt").write_text("a\na\nc\nd\n")
        case "names-latin":
            (folder / "classes.txt").write_bytes(b"caf\xe9\nb\nc\nd\n")
        case "names-large":
            with (folder / "classes.txt").open("wb") as file:
                file.truncate(2**33)
        case "unknown-class":
            (folder / "val-000.tar").unlink()
            with tarfile.open(folder / "val-000.tar", "w") as archive:
                add(archive, "x.png", png(np.zeros((8, 8, 3), np.uint8)))
                add(archive, "x.cls", b"77")


BAD_TAR = (
    "link",
    "hard-link",
    "device",
    "pipe",
    "pickle",
    "twice",
    "two-pictures",
    "no-label",
    "label-word",
    "label-negative",
    "label-fraction",
    "label-deep",
    "label-bytes",
    "label-large",
    "control",
    "no-picture",
    "postscript",
    "cut",
    "header",
    "pax-bomb",
    "size-lie",
    "sparse",
    "gzip",
    "empty",
    "bytes",
    "names-short",
    "names-twice",
    "names-latin",
    "names-large",
    "unknown-class",
)


def bad_tar_case(kind):
    def make(place):
        bad_tar(kind, place, place.folder / "shards")
        return squeeze(place, "webdataset", place.folder / "shards", refused=("shards",))

    return Case(f"archives/tar.{kind}", make)


def pattern_case(kind, pattern):
    """A pattern of shards that names none, too many, or cannot be read."""

    def make(place):
        write_shards(place, place.folder / "shards")
        named = "--data.root" if kind == "long" else "shards/"
        return squeeze(place, "webdataset", f"shards/{pattern}", refused=(named,))

    return Case(f"archives/pattern.{kind}", make)


def sound_tar_case(kind):
    def make(place):
        folder, label, suffix = place.folder / "shards", str, "cls"
        names = tuple("0123")

        def change(archive, side):
            if kind == "strays":
                add(archive, "__MACOSX/._0000.png", b"stray")
                add(archive, "readme.txt", b"words")
                add(archive, "./.hidden.png", b"stray")

        if kind == "json":
            label, suffix = lambda value: json.dumps({"label": int(value)}), "json"
        if kind == "words":
            label, names = lambda value: f" {NAMES[value]}\n", NAMES
        if kind == "identifiers":
            label = lambda value: str(999_999_996 + int(value))  # noqa: E731
            names = tuple(str(999_999_996 + number) for number in range(4))
        arrays = write_shards(place, folder, change, label, suffix)
        root = folder
        if kind == "classes":
            (folder / "classes.txt").write_bytes("\ufeffa\r\nb\r\nc\r\nd\r\n".encode())
            names = NAMES
        if kind == "pattern":
            root = f"{folder}/{{train,val}}-{{000..000}}.tar"
        check = expect("webdataset", root, arrays, names)
        return squeeze(place, "webdataset", root, check=check)

    return Case(f"archives/tar.sound-{kind}", make)


PATTERNS = {
    "missing": "{train,val}-{000..009}.tar",
    "many": "{a,b}{0..999999}{0..999999}.tar",
    "huge": "train-{0..99999999999999999}.tar",
    "down": "train-{9..0}.tar",
    "nested": "{" * 500 + "a" + "}" * 500,
    "open": "train-{000.tar",
    "long": "x" * 5000 + ".tar",
    "power": "{a,b}" * 40,
    "nothing": "{}.tar",
}


def cases():
    """All cases of shards."""
    yield from map(bad_tar_case, BAD_TAR)
    for kind, pattern in PATTERNS.items():
        yield pattern_case(kind, pattern)
    sound = ("plain", "strays", "json", "words", "identifiers", "classes", "pattern")
    yield from map(sound_tar_case, sound)
