"""Class folders as people have them: nothing is counted twice, mixed up or left out in silence."""

import os
import unicodedata

import pytest

from gvbsm.data.datasets import load_dataset
from gvbsm.data.pictures import DataError
from gvbsm.files.manifest import claim
from support.picture_files import draw, draw_classes, draw_tree


def load(root, **options):
    return load_dataset("folder", root, in_memory=False, cache_dir=root.parent / "cache", **options)


def labeled(data):
    """(class name, file name) of each training picture."""
    return {
        (data.class_names[label], path.name)
        for path, label in zip(data.train.paths, data.train.labels.tolist(), strict=True)
    }


@pytest.mark.parametrize(
    ("train", "test"),
    [
        ("Train", "Test"),
        ("TRAIN", "Val"),
        ("training", "testing"),
        ("train", "validation"),
        ("Training", "Valid"),
        ("train_set", "test_set"),
        ("train", "dev"),
        ("train", "eval"),
    ],
)
def test_splits_are_found_whatever_their_names(train, test, tmp_path):
    draw_tree(tmp_path / "a")
    (tmp_path / "a" / "train").rename(tmp_path / "a" / train)
    (tmp_path / "a" / "val").rename(tmp_path / "a" / test)
    data = load(tmp_path / "a")
    assert data.class_names == ("cat", "dog")
    assert (len(data.train), len(data.test)) == (7, 3)


def test_two_folders_for_one_split_are_named(tmp_path):
    draw_tree(tmp_path / "a")
    draw_classes(tmp_path / "a" / "Train", {"cat": 1, "dog": 1})
    with pytest.raises(DataError, match="Train/ and train/"):
        load(tmp_path / "a")


def test_a_class_that_is_called_as_a_split_is_to_be_renamed(tmp_path):
    draw_classes(tmp_path / "a", {"valid": 3, "invalid": 3})
    with pytest.raises(DataError, match=r"expected train/.*; if valid/ is a class, rename it"):
        load(tmp_path / "a")
    draw_classes(tmp_path / "b" / "train", {"steam": 3, "electric": 3})
    with pytest.raises(DataError, match=r"pass .*train itself; if train/ is a class, rename it"):
        load(tmp_path / "b")


def test_a_second_test_split_is_left_out_and_noted(tmp_path):
    draw_tree(tmp_path / "a")
    draw_classes(tmp_path / "a" / "test", {"cat": 5, "dog": 5})
    draw_classes(tmp_path / "a" / "notes", {"x": 1})
    data = load(tmp_path / "a")
    assert len(data.test) == 3
    assert data.reading.left_out == {
        "folder beside val/, which judges": ["test"],
        "folders beside train/ and val/": ["notes"],
    }


@pytest.mark.parametrize("target", ["..", "../..", "../../..", "../dog", "."])
def test_links_neither_multiply_pictures_nor_mix_classes(target, tmp_path):
    draw_tree(tmp_path / "a")
    before = labeled(load(tmp_path / "a"))
    (tmp_path / "a" / "train" / "cat" / "link").symlink_to(target, target_is_directory=True)
    if target == "../dog":  # it is cat's as well, by this link: one of the two is wrong
        with pytest.raises(DataError, match="dog is a link to a folder that is a class already"):
            load(tmp_path / "a")
        return
    data = load(tmp_path / "a")
    assert labeled(data) == before
    assert len(data.train) == len(before)
    assert "folders that a link leads to a second time" in data.reading.left_out


def test_a_class_that_is_a_link_to_another_is_refused(tmp_path):
    root = draw_classes(tmp_path / "a", {"cat": 3, "dog": 3})
    (root / "fox").symlink_to(root / "cat")
    with pytest.raises(DataError, match="fox is a link to a folder that is a class already"):
        load(root)


def test_links_to_folders_elsewhere_are_followed(tmp_path):
    draw_classes(tmp_path / "store", {"c1": 3, "c2": 3})
    (tmp_path / "a").mkdir()
    for link, name in (("cat", "c1"), ("dog", "c2")):
        (tmp_path / "a" / link).symlink_to(tmp_path / "store" / name)
    assert load(tmp_path / "a").class_names == ("cat", "dog")


def test_what_systems_put_beside_pictures_is_left_out_and_noted(tmp_path):
    root = draw_tree(tmp_path / "a")
    before = load(root)
    cat = root / "train" / "cat"
    for stray in (
        cat / "@eaDir" / "x.png" / "SYNOPHOTO_THUMB_M.png",
        root / "train" / "__MACOSX" / "a.png",
        cat / "._000.png",
        cat / ".thumbnails" / "a.png",
        root / "train" / "lost+found" / "a.png",
        root / "val" / "$RECYCLE.BIN" / "a.png",
    ):
        draw(stray)
    for name in ("Thumbs.db", "desktop.ini", ".DS_Store"):
        (cat / name).write_text("x")
    (cat / "notes.txt").write_text("x")
    (cat / "raw.cr2").write_text("x")
    (cat / "gone.png").symlink_to(tmp_path / "nowhere")
    os.mkfifo(cat / "pipe.png")
    (root / "train" / "loose.png").write_text("x")
    data = load(root)
    assert data.fingerprint == before.fingerprint
    counts = {why: len(names) for why, names in data.reading.left_out.items()}
    assert counts == {
        "hidden files and folders": 3,
        "files and folders of file servers or systems": 6,
        "files .txt": 1,
        "files .cr2": 1,
        "broken links, pipes and devices": 2,
        "files beside class folders": 1,
    }


@pytest.mark.parametrize("suffix", [".gif", ".jfif", ".webp", ".tif", ".jp2", ".ppm", ".JPEG"])
def test_every_raster_format_counts(suffix, tmp_path):
    root = draw_classes(tmp_path / "a", {"cat": 3, "dog": 3})
    draw(root / "cat" / f"more{suffix}")
    data = load(root)
    assert len(data.train) + len(data.test) == 7
    assert data.reading.formats == {"png": 6, suffix[1:].lower(): 1}


def test_a_work_directory_is_no_class(tmp_path):
    root = draw_classes(tmp_path / "a", {"cat": 3, "dog": 3})
    before = load(root)
    claim(root / "runs")
    draw(root / "runs" / "images.png")
    claim(root / "cat" / "mine")
    draw(root / "cat" / "mine" / "images.png")
    data = load(root)
    assert (data.class_names, data.fingerprint) == (("cat", "dog"), before.fingerprint)
    assert [len(names) for names in data.reading.left_out.values()] == [2]


def test_a_folder_of_work_directories_is_no_class(tmp_path):
    """`gvbsm run .` makes `runs/NAME` in the folder of the class folders."""
    root = draw_classes(tmp_path / "a", {"cat": 3, "dog": 3})
    before = load(root)
    for name in ("a", "b"):
        claim(root / "runs" / name)
        draw(root / "runs" / name / "images.png")
    (root / "runs" / ".hidden").touch()
    data = load(root)
    assert (data.class_names, data.fingerprint) == (("cat", "dog"), before.fingerprint)
    draw(root / "runs" / "bird.png")
    with pytest.raises(DataError, match="class 'runs' has 1 picture"):
        load(root)


def test_names_that_are_no_text(tmp_path):
    latin = os.fsdecode(b"caf\xe9")
    draw_classes(tmp_path / "a" / "train", {latin: 2, "dog": 2})
    draw_classes(tmp_path / "a" / "val", {latin: 1, "dog": 1})
    data = load(tmp_path / "a")
    assert data.class_names == ("caf\ufffd", "dog")
    "".join(data.class_names).encode()
    draw_classes(tmp_path / "a" / "train", {os.fsdecode(b"caf\xe8"): 2})
    with pytest.raises(DataError, match="several folders that read 'caf\ufffd'"):
        load(tmp_path / "a")


def test_accents_are_written_in_two_ways(tmp_path):
    composed, apart = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))
    draw_classes(tmp_path / "a" / "train", {apart: 2, "dog": 2})
    draw_classes(tmp_path / "a" / "val", {composed: 1, "dog": 1})
    assert load(tmp_path / "a").class_names == (composed, "dog")
    draw_classes(tmp_path / "a" / "train", {composed: 2})
    with pytest.raises(DataError, match="several folders that read 'café'"):
        load(tmp_path / "a")


def test_faults_of_folders_are_named(tmp_path):
    root = draw_tree(tmp_path / "a")
    draw(root / "val" / "fox" / "a.png")
    with pytest.raises(
        DataError, match=r"same classes; only in train: \[\], only in val: \['fox'\]"
    ):
        load(root)
    (tmp_path / "file").write_text("x")
    with pytest.raises(DataError, match="file is a file"):
        load(tmp_path / "file")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no class folders"):
        load(tmp_path / "empty")
    draw_classes(tmp_path / "b", {"cat": 3})
    (tmp_path / "b" / "dog").mkdir()
    (tmp_path / "b" / "dog" / "a.txt").touch()
    with pytest.raises(DataError, match=r"no pictures in class folder .*dog.*\.png"):
        load(tmp_path / "b")


@pytest.mark.parametrize(
    "content", ["\ufeffn01\tcafé, x\n".encode(), "n01\tcafé\n".encode("latin-1")]
)
def test_words_in_any_encoding(content, tmp_path):
    draw_classes(tmp_path / "train", {"n01": 2, "n02": 2}, size=(64, 64))
    draw_classes(tmp_path / "val", {"n01": 1, "n02": 1}, size=(64, 64))
    (tmp_path / "words.txt").write_bytes(content)
    data = load_dataset("tiny-imagenet", tmp_path)
    assert data.class_names == ("café", "n02")
    assert any("Latin-1" in note for note in data.notes) == (content[0] != 0xEF)
