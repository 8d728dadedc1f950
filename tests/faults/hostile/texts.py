"""What is no manifest at all, in the place of one: other text, pipes, devices, links."""

import json
import os
import random

from faults.hostile.case import Case, export, same_pictures
from faults.hostile.samples import checked, copy


def texts(chance):
    """Contents of a JSON file that is no manifest at all."""
    return {
        "empty": b"",
        "nul": b"\0" * 100,
        "list": b"[1]",
        "number": b"7",
        "word": b'"x"',
        "null": b"null",
        "cut": b'{"format": 1, "form": "fol',
        "bytes": bytes(range(256)),
        "latin": '{"method": "caf\xe9"}'.encode("latin-1"),
        "utf16": '{"a": 1}'.encode("utf-16"),
        "deep": b'{"a": ' + b"[" * chance.choice((1000, 100_000)),
        "closed": b'{"a": ' + b"[" * 50_000 + b"]" * 50_000 + b"}",
        "lists": b'{"a": [' + b"[]," * 6_000_000 + b"[]]}",
        "digits": b'{"a": ' + b"9" * 100_000 + b"}",
        "object": checked({}).encode(),
        "pickle": b"\x80\x04K\x07.",
        "unsigned": b'{"form": "folder", "images": 8}',
    }


def text_case(form, file, kind):
    def make(place):
        source = copy(place.samples / form, place.folder / "set")
        (source / file).write_bytes(texts(place.chance)[kind])
        return export(source, refused=("set",))

    return Case(f"manifests/{form}.{file.replace('/', '-')}.{kind}", make)


def place_case(form, file, kind):
    """Something else in the place of a manifest."""

    def make(place):
        source = copy(place.samples / form, place.folder / "set")
        path = source / file
        path.unlink()
        match kind:
            case "folder":
                path.mkdir()
            case "pipe":
                os.mkfifo(path)
            case "device":
                path.symlink_to("/dev/zero")
            case "outside":
                path.symlink_to(place.samples / form / file)
            case "itself":
                path.symlink_to(path.name)
            case "sparse":
                with path.open("wb") as sparse:
                    sparse.truncate(2**40)
        return export(source, refused=("set",))

    return Case(f"manifests/{form}.{file.replace('/', '-')}.is-{kind}", make)


SOUND = (
    "more-entries",
    "order",
    "ascii",
    "no-results",
    "no-settings",
    "no-recipe",
    "lines",
)


def odd_case(kind):
    """A manifest that is odd and sound: the set loads as ever."""

    def make(place):
        source = copy(place.samples / "folder", place.folder / "set")
        path = source / "gvbsm.json"
        content = json.loads(path.read_text())
        content.pop("checksum")
        match kind:
            case "more-entries":
                content["later"] = {"a": [1, 2.5, None, {"b": "c"}]}
            case "order":
                content = dict(sorted(content.items(), reverse=True))
            case "ascii":
                content["dataset"] = "\u732b \U0001f408 e\u0301"
            case "no-results":
                content.pop("results")
            case "no-settings":
                content.pop("settings")
            case "no-recipe":
                content["recipe"] = None
        text = checked(content)
        path.write_text(text if kind != "lines" else "\n \t" + text + "\n\n")
        return export(source, check=same_pictures(place))

    return Case(f"manifests/sound.{kind}", make)


def cases():
    """All of these cases."""
    for form, file in (("folder", "gvbsm.json"), ("hub", "soft_labels/index.json")):
        for kind in texts(random.Random(0)):
            yield text_case(form, file, kind)
        for kind in ("folder", "pipe", "device", "outside", "itself", "sparse"):
            yield place_case(form, file, kind)
    for kind in SOUND:
        yield odd_case(kind)
