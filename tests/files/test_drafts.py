"""Unfinished files: no other's folder is taken for one, and what killed writers left goes."""

import subprocess
import sys

import pytest

from gvbsm.files.artifacts import write_json
from gvbsm.files.drafts import (
    DRAFT_OF,
    draft_folder,
    is_draft,
    locked_draft_folder,
    remove_leftovers,
)

KILLED = (
    "import os, pathlib, sys; from gvbsm.files.artifacts import atomic\n"
    "with atomic(pathlib.Path(sys.argv[1])) as path:\n"
    "    path.write_text('half'); os.kill(os.getpid(), 9)"
)


def killed(path):
    subprocess.run([sys.executable, "-c", KILLED, str(path)], check=False)


@pytest.mark.parametrize("opened", [draft_folder, locked_draft_folder])
def test_a_draft_goes_with_its_block(opened, tmp_path):
    path = tmp_path / "deep" / ("x" * 255)  # the longest name that file systems allow
    with opened(path) as folder:
        assert is_draft(folder)
        assert folder.parent == path.parent
    assert list(path.parent.iterdir()) == []


def test_no_other_folder_is_a_draft(tmp_path):
    (tmp_path / ".gvbsm-mine.tmp").mkdir()
    (tmp_path / ".mine.tmp").mkdir()
    (tmp_path / ".mine.tmp" / DRAFT_OF).touch()
    (tmp_path / ".gvbsm-link.tmp").symlink_to(tmp_path / ".mine.tmp")
    before = sorted(tmp_path.rglob("*"))
    remove_leftovers(tmp_path)
    assert sorted(tmp_path.rglob("*")) == before


def test_the_next_writer_of_a_file_removes_what_killed_ones_left_of_it(tmp_path):
    for name in ("a.json", "a.json", "b.json"):
        killed(tmp_path / name)
    with locked_draft_folder(tmp_path / "a.json") as at_work:
        write_json(tmp_path / "a.json", {})
        assert at_work.is_dir()
        left = {path for path in tmp_path.iterdir() if is_draft(path)} - {at_work}
    assert [(path / DRAFT_OF).read_text() for path in left] == ["'b.json'"]
    write_json(tmp_path / "b.json", {})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.json", "b.json"]
