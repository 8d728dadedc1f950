"""Pictures that cannot be read: found by looking at each, and left out by name."""

import json
import os
import shutil

import pytest
import torch

from gvbsm.cli import main
from gvbsm.data.datasets import load_dataset
from gvbsm.data.pictures import DataError, Split, no_progress
from gvbsm.data.unreadable import find_unreadable, leave_out
from support.workdirs import quick_settings, write_files, write_preset

BROKEN = ("train/a/0.png", "train/c/30.png", "val/d/15.png")


@pytest.fixture
def root(tmp_path):
    return write_files(tmp_path / "files")


@pytest.fixture
def broken(root):
    """Three of its files are empty, cut, and no picture."""
    empty, cut, text = (root / name for name in BROKEN)
    empty.write_bytes(b"")
    cut.write_bytes(cut.read_bytes()[:-30])
    text.write_text("no picture")
    return root


def load(root, cache, **options):
    return load_dataset("folder", root, cache_dir=cache, **options)


def test_find_unreadable__looks_at_each_to_its_end(broken):
    paths = sorted(broken.rglob("*.png"))
    found = find_unreadable(paths, no_progress)
    assert [str(paths[index].relative_to(broken)) for index in found] == sorted(BROKEN)


@pytest.mark.parametrize("in_memory", [True, False])
def test_left_out_is_as_if_the_files_were_not_there(broken, tmp_path, in_memory):
    options = {"in_memory": in_memory}
    skipping = load(broken, tmp_path / "cache", unreadable="skip", **options)
    assert skipping.skipped == tuple(str(broken / name) for name in BROKEN)
    words = r"cannot read .*\.png.*, or leave out all such pictures with --data\.unreadable skip"
    with pytest.raises(DataError, match=words):
        load(broken, tmp_path / "cache", **options)
    for name in BROKEN:
        (broken / name).unlink()
    without = load(broken, tmp_path / "cache", **options)
    assert skipping.fingerprint == without.fingerprint
    assert skipping.normalization == without.normalization
    assert torch.equal(skipping.train.labels, without.train.labels)
    if in_memory:
        assert torch.equal(skipping.train.images, without.train.images)
    else:
        assert skipping.train.paths == without.train.paths
    assert without.skipped == ()


def test_a_set_that_is_whole_is_what_it_is_without_looking(root, tmp_path):
    looked = load(root, tmp_path, unreadable="skip")
    assert looked.fingerprint == load(root, tmp_path).fingerprint
    assert looked.skipped == ()


def test_the_answer_is_remembered_for_these_very_files(broken, tmp_path, monkeypatch):
    first = load(broken, tmp_path / "cache", unreadable="skip")

    def look(*_):
        raise AssertionError("looked again")

    monkeypatch.setattr("gvbsm.data.unreadable.find_unreadable", look)
    assert load(broken, tmp_path / "cache", unreadable="skip").skipped == first.skipped
    (broken / "train/a/1.png").write_bytes(b"broken as well")
    with pytest.raises(AssertionError, match="looked again"):
        load(broken, tmp_path / "cache", unreadable="skip")
    monkeypatch.undo()
    (memory,) = (tmp_path / "cache" / "unreadable").glob("*.json")
    memory.write_text("nonsense")
    assert len(load(broken, tmp_path / "cache", unreadable="skip").skipped) == 4


def test_a_class_without_pictures_is_refused(root, tmp_path):
    for path in (root / "train" / "b").iterdir():
        path.write_bytes(b"")
    with pytest.raises(DataError, match="no training pictures of class 'b'"):
        load(root, tmp_path, unreadable="skip")
    paths = tuple((root / "train" / "b").iterdir())
    with pytest.raises(DataError, match="none of the pictures"):
        leave_out([Split(torch.zeros(len(paths)).long(), paths=paths)], tmp_path / "x", no_progress)


def test_run__stops_at_one_or_lists_what_it_left_out(broken, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr("gvbsm.reporting.report", lambda workdir, quiet: workdir)
    data = {"name": "folder", "root": str(broken), "in_memory": False, "workers": 0}
    preset = write_preset(
        tmp_path / "toy.yaml", quick_settings(data, baselines={"methods": ["random-hard"]})
    )
    workdir = tmp_path / "run"
    command = ["run", str(preset), "--workdir", str(workdir), "--quiet"]
    assert main(command) == 2
    assert capsys.readouterr().err.startswith(f"gvbsm: cannot read {broken}")
    assert main([*command, "--data.unreadable", "skip"]) == 0
    results = json.loads((workdir / "results.json").read_text())
    assert results["skipped"] == [str(broken / name) for name in BROKEN]
    assert results["pictures"] == {"train": 46, "test": 15}


def test_a_picture_that_changes_is_looked_at_again(root, tmp_path):
    """Restored to its old bytes, unlocked, or rotten since: what is left out follows the files."""
    path = root / "train" / "a" / "0.png"
    content, status = path.read_bytes(), path.stat()

    def skipped(folder=root):
        return load(folder, tmp_path / "cache", unreadable="skip").skipped

    def put(data):
        path.write_bytes(data)
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))

    assert skipped() == ()
    put(b"\0" * len(content))  # as many bytes, and the old time
    assert skipped() == (str(path),)
    shutil.copytree(root, tmp_path / "copy")
    (tmp_path / "copy" / "train" / "a" / "0.png").write_bytes(content)
    assert skipped(tmp_path / "copy") == ()
    put(content)
    assert skipped() == ()
