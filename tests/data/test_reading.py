"""The account of a data set, in the log and in results.json."""

import json
import os

import pytest
import torch

from gvbsm.data.datasets import load_dataset
from gvbsm.data.pictures import Split
from gvbsm.data.reading import MOST_NAMES, Findings, account, read_lines, readable, repeated
from support.picture_files import draw_classes


def test_the_account_of_a_folder(tmp_path):
    root = draw_classes(tmp_path / "a", {"cat": 5, "dog": 10})
    (root / "cat" / "x.txt").touch()
    data = load_dataset("folder", root, cache_dir=tmp_path)
    content = data.reading.as_json()
    assert json.loads(json.dumps(content)) == content
    assert content["pictures"] == {"train": {"cat": 4, "dog": 8}, "test": {"cat": 1, "dog": 2}}
    assert content["formats"] == {"png": 15}
    assert content["left_out"] == {"files .txt": {"count": 1, "first": [str(root / "cat/x.txt")]}}
    assert content["assumed"] == []
    assert content["held_out"] == "0.2 of each class (data.split_seed=0)"
    low, high = content["value_range"]
    pixels = data.train.images
    assert (low, high) == (int(pixels.min()), int(pixels.max()))
    assert data.reading.lines() == [
        "train: 12 pictures of 2 classes, 4 to 8 in each (files in all: 15 png)",
        "test: 3 pictures of 2 classes, 1 to 2 in each; held out: 0.2 of each class "
        "(data.split_seed=0)",
        f"left out: files .txt: 1 ({root / 'cat/x.txt'})",
    ]


def test_classes_of_one_size_have_one_number(tmp_path):
    root = draw_classes(tmp_path / "a", {"cat": 5, "dog": 5})
    lines = load_dataset("folder", root, cache_dir=tmp_path).reading.lines()
    assert lines[0].startswith("train: 8 pictures of 2 classes, 4 in each (files in all")


def test_many_names_are_counted_and_a_few_are_named():
    findings = Findings()
    findings.leave_out("why", *range(1000))
    findings.leave_out("never")
    split = Split(torch.tensor([0, 1]), torch.zeros(2, 1, 2, 2, dtype=torch.uint8))
    reading = account({"train": split}, ("a", "b"), findings.left_out, [])
    content = reading.as_json()["left_out"]
    assert content.keys() == {"why"}
    assert (content["why"]["count"], len(content["why"]["first"])) == (1000, MOST_NAMES)
    assert reading.lines()[1] == "left out: why: 1000 (0, 1, 2, ...)"


def test_assumptions_are_made_once():
    findings = Findings()
    for sentence in ("a", "b", "a"):
        findings.assume(sentence)
    assert findings.assumed == ["a", "b"]


def test_readable_names_can_always_be_written():
    assert readable(os.fsdecode(b"a\xff/\xc3\xa9")) == "a\ufffd/é"
    assert readable("e\N{COMBINING ACUTE ACCENT}") == "é"
    assert readable("a\n\x1b[31m\x7f\u200d") == "a\ufffd\ufffd[31m\ufffd\u200d"


@pytest.mark.parametrize(
    ("content", "noted"), [(b"\xef\xbb\xbfa\nb", 0), (b"a\nb", 0), (b"\xe9", 1)]
)
def test_lines_of_a_list_of_classes(content, noted, tmp_path):
    (tmp_path / "classes.txt").write_bytes(content)
    findings = Findings()
    lines = read_lines(tmp_path / "classes.txt", findings)
    assert lines == (["é"] if noted else ["a", "b"])
    assert len(findings.assumed) == noted


def test_repeated():
    assert repeated("abcabx") == ["a", "b"]
