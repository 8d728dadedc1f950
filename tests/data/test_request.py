"""Sources: every data set's layout of files, and an error line for every fault in it."""

import pytest
import torch

from gvbsm.data.datasets import load_dataset
from gvbsm.data.pictures import DataError
from support.picture_files import draw, draw_classes, draw_tree


@pytest.fixture
def tree(tmp_path):
    return draw_tree(tmp_path / "tree")


# Splits and folders


def test_the_split_is_stratified_and_seeded():
    first, again, other = (load_dataset("digits", split_seed=seed) for seed in (1, 1, 2))
    assert torch.equal(first.train.images, again.train.images)
    assert first.fingerprint == again.fingerprint != other.fingerprint
    counts = first.train.labels.bincount() + first.test.labels.bincount()
    assert torch.equal(first.test.labels.bincount(), (counts * 0.2).round().long())
    half = load_dataset("digits", val_fraction=0.5)
    assert abs(len(half.test) - len(half.train)) <= 10
    assert half.reading.held_out == "0.5 of each class (data.split_seed=0)"
    assert "held out: 0.2 of each class (data.split_seed=2)" in other.reading.lines()[1]


def test_a_split_of_the_data_s_own_is_not_held_out(tree):
    assert load_dataset("folder", tree).reading.held_out == ""


def test_a_split_folder_is_disjoint_and_complete(tmp_path):
    root = draw_classes(tmp_path / "all", {"a": 2, "b": 9, "c": 3})
    data = load_dataset("folder", root, in_memory=False, cache_dir=tmp_path, val_fraction=0.01)
    train, test = set(data.train.paths), set(data.test.paths)
    assert not train & test
    assert train | test == set(root.rglob("*.png"))
    assert data.test.labels.bincount().tolist() == [1, 1, 1]
    for split in (data.train, data.test):
        for path, label in zip(split.paths, split.labels, strict=True):
            assert path.parent.name == data.class_names[label]
    most = load_dataset("folder", root, val_fraction=0.99)
    assert most.train.labels.bincount().tolist() == [1, 1, 1]


def test_folder_passes_over_what_is_no_picture_and_walks_nested_folders(tree):
    before = load_dataset("folder", tree)
    (tree / "train" / "cat" / "notes.txt").write_text("x")
    draw(tree / "train" / "cat" / ".hidden.png")
    draw(tree / "train" / ".git" / "a.png")
    draw(tree / "train" / "cat" / ".thumbs" / "a.png")
    assert load_dataset("folder", tree).fingerprint == before.fingerprint
    draw(tree / "train" / "cat" / "more" / "x.PNG")
    assert len(load_dataset("folder", tree).train) == 8


def test_a_class_may_be_called_train(tmp_path):
    data = load_dataset("folder", draw_classes(tmp_path / "vehicles", {"bus": 2, "train": 2}))
    assert data.class_names == ("bus", "train")


# Named sets


def test_tiny_imagenet_in_its_own_layout(tmp_path):
    wnids = ("n02", "n01", "n03")
    for wnid in wnids:
        draw_classes(tmp_path / "train" / wnid, {"images": 2}, size=(64, 64))
        draw(tmp_path / "val" / "images" / f"val_{wnid}.png", size=(64, 64))
    lines = [f"val_{wnid}.png\t{wnid}\t0\t0\t9\t9" for wnid in (*wnids, "n99")]
    (tmp_path / "val" / "val_annotations.txt").write_text("\n".join(lines) + "\n")
    (tmp_path / "words.txt").write_text("n01\tcrane, bird\nn02\tcrane\nn98\tother\n")
    data = load_dataset("tiny-imagenet", tmp_path, in_memory=False, cache_dir=tmp_path / "c")
    assert data.class_names == ("crane (n01)", "crane (n02)", "n03")
    assert [path.stem for path in data.test.paths] == ["val_n01", "val_n02", "val_n03"]
    assert data.reading.left_out == {
        "pictures of classes that train/ does not have": ["val_n99.png"]
    }
    assert load_dataset("tiny-imagenet", tmp_path).train.images.shape == (6, 3, 64, 64)
    (tmp_path / "val" / "images" / "val_n02.png").unlink()
    with pytest.raises(DataError, match=r"val_n02\.png"):
        load_dataset("tiny-imagenet", tmp_path)
    (tmp_path / "val" / "val_annotations.txt").write_text(lines[1] + "\n")
    with pytest.raises(DataError, match="n02"):
        load_dataset("tiny-imagenet", tmp_path)
    (tmp_path / "val" / "images").rename(tmp_path / "val" / "pictures")
    with pytest.raises(DataError, match=r"val/images is missing.*: unpack again"):
        load_dataset("tiny-imagenet", tmp_path)


# Faults


def test_faults_of_folders_are_named(tmp_path, tree):
    with pytest.raises(DataError, match="nowhere"):
        load_dataset("folder", tmp_path / "nowhere")
    (tmp_path / "bare").mkdir()
    with pytest.raises(DataError, match=r"no class folders in .*bare"):
        load_dataset("folder", tmp_path / "bare")
    with pytest.raises(DataError, match=r"000.png is a file"):
        load_dataset("folder", tree / "val" / "dog" / "000.png")
    with pytest.raises(DataError, match=r"only one class.*solo"):
        load_dataset("folder", draw_classes(tmp_path / "one", {"solo": 3}))
    with pytest.raises(DataError, match="'few' has 1 picture"):
        load_dataset("folder", draw_classes(tmp_path / "few", {"few": 1, "more": 3}))
    with pytest.raises(DataError, match="train/ and val/"):
        load_dataset("imagenet-1k", tree / "train")
    (tree / "val" / "bird").mkdir()
    with pytest.raises(DataError, match=r"no pictures in .*bird"):
        load_dataset("folder", tree)
    draw(tree / "val" / "bird" / "a.png")
    with pytest.raises(DataError, match=r"only in train: \[\], only in val: \['bird'\]"):
        load_dataset("folder", tree)
