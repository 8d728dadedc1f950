"""The state of files: every change is noticed, and what is uncertain has no digest."""

import time

import pytest

from gvbsm.files import manifest
from gvbsm.files.state import SETTLED_NS, state_digest


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "pictures" / "cats").mkdir(parents=True)
    (tmp_path / "pictures" / "cats" / "1.png").write_bytes(b"1")
    return tmp_path / "pictures"


def digest(*paths):
    return state_digest(paths, time.time_ns() + 2 * SETTLED_NS)


def test_the_same_files_have_the_same_digest(folder):
    assert digest(folder) == digest(folder) is not None


def test_a_new_file_and_a_renamed_folder_change_the_digest(folder):
    before = digest(folder)
    (folder / "cats" / "2.png").write_bytes(b"2")
    more = digest(folder)
    (folder / "cats").rename(folder / "dogs")
    assert len({before, more, digest(folder)}) == 3


def test_folders_behind_links_are_listed_once(folder, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (folder / "link").symlink_to(tmp_path / "elsewhere")
    (folder / "loop").symlink_to(folder)
    before = digest(folder)
    (tmp_path / "elsewhere" / "3.png").write_bytes(b"3")
    assert None is not digest(folder) != before


def test_work_directories_are_left_out(folder):
    before = digest(folder)
    manifest.claim(folder / "runs")
    assert digest(folder) == before


@pytest.mark.parametrize("what", ["missing", "broken link", "new"])
def test_what_is_uncertain_has_no_digest(folder, what):
    now = time.time_ns() + (0 if what == "new" else 2 * SETTLED_NS)
    if what == "broken link":
        (folder / "link").symlink_to(folder / "nowhere")
    path = folder / "missing" if what == "missing" else folder
    assert state_digest([path], now) is None
