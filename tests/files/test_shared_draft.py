"""Drafts that several writers fill with rows become the file that `save` writes."""

import errno
import os

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gvbsm.files import manifest
from gvbsm.files.artifacts import ArtifactError
from gvbsm.files.shared_draft import SharedDraft, remove_draft, row_checksums
from gvbsm.files.streamed_file import Rows
from gvbsm.files.tensors import load_tensors

HEADER = {"kind": "toy", "recipe": {"a": 1}, "name": "x" * 40}
LONGEST = {**HEADER, "name": "x" * 100}
ROWS = {"pixels": Rows(torch.uint8, (7, 3, 2)), "labels": Rows(torch.int64, (7,))}
PIXELS = torch.randint(256, (7, 3, 2), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
LABELS = torch.arange(7)
CHECKSUMS = {"pixels": torch.tensor(row_checksums(PIXELS))}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "x.safetensors"


@pytest.fixture
def draft(path):
    """A draft with all rows."""
    draft = SharedDraft(path, ROWS, LONGEST)
    assert not draft.prepare()
    draft.write("pixels", torch.arange(7), PIXELS)
    draft.write("labels", torch.arange(7), LABELS)
    return draft


@given(order=st.permutations(range(7)), cuts=st.integers(1, 7))
@settings(max_examples=20)
def test_rows_of_several_writers__are_at_their_positions(tmp_path_factory, order, cuts):
    path = tmp_path_factory.mktemp("draft") / "x.safetensors"
    writers = [SharedDraft(path, ROWS, LONGEST) for _ in range(2)]
    writers[0].prepare()
    for number, index in enumerate(torch.split(torch.tensor(order), cuts)):
        writers[number % 2].write("pixels", index, PIXELS[index])
    writers[1].write("labels", torch.arange(7), LABELS)
    index = torch.tensor(order[:3])
    assert torch.equal(writers[0].read("pixels", index), PIXELS[index])
    writers[0].finish(HEADER, CHECKSUMS)
    tensors, header = load_tensors(path, "toy")
    assert torch.equal(tensors["pixels"], PIXELS)
    assert torch.equal(tensors["labels"], LABELS)
    assert header["name"] == HEADER["name"]
    assert list(path.parent.iterdir()) == [path]


def test_finished_file__is_in_the_manifest(tmp_path, path):
    manifest.claim(tmp_path)
    draft = SharedDraft(path, ROWS, LONGEST)
    draft.prepare()
    draft.write("pixels", torch.arange(7), PIXELS)
    draft.finish(HEADER, CHECKSUMS)
    assert manifest.is_listed(path, tmp_path)


def test_prepare__keeps_a_draft_of_the_same_size_alone(draft, path):
    assert SharedDraft(path, ROWS, LONGEST).prepare()
    assert torch.equal(draft.read("pixels", torch.arange(7)), PIXELS)
    larger = SharedDraft(path, {"pixels": Rows(torch.uint8, (8, 3, 2))}, LONGEST)
    assert not larger.prepare()
    assert not larger.read("pixels", torch.arange(8)).any()


@pytest.mark.parametrize("row", [0, 6])
def test_finish__refuses_a_row_that_is_not_as_written(row, draft, path):
    damaged = PIXELS[row].clone()
    damaged[0, 0] ^= 1
    draft.write("pixels", torch.tensor([row]), damaged[None])
    with pytest.raises(ArtifactError, match=rf"draft is damaged \(row {row} of `pixels`"):
        draft.finish(HEADER, CHECKSUMS)
    assert list(path.parent.iterdir()) == [draft.path]


def test_finish__may_be_repeated_after_a_kill_before_the_new_name(draft, path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr("gvbsm.files.shared_draft.publish", lambda *_: None)
        draft.finish(HEADER, CHECKSUMS)
    again = SharedDraft(path, ROWS, LONGEST)
    assert again.prepare()
    again.finish(HEADER, CHECKSUMS)
    assert torch.equal(load_tensors(path, "toy")[0]["pixels"], PIXELS)


def test_finish__takes_no_header_that_is_longer_than_announced(draft):
    with pytest.raises(ValueError, match=r"header takes \d+ bytes, reserved were"):
        draft.finish({**HEADER, "name": "x" * 5000}, CHECKSUMS)


def test_write__names_the_file_if_the_disk_is_full(draft, path, monkeypatch):
    def full(_handle):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=rf"^cannot write {path} \(No space.*make room"):
        draft.write("pixels", torch.tensor([0]), PIXELS[:1])


@pytest.mark.parametrize("kind", ["folder", "link"])
def test_prepare__leaves_what_is_no_file(kind, path, tmp_path):
    draft = SharedDraft(path, ROWS, LONGEST)
    if kind == "folder":
        draft.path.mkdir()
    else:
        (tmp_path / "thesis").write_text("mine")
        draft.path.symlink_to(tmp_path / "thesis")
    with pytest.raises(ArtifactError, match="no regular file; move it away"):
        draft.prepare()
    remove_draft(path)
    assert os.path.lexists(draft.path)


def test_remove_draft__removes_it_if_it_is_there(draft, path):
    remove_draft(path)
    remove_draft(path)
    assert list(path.parent.iterdir()) == []
