"""Manifests with one entry that is not as it should be, and JSON files that are no manifests."""

from faults.hostile import texts
from faults.hostile.case import Case, Command, export
from faults.hostile.samples import Raw, copy, edit_header, edit_json, read_tensors

GONE = object()
# Values that no entry of a kind may have; which one of several comes of the case's seed.
NO_NUMBER = {
    "word": ["8", "eight"],
    "list": [[], [8]],
    "null": [None],
    "bool": [True, False],
    "object": [{}],
    "gone": [GONE],
}
NO_COUNT = NO_NUMBER | {
    "negative": [-1, -8, -(2**63)],
    "zero": [0],
    "fraction": [1.5, 7.999],
    "nan": [Raw("NaN")],
    "huge": [2**63, 2**70, 10**300],
    "endless": [Raw("1e400"), Raw("-1e400")],
    "large": [10**9, 2**40, 2**62],
}
NO_LIST = {
    "word": ["abcd"],
    "number": [4, -1],
    "object": [{"0": "a"}, {}],
    "bool": [True],
    "nested": [[["a"], ["b"], ["c"], ["d"]]],
    "gone": [GONE],
}
NO_NAMES = NO_LIST | {
    "null": [None],
    "empty": [[]],
    "one": [["a"]],
    "numbers": [[0, 1, 2, 3]],
    "twice": [["a", "a", "c", "d"], ["a", "b", "c", "a"]],
    "twins": [["\u00e9", "e\u0301", "c", "d"]],
    "nulls": [["a", None, "c", "d"]],
    "long": [["a" * 20_000, "b", "c", "d"]],
    "million": [[str(n) for n in range(200_000)]],
}
NO_MOMENTS = NO_LIST | {
    "null": [None],
    "words": [["0.5", "0.5", "0.5"]],
    "short": [[0.5], [0.5, 0.5]],
    "nan": [[0.5, Raw("NaN"), 0.5]],
    "endless": [[Raw("1e400"), 0.5, 0.5]],
    "infinite": [[Raw("-Infinity"), 0.5, 0.5]],
}
NO_OBJECT = {"word": ["x"], "number": [3], "list": [[1, 2]], "bool": [True]}
FACTS = {
    "class_names": NO_NAMES,
    "channels": NO_COUNT | {"two": [2, 4]},
    "image_size": NO_COUNT | {"other": [7, 9, 16]},
    "images": NO_COUNT | {"fewer": [7], "more": [9, 800]},
    "mean": NO_MOMENTS,
    "std": NO_MOMENTS | {"zero": [[0.2, 0, 0.2]], "negative": [[0.2, -0.2, 0.2]]},
    "recipe": NO_OBJECT,
    "settings": NO_OBJECT
    | {
        "labels": [{"labels": 7}, {"labels": {"batchnorm": "batch"}}],
        "data": [{"data": [1]}],
        "rates": [{"evaluation": {"lr_of": 3}}],
    },
    "teachers": {"word": ["x"], "numbers": [[1, 2]], "object": [{"backbone": 3}]},
    "results": {"word": ["x"], "numbers": [[1]], "empty": [[{}]]},
    "versions": {"word": ["x"], "number": [{"torch": 2}], "list": [["torch"]]},
    "format": {"newer": [2, 10**6]},
}
FOLDER_FACTS = {
    "folders": {
        "word": ["abcd"],
        "numbers": [[0, 1, 2, 3]],
        "short": [["a", "b"]],
        "above": [["..", "b", "c", "d"], ["../folder/a", "b", "c", "d"]],
        "absolute": [["/etc", "b", "c", "d"]],
        "backslash": [["..\\a", "b", "c", "d"]],
        "missing": [["z", "b", "c", "d"]],
        "twice": [["a", "a", "c", "d"]],
        "nul": [["a\0", "b", "c", "d"]],
        "long": [["a" * 300, "b", "c", "d"]],
        "empty": [["", "b", "c", "d"]],
        "surrogate": [[Raw('"\\ud800"'), "b", "c", "d"]],
    },
    "form": {
        "unknown": ["zip", "pickle"],
        "number": [1],
        "gone": [GONE],
        "path": ["../hub"],
        "hub": ["hub"],
    },
}
INDEX = {
    "layout": {"other": [0, 3, 10**6], "word": ["2"], "gone": [GONE]},
    "epochs": NO_COUNT | {"more": [13, 500_000_000], "list": [[3]]},
    "images": NO_COUNT | {"other": [7, 9]},
    "classes": NO_COUNT | {"other": [3, 5]},
    "kept": {
        "word": ["some"],
        "empty": [[]],
        "beyond": [[0, 99]],
        "twice": [[0, 0]],
        "falls": [[2, 1, 0]],
        "negative": [[-1, 0]],
        "huge": [[2**70]],
        "fraction": [[0.5]],
    },
    "storage": NO_OBJECT
    | {
        "top_k": [{"top_k": "/../../../outside/evil", "bits": 16, "pruning": 1.0}],
        "bits": [{"top_k": None, "bits": 7, "pruning": 1.0}],
        "pruning": [{"top_k": None, "bits": 16, "pruning": Raw("NaN")}],
        "most": [{"top_k": 2**62, "bits": 16, "pruning": 1.0}],
    },
    "fields": NO_OBJECT
    | {
        "null": [None],
        "wide": [[["image", 0, 200]]],
        "pairs": [[["image", 0]]],
        "empty": [[]],
        "unknown": [[["pickle", 0, 8]]],
    },
    "batch": NO_COUNT,
    "shard_epochs": NO_COUNT,
    "shard_images": NO_COUNT,
}
DATA = {
    "classes": NO_COUNT | {"other": [3]},
    "image_size": NO_COUNT | {"other": [16]},
    "name": {"number": [7], "list": [["npz"]], "gone": [GONE]},
    "fingerprint": {"number": [7], "other": ["x"], "gone": [GONE]},
}
TEACHER = {
    "class_names": NO_NAMES,
    "channels": NO_COUNT,
    "image_size": NO_COUNT,
    "history": NO_OBJECT | {"gone": [GONE], "words": [{"epochs": ["a"], "top1": ["b"]}]},
    "backbone": {"number": [3], "path": ["../../evil"], "list": [[]]},
}
# How labels are cut into shards decides nothing else, and neither does what nobody reads.
FINE = {("batch", "large"), ("shard_epochs", "large"), ("shard_images", "large")}


def changed(entry, values, chance):
    """A function that puts one of the values into an entry of an object."""

    def change(content):
        value = chance.choice(values)
        if value is GONE:
            content.pop(entry, None)
        else:
            content[entry] = value

    return change


def set_case(form, file, entry, kind, values):
    """A set in one of its forms with one entry of one manifest changed."""

    def make(place):
        source = place.folder / ("set.safetensors" if form == "file" else "set")
        copy(place.samples / ("set.safetensors" if form == "file" else form), source)
        change = changed(entry, values, place.chance)
        if form == "file":
            edit_header(source, lambda header: change(header["facts"]))
        else:
            edit_json(source / file, change)
        named = "set.safetensors" if form == "file" else "set"
        return export(source, refused=(named,))

    return Case(f"manifests/{form}.{entry}.{kind}", make)


def index_case(entry, kind, values):
    """A set for the Hub with one entry of the index of its soft labels changed; they are read."""

    def make(place):
        source = copy(place.samples / "hub", place.folder / "set")
        edit_json(source / "soft_labels" / "index.json", changed(entry, values, place.chance))

        def check():
            made, sample = place.folder / "w.safetensors", place.samples / "weights.safetensors"
            assert read_tensors(made)[1] == read_tensors(sample)[1]

        arguments = ("train", "set", "--model", "convnet8_d1", "--out", "w.safetensors", "--quiet")
        fine = (entry, kind) in FINE
        return Command(
            arguments,
            refused=("set",),
            check=check if fine else None,
            outputs=("w.safetensors", "w.json", ".gvbsm-files.jsonl"),
        )

    return Case(f"manifests/index.{entry}.{kind}", make)


def data_case(entry, kind, values):
    """A work directory with one entry of `data.json` changed."""

    def make(place):
        work = copy(place.samples / "work", place.folder / "work")
        edit_json(work / "data.json", changed(entry, values, place.chance))
        arguments = ("squeeze", str(place.samples / "toy.yaml"), "--workdir", "work", "--quiet")
        return Command(arguments, refused=("work",))

    return Case(f"manifests/data.{entry}.{kind}", make)


def teacher_case(verb, entry, kind, values):
    """`show` or `report` of a work directory with one entry of a teacher's header changed."""

    def make(place):
        work = copy(place.samples / "work", place.folder / "work")
        edit_header(
            work / "squeeze" / "convnet8_d1.safetensors", changed(entry, values, place.chance)
        )
        return Command((verb, "work"), refused=("convnet8_d1",), check=bool, outputs=("work",))

    return Case(f"manifests/{verb}-teacher.{entry}.{kind}", make)


# Entries that may be anything printable: what is shown of them must not break a page or terminal.
SHOWN = {
    "word": "x",
    "number": 7,
    "list": [1, [2]],
    "deep": [[[[[[{}]]]]]],
    "null": None,
    "escape": "\x1b[31m",
    "markup": "<script>alert(1)</script>",
    "huge": 10**300,
    "nan": Raw("NaN"),
    "endless": Raw("1e400"),
    "surrogate": Raw('"\\ud800"'),
}


def result_case(verb, entry, kind, value):
    """`show` or `report` of a work directory with one entry of its results changed."""

    def make(place):
        copy(place.samples / "work", place.folder / "work")
        edit_json(
            place.folder / "work" / "results.json", lambda content: content.update({entry: value})
        )

        def check():
            text = "".join(path.read_text() for path in (place.folder / "work").rglob("index.html"))
            assert "<script>alert" not in text
            assert "\x1b" not in text

        return Command((verb, "work"), refused=("results.json",), check=check, outputs=("work",))

    return Case(f"manifests/{verb}.{entry}.{kind}", make)


def cases():  # noqa: C901 - a branch for each kind
    """All cases of manifests."""
    for form, file in (("folder", "gvbsm.json"), ("hub", "gvbsm.json"), ("file", "")):
        for entry, kinds in FACTS.items():
            for number, (kind, values) in enumerate(kinds.items()):
                if form == "folder" or (number + len(entry)) % 3 == (form == "hub"):
                    yield set_case(form, file, entry, kind, values)
    for entry, kinds in FOLDER_FACTS.items():
        for kind, values in kinds.items():
            yield set_case("folder", "gvbsm.json", entry, kind, values)
    for entry, kinds in INDEX.items():
        for kind, values in kinds.items():
            yield index_case(entry, kind, values)
    for entry, kinds in DATA.items():
        for kind, values in kinds.items():
            yield data_case(entry, kind, values)
    for entry, kinds in TEACHER.items():
        for number, (kind, values) in enumerate(kinds.items()):
            if number % 3 == 0:
                yield teacher_case("report" if number % 2 else "show", entry, kind, values)
    for number, (kind, value) in enumerate(SHOWN.items()):
        entries = ("rows", "config", "versions", "notes", "pictures", "seconds", "origin")
        for verb in ("show", "report"):
            yield result_case(verb, entries[number % len(entries)], kind, value)
    yield from texts.cases()
