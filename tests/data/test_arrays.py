"""Arrays: what an .npz and CIFAR's files may hold, and an error line for every fault in them."""

import io
import json
import re
import subprocess
import sys
import zipfile
from types import SimpleNamespace
from urllib.error import URLError

import numpy as np
import pytest
import torchvision
from hypothesis import given
from hypothesis import strategies as st

from gvbsm.cli import main
from gvbsm.data.datasets import load_dataset
from gvbsm.data.pictures import DataError
from gvbsm.data.sources import arrays as reader
from support.picture_files import arrays, draw_tree, write_npz
from support.workdirs import quick_settings, write_arrays, write_preset


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "npz"])
def test_arrays(tmp_path, name):
    names = np.array(["cat", "dog"])
    file = write_npz(tmp_path / "a.npz", size=32, class_names=names)
    for root in (file, tmp_path):
        data = load_dataset(name, root)
        assert data.class_names == ("cat", "dog")
        expected = arrays(size=32)["train_images"].transpose(0, 3, 1, 2)
        assert np.array_equal(data.train.images.numpy(), expected)
        assert data.test.labels.tolist() == [0, 1, 0, 1, 0, 1]


def test_cifar_as_class_folders(tmp_path):
    tree = draw_tree(tmp_path / "tree")
    (tree / "val").rename(tree / "test")
    data = load_dataset("cifar10", tree)
    assert data.test.images.shape == (3, 3, 32, 32)


def fake_cifar(root, train, download):
    if download:
        raise URLError("no route")
    data = np.full((4, 32, 32, 3), 200 if train else 100, dtype=np.uint8)
    return SimpleNamespace(data=data, targets=[0, 1, 0, 1], classes=["a", "b"], root=root)


def test_cifar_official_files(tmp_path, monkeypatch):
    monkeypatch.setattr(torchvision.datasets, "CIFAR10", fake_cifar)
    (tmp_path / "cifar-10-batches-py").mkdir()
    for root in (tmp_path, tmp_path / "cifar-10-batches-py"):
        data = load_dataset("cifar10", root)
        assert (data.train.images.unique(), data.test.images.unique()) == (200, 100)
    with pytest.raises(DataError, match=r"no route.*--data\.root"):
        load_dataset("cifar10", cache_dir=tmp_path)


# Faults


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train_images": np.zeros((6, 8, 8, 3))}, "one type.*float64.*uint8"),
        ({"train_images": np.ones((6, 5, 8, 8), dtype=np.uint8)}, r"\(6, 5, 8, 8\)"),
        ({"test_labels": np.zeros(5, dtype=int)}, "6 images but 5 labels"),
        ({"test_labels": np.zeros(6)}, "integers.*float64"),
        (
            {"test_labels": np.array([0, 1, 2, 0, 1, 0])},
            "test in .*classes that no training picture has: 2",
        ),
        ({"train_labels": np.array([0, 1, -1, 0, 1, 0])}, "number -1: classes count from 0"),
        ({"train_labels": np.array([0, 2, 2, 0, 2, 0])}, "no training picture has: 1"),
        ({"train_labels": np.zeros(6, dtype=int), "test_labels": None}, "lacks.*test_labels"),
        (
            {f"{side}_labels": np.zeros(6, dtype=int) for side in ("train", "test")},
            "only one class",
        ),
        ({"test_images": np.zeros((6, 8, 8), dtype=np.uint8)}, "same number of channels"),
        ({"class_names": np.array(["a", "b", "a"])}, "names the class 'a' twice"),
        ({"class_names": np.array([b"a", b"\xff"])}, "bytes, but no UTF-8"),
        ({"class_names": np.array(["a"])}, "names 1 classes, but not the class 1"),
        ({"class_names": np.array(["a", None], dtype=object)}, r"a\.npz.*plain arrays"),
    ],
)
def test_faults_of_arrays_are_named(tmp_path, changes, message):
    with pytest.raises(DataError, match=message):
        load_dataset("npz", write_npz(tmp_path / "a.npz", **changes))


def test_faults_of_npz_files_are_named(tmp_path):
    with pytest.raises(DataError, match=r"no .npz file"):
        load_dataset("npz", tmp_path)
    (tmp_path / "a.npz").write_text("text")
    with pytest.raises(DataError, match=r"cannot read .*a\.npz"):
        load_dataset("npz", tmp_path)
    with pytest.raises(DataError, match=r"expected 3 channels, found \[1\]"):
        load_dataset("cifar10", write_npz(tmp_path / "a.npz", channels=1))
    write_npz(tmp_path / "b.npz")
    with pytest.raises(DataError, match=r"a\.npz.*b\.npz"):
        load_dataset("npz", tmp_path)


def test_more_pictures_than_memory_has_objects_for_are_refused(tmp_path, monkeypatch):
    """One byte a picture in the file, a hundred in memory."""
    file = write_npz(tmp_path / "a.npz")
    monkeypatch.setattr(reader, "MOST_PICTURES", 5)
    with pytest.raises(DataError, match=r"train in .*a\.npz has 6 images, more than 5"):
        load_dataset("npz", file)


def both(change):
    """The images of both splits, changed."""
    return {k: change(v) for k, v in arrays().items() if k.endswith("images")}


@pytest.mark.parametrize(
    ("change", "note"),
    [
        (lambda x: x.astype(np.float32), "float32 from 0 to 255, taken as 0 to 255"),
        (lambda x: x / 255, "float64 from 0 to 1, taken as 0 to 1"),
        (lambda x: (x / 255).astype(np.float32), "float32 from 0 to 1, taken as 0 to 1"),
        (lambda x: x.astype(np.int32), "int32 from 0 to 255"),
        (lambda x: x.transpose(0, 3, 1, 2), r"taken as \[N,C,H,W\]"),
    ],
)
def test_pixels_of_another_form_are_read_as_the_same_pictures(change, note, tmp_path):
    data = load_dataset("npz", write_npz(tmp_path / "a.npz", **both(change)))
    plain = load_dataset("npz", write_npz(tmp_path / "b.npz"))
    assert data.train.images.equal(plain.train.images)
    assert data.test.images.equal(plain.test.images)
    assert data.fingerprint == plain.fingerprint
    assert any(re.search(note, line) for line in data.notes)
    assert not plain.notes


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x: x / 127.5 - 1, "float64 from -1 to 1: expected 0 to 255, or 0 to 1"),
        (lambda x: x / 16, r"float64 from 0 to 15\.9375: expected"),
        (lambda x: np.where(x > 250, np.nan, x), "float64 from nan to nan: expected"),
        (lambda x: x.astype(np.int64) * 257, "int64 from 0 to 65535: expected"),
        (lambda x: x // 128, "uint8 from 0 to 1, so all black"),
        (lambda x: x.astype(complex), "must be uint8"),
    ],
)
def test_pixels_of_a_doubtful_range_are_refused(change, message, tmp_path):
    with pytest.raises(DataError, match=message):
        load_dataset("npz", write_npz(tmp_path / "a.npz", **both(change)))


@pytest.mark.parametrize("side", ["train", "test"])
def test_one_nan_on_either_side_is_refused(side, tmp_path):
    images = arrays()[f"{side}_images"] / 255
    images[0, 0, 0] = np.nan
    other = {"train": "test", "test": "train"}[side]
    changed = {f"{side}_images": images, f"{other}_images": arrays()[f"{other}_images"] / 255}
    with pytest.raises(DataError, match="float64 from nan to nan: expected"):
        load_dataset("npz", write_npz(tmp_path / "a.npz", **changed))


def test_class_names_as_bytes_or_with_a_byte_order_mark_are_read_as_text(tmp_path):
    for raw in (["café", "b"], [n.encode() for n in ("café", "b")], ["\ufeffcafe\u0301", "b "]):
        file = write_npz(tmp_path / "a.npz", class_names=np.array(raw))
        assert load_dataset("npz", file).class_names == ("café", "b")


def test_identifiers_in_the_place_of_labels_are_classes_named_by_them(tmp_path):
    def identifiers(labels):
        return np.array([10**9, 7])[labels]

    plain = load_dataset("npz", write_npz(tmp_path / "a.npz"))
    changed = {k: identifiers(v) for k, v in arrays().items() if k.endswith("labels")}
    data = load_dataset("npz", write_npz(tmp_path / "b.npz", **changed))
    assert data.class_names == ("7", "1000000000")
    assert data.train.labels.tolist() == [1 - label for label in plain.train.labels.tolist()]
    assert "2 different numbers are taken as names of classes" in data.notes[0]


@given(
    st.permutations(["ant", "bee", "cat"]),
    st.lists(st.integers(0, 2), min_size=1, max_size=6),
    st.sampled_from([None, [0, 1, 2], [40, 7, 10**12]]),
)
def test_the_order_of_classes_and_pictures_changes_no_class(
    tmp_path_factory, order, test, identifiers
):
    """Each picture's brightness names its class, whatever number the arrays give it."""
    file = tmp_path_factory.mktemp("set") / "a.npz"
    numbers = np.array([0, 1, 2] if identifiers is None else identifiers)
    levels = {str(number): 100 + 10 * place for place, number in enumerate(numbers)}
    if identifiers is None:
        levels = {name: 100 + 10 * place for place, name in enumerate(order)}
    train = [2, 0, 1, 1]
    pictures = {
        side: np.full((1, 4, 4), 1, dtype=np.uint8)
        * (100 + 10 * np.array(labels, dtype=np.uint8))[:, None, None]
        for side, labels in (("train", train), ("test", test))
    }
    named = {"class_names": np.array(order)} if identifiers is None else {}
    np.savez(
        file,
        train_images=pictures["train"],
        train_labels=numbers[train],
        test_images=pictures["test"],
        test_labels=numbers[test],
        **named,
    )
    data = load_dataset("npz", file)
    for split in (data.train, data.test):
        names = [data.class_names[label] for label in split.labels]
        assert split.images[:, 0, 0, 0].tolist() == [levels[name] for name in names]


def test_run__prints_and_keeps_what_was_assumed(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr("gvbsm.reporting.report", lambda workdir, quiet: workdir)
    file = write_arrays(tmp_path / "plain.npz")
    with np.load(file) as plain:
        changed = {k: v * 10 if k.endswith("labels") else v for k, v in plain.items()}
    del changed["class_names"]
    np.savez(tmp_path / "ids.npz", **changed)
    data = {"name": "npz", "root": str(tmp_path / "ids.npz")}
    preset = write_preset(tmp_path / "toy.yaml", quick_settings(data, baselines={"methods": []}))
    workdir = tmp_path / "run"
    assert main(["run", str(preset), "--workdir", str(workdir), "--quiet"]) == 0
    (note,) = json.loads((workdir / "results.json").read_text())["notes"]
    assert note in caplog.messages
    assert "4 different numbers are taken as names of classes" in note


def write_member(archive, key, shape, dtype, size):
    """A member whose header claims a shape, and that holds `size` zeros."""
    head = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        head, {"descr": np.dtype(dtype).str, "fortran_order": False, "shape": shape}
    )
    with archive.open(f"{key}.npy", "w", force_zip64=True) as stream:
        stream.write(head.getvalue())
        block = bytes(2**20)
        for start in range(0, size, len(block)):
            stream.write(block[: size - start])


def write_bomb(file, labels, shape, size):
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for side in ("train", "test"):
            write_member(archive, f"{side}_labels", (labels,), "<i8", 8 * labels)
            write_member(archive, f"{side}_images", shape, "|u1", size)


LARGE = 400 * 2**20


LOAD_EACH = """
import resource, sys
from gvbsm.data.datasets import load_dataset

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

before = peak()
for file in sys.argv[1:]:
    try:
        load_dataset("npz", file)
    except ValueError as error:
        print(peak() - before, error)
"""


def test_sizes_are_looked_at_before_memory_is_taken(tmp_path):
    """In a process of its own, whose peak of memory is compared with that of the imports alone."""
    bombs = [
        (4, (LARGE // 64, 8, 8), LARGE, f"has {LARGE // 64} images but 4 labels"),
        (25, (25, 4096, 4096), LARGE, "more than 200 times as many"),
        (4, (4, 2**30, 2**30), 64, r"train_images of \(4, .* must have .* bytes, not 64"),
    ]
    files = [tmp_path / f"{number}.npz" for number in range(len(bombs))]
    for file, (labels, shape, size, _) in zip(files, bombs, strict=True):
        write_bomb(file, labels, shape, size)
    done = subprocess.run(
        [sys.executable, "-c", LOAD_EACH, *files], check=True, capture_output=True, text=True
    )
    for line, (*_, message) in zip(done.stdout.splitlines(), bombs, strict=True):
        taken, _, fault = line.partition(" ")
        assert int(taken) < 200 * 1024  # kilobytes
        assert re.search(message, fault)


def test_a_set_larger_than_the_memory_is_refused(tmp_path, monkeypatch):
    sizes = {"SC_PAGE_SIZE": 1, "SC_PHYS_PAGES": 2 * 2000}
    monkeypatch.setattr(reader.os, "sysconf", sizes.__getitem__)
    with pytest.raises(DataError, match="more than half of the machine's"):
        load_dataset("npz", write_npz(tmp_path / "a.npz"))
