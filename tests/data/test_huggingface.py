"""Hugging Face's formats: columns, splits, classes, and the files that rows name."""

import gc
import itertools
import json
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gvbsm.data.datasets import load_dataset
from gvbsm.data.pictures import DataError
from gvbsm.data.sources import hub_library
from support.picture_files import encoded, reds
from support.tables import datasets, table, write
from support.workdirs import assert_seen_alike

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def test_a_folder_of_parquet_files(tmp_path, runtime):
    root = write(tmp_path / "set", train=table(0, 6), test=table(6, 4))
    kept = load_dataset("hub", root, cache_dir=tmp_path)
    streamed = load_dataset("hub", root, cache_dir=tmp_path, in_memory=False)
    for data in (kept, streamed):
        assert (data.class_names, data.channels, data.image_size) == (("ant", "bee"), 3, 8)
        assert (reds(data.train), reds(data.test)) == (list(range(6)), [6, 7, 8, 9])
        assert data.train.labels.tolist() == [0, 1] * 3
    assert [str(path) for path in streamed.test.paths[:2]] == ["test[0]", "test[1]"]
    assert all(path.nbytes == len(encoded(i)) for i, path in enumerate(streamed.train.paths))
    assert_seen_alike(kept, streamed, runtime)


def test_the_fingerprint_follows_the_pictures(tmp_path):
    def prints(name, **splits):
        root = write(tmp_path / name, **splits)
        return load_dataset("hub", root, cache_dir=tmp_path, in_memory=False).fingerprint

    first = prints("a", train=table(0, 4), test=table(4, 2))
    assert prints("b", train=table(0, 4), test=table(4, 2)) == first
    assert prints("c", train=table(0, 4), test=table(4, 2, labels=[1, 0])) != first


def test_splits(tmp_path):
    """`test` without labels, as ImageNet's, gives way to `validation`; else a share is held out."""
    secret = table(8, 2, labels=[-1, -1])
    root = write(tmp_path / "a", train=table(0, 4), validation=table(4, 2), test=secret)
    assert reds(load_dataset("hub", root).test) == [4, 5]
    alone = load_dataset("hub", write(tmp_path / "b", train=table(0, 8)), val_fraction=0.25)
    assert (len(alone.train), len(alone.test)) == (6, 2)
    assert sorted(reds(alone.train) + reds(alone.test)) == list(range(8))


def test_a_picture_of_a_table_is_looked_at_again_in_another_table(tmp_path):
    """Cells of the same places and sizes, one of them broken: the answer is that of its files."""

    def skipped(name, *broken):
        pictures = [encoded(i, "BMP") for i in range(4)]
        cells = [
            {"bytes": b"X" * len(cell) if i in broken else cell, "path": None}
            for i, cell in enumerate(pictures)
        ]
        kinds = {"image": datasets.Image(), "label": datasets.ClassLabel(names=["ant", "bee"])}
        columns = {"image": cells, "label": [0, 1, 0, 1]}
        made = datasets.Dataset.from_dict(columns, features=datasets.Features(kinds))
        root = write(tmp_path / name, train=made, test=table(4, 2))
        return load_dataset("hub", root, cache_dir=tmp_path / "c", unreadable="skip").skipped

    assert skipped("a", 2) == ("train[2]",)
    assert skipped("b") == ()
    assert skipped("c", 3) == ("train[3]",)
    assert skipped("a", 2) == ("train[2]",)


def test_columns(tmp_path):
    words = table(0, 4).remove_columns("label").add_column("label", ["x", "y", "x", "y"])
    data = load_dataset("hub", write(tmp_path / "a", train=words))
    assert data.class_names == ("x", "y")
    renamed = table(0, 4, n=[0, 1, 2, 2]).rename_columns({"image": "pic", "label": "kind"})
    root = write(tmp_path / "b", train=renamed, test=renamed)
    assert load_dataset("hub", root).class_names == ("ant", "bee")  # found by their types
    numbers = load_dataset("hub", root, label_column="n", image_column="pic")
    assert (numbers.class_names, numbers.train.labels.tolist()) == (("0", "1", "2"), [0, 1, 2, 2])
    for wrong, message in (
        ({"label_column": "no"}, "no column 'no'"),
        ({"image_column": "n"}, "holds no pictures"),
        ({"label_column": "pic"}, "numbers or words"),
    ):
        with pytest.raises(DataError, match=message):
            load_dataset("hub", root, **wrong)
    two = table(0, 4).rename_columns({"label": "a"})
    two = two.add_column("b", [0, 1] * 2).cast_column("b", datasets.ClassLabel(names=["p", "q"]))
    with pytest.raises(DataError, match=r"which column .* holds labels\? Candidates: a, b"):
        load_dataset("hub", write(tmp_path / "c", train=two))


def test_a_folder_left_by_save_to_disk(tmp_path):
    made = datasets.DatasetDict({"train": table(0, 4), "validation": table(4, 2)})
    made.save_to_disk(tmp_path / "disk")
    assert reds(load_dataset("hub", tmp_path / "disk").test) == [4, 5]


def test_faults(tmp_path, monkeypatch):
    with pytest.raises(DataError, match="no split named train, only test"):
        load_dataset("hub", write(tmp_path / "a", test=table(0, 4)))
    with pytest.raises(DataError, match="pass either hub/USER/NAME"):
        load_dataset("hub")
    with pytest.raises(DataError, match="pass either hub/USER/NAME"):
        load_dataset("hub/a/b", tmp_path)
    with pytest.raises(DataError, match=r"test\.parquet is no folder"):
        load_dataset("hub", tmp_path / "a" / "test.parquet")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"cannot read .*empty as a Hugging Face data set"):
        load_dataset("hub", tmp_path / "empty")
    monkeypatch.setitem(sys.modules, "datasets", None)
    monkeypatch.setattr(hub_library, "find_spec", lambda name: None)
    with pytest.raises(DataError, match=r"needs datasets: pip install datasets$"):
        load_dataset("hub/user/name")


def named(data):
    """Each split's pictures with the names of their classes."""
    return [
        list(zip(reds(split), [data.class_names[label] for label in split.labels], strict=True))
        for split in (data.train, data.test)
    ]


def write_arrow(folder, **splits):
    """Arrow files alone, a folder for each split."""
    for name, content in splits.items():
        content.save_to_disk(folder / name)
        (folder / name / "state.json").unlink()
        (folder / name / "dataset_info.json").unlink()
    return folder


# Classes


def test_classes_in_another_order_are_matched_by_name(tmp_path):
    expected = [[(i, ("ant", "bee")[i % 2]) for i in range(4)], [(4, "bee"), (5, "ant")]]
    train, test = table(0, 4), table(4, 2, names=("bee", "ant"))
    assert named(load_dataset("hub", write(tmp_path / "a", train=train, test=test))) == expected
    assert (
        named(load_dataset("hub", write_arrow(tmp_path / "f", train=train, test=test))) == expected
    )
    datasets.DatasetDict({"train": train, "test": test}).save_to_disk(tmp_path / "b")
    assert named(load_dataset("hub", tmp_path / "b")) == expected
    fewer = table(4, 1, labels=[0], names=("bee",))
    data = load_dataset("hub", write(tmp_path / "c", train=train, test=fewer))
    assert named(data) == [expected[0], [(4, "bee")]]
    more = table(4, 2, labels=[0, 2], names=("new", "ant", "bee"))
    data = load_dataset("hub", write(tmp_path / "d", train=train, test=more.select([1])))
    assert named(data) == [expected[0], [(5, "bee")]]
    with pytest.raises(DataError, match="classes that no training picture has: new"):
        load_dataset("hub", write(tmp_path / "e", train=train, test=more))


def test_two_files_of_one_split_that_differ_are_refused(tmp_path):
    root = write(tmp_path / "a", test=table(4, 2))
    for number, names in enumerate((("ant", "bee"), ("bee", "ant"))):
        table(0, 4, names=names).to_parquet(root / f"train-{number}-of-2.parquet")
    with pytest.raises(DataError, match=r"train-0-of-2.* and .*train-1-of-2.* different classes"):
        load_dataset("hub", root)


def relabeled(made, values):
    return made.remove_columns("label").add_column("label", values)


def test_numbers_and_words_of_two_splits(tmp_path):
    """Words are names of classes; numbers are places in the names of the other split."""

    def load(name, train, test):
        splits = datasets.DatasetDict({"train": train, "test": test})
        splits.save_to_disk(tmp_path / name)
        return load_dataset("hub", tmp_path / name)

    expected = [[(i, ("ant", "bee")[i % 2]) for i in range(4)], [(4, "bee"), (5, "ant")]]
    classes, test = table(0, 4), table(4, 2)
    words = relabeled(test, ["bee", "ant"])
    assert named(load("words", classes, words)) == expected
    numbers = load("numbers", classes, relabeled(test, [1, 0]))
    assert named(numbers) == expected
    assert "taken as places in the classes of train" in numbers.notes[0]
    identifiers = relabeled(classes, [70, 90] * 2)
    assert load("ids", identifiers, relabeled(test, [90, 70])).class_names == ("70", "90")
    with pytest.raises(DataError, match="no training picture has: ant, bee"):
        load("mixed", identifiers, words)


@given(
    st.permutations(["ant", "bee", "cat"]),
    st.lists(st.sampled_from(["ant", "bee", "cat"]), min_size=1, max_size=6),
    st.sampled_from(["parquet", "arrow", "disk", "words"]),
)
@settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_order_of_classes_changes_no_picture_and_no_class(
    tmp_path_factory, order, classes, form
):
    """Against the cells as they were written, read one by one."""
    root = tmp_path_factory.mktemp("set")
    train = table(0, 3, labels=[0, 1, 2], names=("ant", "bee", "cat"))
    test = table(10, len(classes), labels=[order.index(c) for c in classes], names=order)
    if form == "words":
        test = relabeled(test, classes)
    if form == "parquet":
        write(root, train=train, test=test)
    elif form == "arrow":
        write_arrow(root, train=train, test=test)
    else:
        datasets.DatasetDict({"train": train, "test": test}).save_to_disk(root)
    data = load_dataset("hub", root)
    assert named(data) == [
        [(0, "ant"), (1, "bee"), (2, "cat")],
        [(10 + place, name) for place, name in enumerate(classes)],
    ]


# Rows that are left out


def test_a_row_without_label_or_picture_is_left_out_and_noted(tmp_path):
    train = table(0, 6, labels=[0, 1, -1, 0, 1, 0])
    cells = [*({"bytes": encoded(i), "path": None} for i in (6, 7)), None]
    test = datasets.Dataset.from_dict(
        {"image": cells, "label": [0, None, 1]}, features=train.features
    )
    for streamed in (True, False):
        root = write(tmp_path / f"set{streamed}", train=train, test=test)
        data = load_dataset("hub", root, in_memory=not streamed, cache_dir=tmp_path)
        assert (reds(data.train), data.train.labels.tolist()) == ([0, 1, 3, 4, 5], [0, 1, 0, 1, 0])
        assert (reds(data.test), data.test.labels.tolist()) == ([6], [0])
        assert [line.partition(": ")[2] for line in data.notes] == [
            "1 of 6 rows have no label and are left out (first: 2)",
            "1 of 3 rows have no picture and are left out (first: 2)",
            "1 of 3 rows have no label and are left out (first: 1)",
        ]


# Columns and layouts


def test_columns_of_bytes_that_are_named_are_used(tmp_path):
    raw = [encoded(i) for i in range(4)]
    for name, cells in (
        ("binary", raw),
        ("large", pa.array(raw, pa.large_binary())),
        ("struct", [{"bytes": cell} for cell in raw]),
    ):
        (tmp_path / name).mkdir()
        made = pa.table({"pic": cells, "kind": ["x", "y"] * 2})
        pq.write_table(made, tmp_path / name / "train.parquet")
        data = load_dataset("hub", tmp_path / name, image_column="pic", label_column="kind")
        assert sorted(itertools.chain(*named(data))) == [(i, "xy"[i % 2]) for i in range(4)]


def test_one_split_left_by_save_to_disk(tmp_path):
    table(0, 4).save_to_disk(tmp_path / "disk")
    data = load_dataset("hub", tmp_path / "disk")
    assert sorted(reds(data.train) + reds(data.test)) == [0, 1, 2, 3]


def write_pictures(root, rows, head="file_name,label"):
    """An image folder with metadata, whose pictures lie beside it."""
    root.mkdir(parents=True, exist_ok=True)
    for number in range(4):
        (root / f"{number}.png").write_bytes(encoded(number))
    (root / "metadata.csv").write_text("\n".join([head, *rows]) + "\n", encoding="utf-8")


@pytest.fixture
def _files_left_open():
    """`datasets` leaves files of metadata to be closed by the collector."""
    yield
    gc.collect()


@pytest.mark.usefixtures("_files_left_open")
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_words_of_metadata_are_classes(tmp_path):
    for side, words in (("train", "xyxy"), ("test", "yxyx")):
        write_pictures(tmp_path / "a" / side, [f"{i}.png,{w}" for i, w in enumerate(words)])
    data = load_dataset("hub", tmp_path / "a")
    assert named(data) == [list(zip(range(4), words, strict=True)) for words in ("xyxy", "yxyx")]


# Files that rows name


def write_paths(root, paths):
    """A table without bytes, whose rows name files."""
    (root / "data").mkdir(parents=True, exist_ok=True)
    cell = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    features = table(0, 2).features
    made = pa.table(
        {
            "image": pa.array([{"bytes": None, "path": str(path)} for path in paths], type=cell),
            "label": pa.array([i % 2 for i in range(len(paths))]),
        }
    )
    header = json.dumps({"info": {"features": features.to_dict()}})
    pq.write_table(
        made.replace_schema_metadata({"huggingface": header}), root / "data" / "train-0.parquet"
    )


def test_files_inside_of_the_set_are_read(tmp_path):
    root = tmp_path / "set"
    write_paths(root, [*(f"pictures/{i}.png" for i in range(3)), root / "pictures" / "3.png"])
    (root / "pictures").mkdir()
    for number in range(4):
        (root / "pictures" / f"{number}.png").write_bytes(encoded(number))
    data = load_dataset("hub", root)
    assert sorted(reds(data.train) + reds(data.test)) == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("{outside}/secret.png", "a file outside of"),
        ("../private/secret.png", "a file outside of"),
        ("link.png", "a file outside of"),
        ("linked/secret.png", "a file outside of"),
        ("/dev/zero", "a file outside of"),
        ("data", "no regular file"),
        ("missing.png", "No such file"),
        ("a\0b", "null"),
    ],
)
def test_no_file_outside_of_the_set_is_read(path, message, tmp_path):
    outside, root = tmp_path / "private", tmp_path / "set"
    outside.mkdir()
    (outside / "secret.png").write_bytes(encoded(1))
    write_paths(root, [path.format(outside=outside)] * 4)
    (root / "link.png").symlink_to(outside / "secret.png")
    (root / "linked").symlink_to(outside)
    with pytest.raises(DataError, match=rf"train of .*, row 0.*{message}"):
        load_dataset("hub", root)


@pytest.mark.usefixtures("_files_left_open")
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_metadata_names_no_file_outside_of_the_set(tmp_path):
    (tmp_path / "secret.png").write_bytes(encoded(1))
    for path in ("../../secret.png", str(tmp_path / "secret.png")):
        rows = [f"{i}.png,x" for i in range(3)] + [f"{path},y"]
        write_pictures(tmp_path / "a" / "train", rows)
        with pytest.raises(DataError, match=r"inside the directory|outside of"):
            load_dataset("hub", tmp_path / "a")
