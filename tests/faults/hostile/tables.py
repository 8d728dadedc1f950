"""Tables of the Hugging Face Hub, and those of exported sets: bombs, nulls, others' files."""

import contextlib
import io
import zlib
from pathlib import Path

from PIL import Image

from faults.hostile.arrays import NAMES, expect, png, toy
from faults.hostile.case import Case, export, squeeze
from faults.hostile.samples import copy
from gvbsm.files.artifacts import read_json, write_json
from support.tables import repeated_rows, write_repeated


def table(place, side, **columns):
    """The sample data of one side as an Arrow table."""
    import pyarrow as pa

    arrays = toy(place)
    cells = [{"bytes": png(image), "path": None} for image in arrays[f"{side}_images"]]
    pictures = pa.array(cells, pa.struct([("bytes", pa.binary()), ("path", pa.string())]))
    labels = arrays[f"{side}_labels"].tolist()
    return pa.table(
        {"image": pictures, "label": labels} | {k: v(pictures, labels) for k, v in columns.items()}
    )


def with_features(rows, names):
    """Declare pictures and classes, as `datasets` does."""
    from datasets import ClassLabel, Features, Image

    features = Features({"image": Image(), "label": ClassLabel(names=list(names))})
    return rows.replace_schema_metadata(features.arrow_schema.metadata)


def write_tables(folder, **tables):
    import pyarrow.parquet as pq

    (folder / "data").mkdir(parents=True, exist_ok=True)
    for side, rows in tables.items():
        pq.write_table(rows, folder / "data" / f"{side}-00000-of-00001.parquet")


def bad_hub(kind, place, folder):  # noqa: C901 - a branch for each kind
    import pyarrow as pa

    train, test = (with_features(table(place, side), NAMES) for side in ("train", "test"))
    cells = table(place, "train")["image"].to_pylist()
    image = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    match kind:
        case "path":
            cells[3] = {"bytes": None, "path": str(place.folder / "mine.txt")}
            train = with_features(train.set_column(0, "image", pa.array(cells, image)), NAMES)
        case "path-above":
            cells[3] = {"bytes": None, "path": "../mine.txt"}
            train = with_features(train.set_column(0, "image", pa.array(cells, image)), NAMES)
        case "no-picture":
            cells[3] = {"bytes": b"no picture", "path": None}
            train = with_features(train.set_column(0, "image", pa.array(cells, image)), NAMES)
        case "postscript":
            cells[3] = {
                "bytes": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n{ } loop\n",
                "path": None,
            }
            train = with_features(train.set_column(0, "image", pa.array(cells, image)), NAMES)
        case "all-null":
            nulls = pa.array([None] * len(cells), image)
            train = with_features(train.set_column(0, "image", nulls), NAMES)
        case "labels-null":
            nulls = pa.array([None] * len(cells), pa.int64())
            train = with_features(train.set_column(1, "label", nulls), NAMES)
        case "labels-float":
            train = table(place, "train", label=lambda _, labels: pa.array(labels, pa.float64()))
            test = None
        case "beyond":
            labels = [99, *train["label"].to_pylist()[1:]]
            train = with_features(train.set_column(1, "label", pa.array(labels)), NAMES)
        case "other-names":
            test = with_features(test, "wxyz")
        case "no-label":
            train, test = train.drop_columns(["label"]), None
        case "no-image":
            train, test = train.drop_columns(["image"]), None
        case "numbers":
            train = table(place, "train", image=lambda pictures, _: list(range(len(pictures))))
            test = None
    sides = {"train": train} | ({} if test is None else {"test": test})
    if kind == "no-train":
        sides = {"validation": test}
    write_tables(folder, **sides)
    file = folder / "data" / "train-00000-of-00001.parquet"
    match kind:
        case "cut":
            file.write_bytes(file.read_bytes()[: place.chance.randrange(4, 1000)])
        case "bytes":
            file.write_bytes(place.chance.randbytes(1000))
        case "script":
            file.unlink()
            (folder / "shards.py").write_text("raise SystemExit('ran')")
            (folder / "set.py").write_text("raise SystemExit('ran')")
        case "readme-outside":
            config = "configs:\n- config_name: default\n  data_files: /etc/passwd\n"
            (folder / "README.md").write_text(f"---\n{config}---\n")
        case "empty":
            file.unlink()
            (folder / "data" / "test-00000-of-00001.parquet").unlink()


BAD_HUB = (
    "path",
    "path-above",
    "no-picture",
    "postscript",
    "all-null",
    "labels-null",
    "labels-float",
    "beyond",
    "other-names",
    "no-label",
    "no-image",
    "numbers",
    "no-train",
    "cut",
    "bytes",
    "script",
    "readme-outside",
    "empty",
)


REPEATED = {
    "picture": {"image": 2_000_000},
    "word": {"label": 2_000_000},
    "rows": {"image": 19_000_000},
}


def repeated_case(kind, form):
    """A table of a few hundred KB, in which one cell is repeated in all rows."""

    def make(place):
        folder = place.folder / "table"
        ((column, rows),) = REPEATED[kind].items()
        large = place.chance.randbytes(300_000 if kind != "rows" else 70)
        cells = {column: (large if column == "image" else large.hex(), rows)}
        if form == "parquet":
            write_repeated(folder, **cells)
        else:
            write_saved(folder, repeated_rows(**cells))
        return squeeze(place, "hub", folder, refused=("table", "should decode"))

    return Case(f"archives/hub.repeated-{kind}-{form}", make)


def write_saved(folder, rows, **options):
    """A set of `save_to_disk` whose Arrow file holds other rows."""
    import datasets
    from pyarrow import ipc

    features = datasets.Features(
        {"image": datasets.Image(), "label": datasets.ClassLabel(names=list(NAMES))}
    )
    first = {"image": [{"bytes": b"", "path": None}], "label": [0]}
    datasets.Dataset.from_dict(first, features=features).save_to_disk(folder)
    with ipc.new_stream(
        folder / "data-00000-of-00001.arrow", rows.schema, options=ipc.IpcWriteOptions(**options)
    ) as stream:
        stream.write_table(rows)


def compressed_case():
    """A saved set whose buffers unpack to 2 GB of zeros."""

    def make(place):
        import pyarrow as pa

        cell = {"bytes": bytes(1_000_000), "path": None}
        image = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
        rows = pa.table({"image": pa.array([cell] * 100, image), "label": [0, 1] * 50})
        write_saved(place.folder / "table", pa.concat_tables([rows] * 20), compression="zstd")
        return squeeze(place, "hub", place.folder / "table", refused=("table", "should decode"))

    return Case("archives/hub.compressed-arrow", make)


def bad_hub_case(kind):
    def make(place):
        bad_hub(kind, place, place.folder / "table")
        named = "train[3]" if kind in ("no-picture", "postscript") else "table"
        return squeeze(place, "hub", place.folder / "table", refused=(named,))

    return Case(f"archives/hub.{kind}", make)


def sound_hub_case(kind):
    def make(place):
        import pyarrow as pa

        folder, arrays, names = place.folder / "table", toy(place), NAMES
        train, test = (table(place, side) for side in ("train", "test"))
        match kind:
            case "permuted":  # the same classes, numbered otherwise in the test split
                order = list(NAMES)
                place.chance.shuffle(order)
                words = [NAMES[label] for label in test["label"].to_pylist()]
                places = pa.array([order.index(word) for word in words])
                train = with_features(train, NAMES)
                test = with_features(test.set_column(1, "label", places), order)
            case "words":
                train, test = (
                    rows.set_column(
                        1, "label", pa.array([NAMES[n] for n in rows["label"].to_pylist()])
                    )
                    for rows in (train, test)
                )
            case "plain":
                train, test = (with_features(rows, NAMES) for rows in (train, test))
            case "caption":  # a column that is not read, with a large text in each row
                text = place.chance.randbytes(200_000).hex()
                train, test = (
                    rows.append_column("caption", pa.array([text] * len(rows)))
                    for rows in (train, test)
                )
                names = tuple("0123")
            case "binary":
                train, test = (
                    rows.set_column(
                        0, "image", pa.array([c["bytes"] for c in rows["image"].to_pylist()])
                    )
                    for rows in (train, test)
                )
                names = tuple("0123")
        write_tables(folder, train=train, test=test)
        options = {"image_column": "image"} if kind in ("binary", "words", "caption") else {}
        flags = [f"--data.{key}={value}" for key, value in options.items()]
        check = expect("hub", folder, arrays, names, **options)
        return squeeze(place, "hub", folder, *flags, check=check)

    return Case(f"archives/hub.sound-{kind}", make)


# The table of an exported set


def bad_set(kind, place, file):  # noqa: C901 - a branch for each kind
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = pq.read_table(file)
    cells, labels = rows["image"].to_pylist(), rows["label"].to_pylist()
    image = rows.schema.field("image").type
    match kind:
        case "bomb":
            one = pa.array([{"bytes": bytes(2_000_000), "path": None}] * 8, image)
            rows = pa.table({"image": one, "label": pa.array(labels)})
            rows = pa.concat_tables([rows] * 200)
        case "repeated":  # one picture of 50 KB in a million rows, as the set's own file states
            head = content = cells[0]["bytes"]
            chunk = (50_000).to_bytes(4, "big") + b"teXt" + bytes(50_000)
            content = head[:33] + chunk + zlib.crc32(chunk[4:]).to_bytes(4, "big") + head[33:]
            rows = repeated_rows(image=(content, 1_000_000))
            facts = read_json(Path("gvbsm.json"))
            write_json(Path("gvbsm.json"), facts | {"images": 1_000_000, "ipc": 250_000})
        case "rows":
            rows = pa.table(
                {"image": pa.nulls(5_000_000, image), "label": pa.nulls(5_000_000, pa.int64())}
            )
        case "null-picture" | "null-label":
            spot = place.chance.randrange(8)
            (cells if kind == "null-picture" else labels)[spot] = None
            rows = pa.table({"image": pa.array(cells, image), "label": pa.array(labels)})
        case "words":
            rows = pa.table({"image": rows["image"], "label": pa.array([str(n) for n in labels])})
        case "path":
            cells[0] = {"bytes": None, "path": str(place.folder / "mine.txt")}
            rows = pa.table({"image": pa.array(cells, image), "label": pa.array(labels)})
        case "postscript" | "jpeg" | "size":
            content = io.BytesIO(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n{ } loop\n")
            if kind != "postscript":
                content = io.BytesIO()
                side = 8 if kind == "jpeg" else 9000
                Image.new("RGB", (side, side)).save(content, "JPEG" if kind == "jpeg" else "PNG")
            cells[0] = {"bytes": content.getvalue(), "path": None}
            rows = pa.table({"image": pa.array(cells, image), "label": pa.array(labels)})
        case "negative" | "beyond":
            labels[0] = -1 if kind == "negative" else place.chance.choice((4, 2**40))
            rows = pa.table({"image": rows["image"], "label": pa.array(labels)})
        case "columns":
            rows = rows.rename_columns(["picture", "class"])
        case "short":
            rows = rows.slice(0, 7)
        case "lists":
            rows = pa.table({"image": pa.array([[1]] * 8), "label": pa.array(labels)})
    pq.write_table(rows, file, compression="zstd", store_schema=False)
    if kind == "cut":
        file.write_bytes(file.read_bytes()[:-1])
    if kind == "bytes":
        file.write_bytes(place.chance.randbytes(1000))
    if kind == "outside":
        file.unlink()
        file.symlink_to(place.samples / "hub" / "data" / file.name)
    if kind == "gone":
        file.unlink()


BAD_SET = (
    "bomb",
    "repeated",
    "rows",
    "null-picture",
    "null-label",
    "words",
    "path",
    "postscript",
    "jpeg",
    "size",
    "negative",
    "beyond",
    "columns",
    "short",
    "lists",
    "cut",
    "bytes",
    "outside",
    "gone",
)


def bad_set_case(kind):
    def make(place):
        source = copy(place.samples / "hub", place.folder / "set")
        with contextlib.chdir(source):
            bad_set(kind, place, next((source / "data").glob("*.parquet")))
        return export(source, refused=("set",))

    return Case(f"archives/set.{kind}", make)


def cases():
    """All cases of tables."""
    yield from map(bad_hub_case, BAD_HUB)
    yield from map(sound_hub_case, ("plain", "permuted", "words", "binary", "caption"))
    for kind in REPEATED:
        yield repeated_case(kind, "parquet")
    yield repeated_case("picture", "arrow")
    yield repeated_case("word", "arrow")
    yield compressed_case()
    yield from map(bad_set_case, BAD_SET)
