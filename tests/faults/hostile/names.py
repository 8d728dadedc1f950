"""Names and folders as people, systems and archives leave them."""

import os
import shutil
import unicodedata

from faults.hostile.case import Case, Command, export, read_data, squeeze
from faults.hostile.samples import copy, edit_json

NAMES = ("a", "b", "c", "d")


def data_in(place):
    return copy(place.samples / "files", place.folder / "data")


def rename(root, name, old="a", sides=("train", "val")):
    """Rename a class folder in both splits; `name` may be bytes."""
    for side in sides:
        folder = root / side / old
        folder.rename(folder.with_name(os.fsdecode(name)))


def expect(root, names=NAMES, count=48, **options):
    def check():
        data = read_data("folder", root, **options)
        assert data.class_names == tuple(names), data.class_names
        assert len(data.train) == count, len(data.train)

    return check


CLASS_NAMES = {
    "emoji": "\U0001f408",
    "cjk": "\u732b" * 40,
    "accent": "caf\u00e9",
    "decomposed": "cafe\u0301",
    "arabic": "\u0642\u0637\u0629",
    "spaces": " a  b ",
    "dash": "-rf",
    "option": "--help",
    "percent": "%s %d {0} $HOME",
    "quote": 'it\'s "so"',
    "backslash": "a\\b",
    "star": "a*?[b]",
    "dots": "a..b",
    "long": "n" * 255,
    "markup": "<b>a&amp;",
    "colon": "C:a",
    "tilde": "~root",
    "dollar": "$(true)",
    "brace": "{a,b}",
    "comma": "a,b",
    "device": "CON",
    "number": "007",
    "null": "null",
    "zero-width": "a\u200bb",
    "hash": "#a",
}


def class_case(kind):
    """A class folder of an odd name: it is the class's name."""

    def make(place):
        root, name = data_in(place), CLASS_NAMES[kind]
        rename(root, name)
        shown = unicodedata.normalize("NFC", name)
        check = expect(root, sorted((shown, *NAMES[1:])))
        return squeeze(place, "folder", root, check=check)

    return Case(f"names/class.{kind}", make)


UNPRINTABLE = {
    "bytes": b"caf\xe9",
    "newline": "a\nb",
    "escape": "a\x1b[31mb",
    "tab": "a\tb",
    "bell": "\x07",
    "override": "a\u202eb",
    "half": b"\xed\xa0\x80",
}


def unprintable_case(kind):
    """A class folder whose name cannot be shown: refused by name, or read and shown otherwise."""

    def make(place):
        root = data_in(place)
        rename(root, UNPRINTABLE[kind])

        def check():
            names = read_data("folder", root).class_names
            assert len(names) == 4
            letters = "".join(names)
            assert not any(unicodedata.category(sign) in ("Cc", "Cs") for sign in letters), names

        return squeeze(place, "folder", root, refused=("data",), check=check)

    return Case(f"names/unprintable.{kind}", make)


def file_case(kind):
    """A picture of an odd name."""

    def make(place):
        root = data_in(place)
        names = {
            "bytes": b"caf\xe9.png",
            "newline": b"a\nb.png",
            "dash": b"-x.png",
            "upper": b"A.PNG",
            "long": b"n" * 251 + b".png",
            "two": b"a.jpg.png",
            "emoji": "\U0001f408.png".encode(),
            "space": b" .png",
        }
        first = min((root / "train" / "a").iterdir())
        first.rename(first.with_name(os.fsdecode(names[kind])))
        return squeeze(place, "folder", root, check=expect(root))

    return Case(f"names/file.{kind}", make)


def broken_file_case(kind):
    """A picture that cannot be read, and whose name cannot be shown as it is."""

    def make(place):
        root = data_in(place)
        name = {"bytes": b"caf\xe9.png", "newline": b"a\nb.png", "escape": b"\x1b[31m.png"}[kind]
        (root / "train" / "a" / os.fsdecode(name)).write_bytes(b"no picture")
        return squeeze(place, "folder", root, refused=("data",))

    return Case(f"names/broken-file.{kind}", make)


SIDES = {
    "Train-Test": ("Train", "Test"),
    "TRAIN-VAL": ("TRAIN", "VAL"),
    "training-testing": ("training", "testing"),
    "train-valid": ("train", "valid"),
    "train-dev": ("train", "dev"),
    "Training-Validation": ("Training", "Validation"),
    "train-eval": ("train", "eval"),
}


def side_case(kind):
    """Splits in other words and cases."""

    def make(place):
        root = data_in(place)
        for old, new in zip(("train", "val"), SIDES[kind], strict=True):
            (root / old).rename(root / new)
        return squeeze(place, "folder", root, check=expect(root))

    return Case(f"names/sides.{kind}", make)


def layout_case(kind):  # noqa: C901 - one branch for each layout
    """Folders as they are found: what is no class is passed over, what is doubtful refused."""

    def make(place):  # noqa: C901 - a branch for each kind
        root, count, names = data_in(place), 48, NAMES
        refused = None
        match kind:
            case "thumbnails":
                for stray in ("Thumbs.db", "@eaDir", ".DS_Store", "__MACOSX", "desktop.ini"):
                    path = root / "train" / stray
                    path.mkdir() if stray in ("@eaDir", "__MACOSX") else path.write_bytes(b"x")
                    copy(root / "val" / "a" / "0.png", path / "0.png") if path.is_dir() else None
            case "checkpoints":
                (root / "train" / ".ipynb_checkpoints").mkdir()
            case "twins":
                for side in ("train", "val"):
                    shutil.copytree(root / side / "a", root / side / "caf\u00e9")
                    shutil.copytree(root / side / "a", root / side / "cafe\u0301")
                refused = ("data",)
            case "cycle":
                (root / "train" / "a" / "loop").symlink_to("..")
            case "self":
                (root / "train" / "a" / "loop").symlink_to(".")
            case "two-links":
                (root / "train" / "a" / "x").symlink_to(root / "val")
                (root / "val" / "a" / "y").symlink_to(root / "train")
                refused, count = ("data",), None
            case "class-link":
                shutil.move(root / "train" / "a", place.folder / "elsewhere")
                (root / "train" / "a").symlink_to(place.folder / "elsewhere")
            case "root-link":
                (place.folder / "link").symlink_to(root)
                root = place.folder / "link"
            case "class-twice":
                (root / "train" / "e").symlink_to("a")
                (root / "val" / "e").symlink_to("a")
                refused = ("e",)
            case "nested":
                deep = root / "train" / "a" / "x" / "y"
                deep.mkdir(parents=True)
                copy(root / "val" / "a" / "0.png", deep / "more.png")
                count = 49
            case "empty-class":
                (root / "train" / "e").mkdir()
                (root / "val" / "e").mkdir()
                refused = ("e",)
            case "loose":
                copy(root / "val" / "a" / "0.png", root / "train" / "loose.png")
            case "case-twins":
                for side in ("train", "val"):
                    shutil.copytree(root / side / "a", root / side / "A")
                count, names = 60, ("A", *NAMES)
            case "missing-class":
                shutil.rmtree(root / "val" / "d")
                refused = ("d",)
            case "two-trains":
                shutil.copytree(root / "train", root / "Training")
                refused = ("Training",)
            case "workdir-in-data":
                copy(place.samples / "work", root / "train" / "run")
            case "pipe-class":
                os.mkfifo(root / "train" / "e")
            case "deep":
                deep = root / "train" / "a"
                for _ in range(60):
                    deep = deep / "x"
                deep.mkdir(parents=True)
            case "unpacked-twice":
                shutil.move(root, place.folder / "inner")
                root.mkdir()
                shutil.move(place.folder / "inner", root / "data")
                refused = ("data",)
        check = (
            None
            if count is None or (refused and kind != "two-links")
            else expect(root, names, count)
        )
        return squeeze(place, "folder", root, refused=refused, check=check)

    return Case(f"names/layout.{kind}", make)


LAYOUTS = (
    "thumbnails",
    "checkpoints",
    "twins",
    "cycle",
    "self",
    "class-link",
    "root-link",
    "class-twice",
    "nested",
    "empty-class",
    "loose",
    "case-twins",
    "missing-class",
    "two-trains",
    "workdir-in-data",
    "pipe-class",
    "deep",
    "unpacked-twice",
)


def root_case(kind):
    """A root that is no folder of data."""

    def make(place):
        os.mkfifo(place.folder / "pipe")
        (place.folder / "empty").mkdir()
        (place.folder / "loop").symlink_to("loop")
        roots = {
            "nothing": "",
            "missing": "no/such",
            "file": "mine.txt",
            "pipe": "pipe",
            "empty": "empty",
            "loop": "loop",
            "device": "/dev/null",
            "long": "x" * 5000,
            "home": "~nosuchuser/data",
            "above": "../../../../../../../../none",
        }
        name = place.chance.choice(("folder", "npz", "webdataset", "hub", "imagenet-1k"))
        return squeeze(place, name, roots[kind], refused=())

    return Case(f"names/root.{kind}", make)


WORKDIRS = {
    "emoji": "\U0001f408",
    "accent": "caf\u00e9",
    "spaces": " a b ",
    "long": "n" * 255,
    "above": "x/../work",
    "deep": "a/" * 50 + "work",
    "percent": "%s",
    "star": "a*[b]",
    "brace": "{a,b}",
    "dot": "work/.",
    "comma": "a,b",
    "equals": "a=b",
}


def squeeze_into(place, workdir):
    """Arguments that train a small teacher in a work directory of this name."""
    return (
        "squeeze",
        str(place.samples / "teacher.yaml"),
        "--data.name",
        "npz",
        "--data.root",
        str(place.samples / "toy.npz"),
        f"--workdir={workdir}",
        "--quiet",
    )


def workdir_case(kind):
    """A work directory of an odd name: the teacher lies in it."""

    def make(place):
        name = WORKDIRS[kind]

        def check():
            assert (place.folder / name / "squeeze" / "convnet8_d1.safetensors").is_file()

        made = (name.partition("/")[0], "work")
        return Command(squeeze_into(place, name), check=check, outputs=made)

    return Case(f"names/workdir.{kind}", make)


def bad_workdir_case(kind):
    """A work directory that belongs to somebody else, or cannot be made."""

    def make(place):
        (place.folder / "full").mkdir()
        (place.folder / "full" / "thesis.txt").write_text("mine")
        os.mkfifo(place.folder / "pipe")
        (place.folder / "broken").symlink_to("no/such/place")
        name = {
            "here": ".",
            "full": "full",
            "file": "mine.txt",
            "below-file": "mine.txt/work",
            "pipe": "pipe",
            "device": "/dev/null",
            "too-long": "n" * 256,
            "root": "/",
            "home": "~",
            "unknown-user": "~nosuchuser/work",
            "nothing": "",
        }[kind]
        return Command(
            squeeze_into(place, name), refused=(), codes=(1, 2) if kind == "too-long" else (2,)
        )

    return Case(f"names/bad-workdir.{kind}", make)


def out_case(kind):
    """An export to a place that is not free: what lies there stays."""

    def make(place):
        (place.folder / "full").mkdir()
        (place.folder / "full" / "gvbsm.json").write_text("{}")
        (place.folder / "full" / "thesis.txt").write_text("mine")
        (place.folder / "link").symlink_to("full")
        os.mkfifo(place.folder / "pipe")
        out = {
            "full": "full",
            "here": ".",
            "file": "mine.txt",
            "below-file": "mine.txt/x",
            "pipe": "pipe",
            "link": "link",
            "home": str(place.folder.parent / "home"),
            "itself": str(place.samples / "folder"),
        }[kind]
        overwrite = ["--overwrite"] if kind != "itself" else []
        source = str(place.samples / "folder")
        arguments = ("export", source, "--to", "folder", "--out", out, "--quiet", *overwrite)
        codes = (1, 2) if kind == "below-file" else (2,)
        return Command(arguments, refused=(), codes=codes)

    return Case(f"names/out.{kind}", make)


EXPORTED = {
    "above": "..",
    "slash": "a/b",
    "dot": ".",
    "long": "\u732b" * 86,
    "case": "A",
    "device": "CON",
    "empty": "",
    "nul": "a\0",
    "hidden": ".git",
    "own": "gvbsm.json",
    "line": "a\nb",
}


def exported_case(kind):
    """Class names of a set that are no names of folders: the export names folders of its own."""

    def make(place):
        source = copy(place.samples / "folder", place.folder / "set")
        names = ["A", "a", "c", "d"] if kind == "case" else [EXPORTED[kind], "b", "c", "d"]
        edit_json(source / "gvbsm.json", lambda facts: facts.update(class_names=names))

        def check():
            assert len(list((place.folder / "out").glob("*/*.png"))) == 8

        refused = ("set",) if kind in ("empty", "nul", "line") else None
        return export(source, refused=refused, check=check)

    return Case(f"names/exported.{kind}", make)


def cases():
    """All cases of names and folders."""
    yield from map(class_case, CLASS_NAMES)
    yield from map(unprintable_case, UNPRINTABLE)
    for kind in ("bytes", "newline", "dash", "upper", "long", "emoji", "two", "space"):
        yield file_case(kind)
    yield from map(broken_file_case, ("bytes", "newline", "escape"))
    yield from map(side_case, SIDES)
    yield from map(layout_case, LAYOUTS)
    for kind in ("missing", "file", "pipe", "empty", "loop", "device", "long", "home", "above"):
        yield root_case(kind)
    yield from map(workdir_case, WORKDIRS)
    for kind in (
        "here",
        "full",
        "file",
        "below-file",
        "pipe",
        "device",
        "too-long",
        "root",
        "home",
        "unknown-user",
    ):
        yield bad_workdir_case(kind)
    for kind in ("full", "here", "file", "below-file", "pipe", "link", "home", "itself"):
        yield out_case(kind)
    yield from map(exported_case, EXPORTED)
