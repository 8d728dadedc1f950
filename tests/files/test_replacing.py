"""A folder takes another's place whole, and nothing that its user put there is lost."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from gvbsm.files import manifest
from gvbsm.files.artifacts import ArtifactError
from gvbsm.files.replacing import replacing


def write(draft, **texts):
    for name, text in texts.items():
        (draft / "deep").mkdir(exist_ok=True)
        (draft / "deep" / name).write_text(text)


def texts(folder):
    files = [path for path in folder.rglob("*") if path.is_file() and path.name != manifest.NAME]
    return {str(path.relative_to(folder)): path.read_text() for path in files}


@pytest.fixture
def out(tmp_path):
    with replacing(tmp_path / "out") as draft:
        write(draft, a="1", b="2")
    return tmp_path / "out"


def test_old_files_go_and_the_users_stay(out, tmp_path):
    (out / "real" / "cat").mkdir(parents=True)
    (out / "real" / "cat" / "x.png").write_text("mine")
    (out / "deep" / "notes").write_text("mine")
    (out / "deep" / "b").write_text("changed")
    (out / "empty").mkdir()
    (out / "link").symlink_to(tmp_path)
    with replacing(out) as draft:
        write(draft, a="3")
    assert texts(out) == {
        "deep/a": "3",
        "deep/b": "changed",
        "deep/notes": "mine",
        "real/cat/x.png": "mine",
    }
    assert (out / "empty").is_dir()
    assert (out / "link").readlink() == tmp_path
    assert manifest.files_made(out) == [out / "deep" / "a"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]


def test_paths_may_be_relative(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for text in "12":
        with replacing(Path("out")) as draft:
            write(draft, a=text)
    assert texts(Path("out")) == {"deep/a": "2"}
    assert manifest.files_made(Path("out")) == [Path("out/deep/a")]


@pytest.mark.parametrize("place", ["deep/a", "deep/c", "deep/c/inside"])
def test_a_file_of_the_users_in_the_place_of_a_new_one_is_named(place, out):
    path = out / place
    path.parent.mkdir(exist_ok=True)
    path.write_text("mine")
    before = texts(out)
    with pytest.raises(ArtifactError, match="move it away"), replacing(out) as draft:
        write(draft, a="3", c="4")
    assert texts(out) == before


def test_a_block_that_fails_leaves_all_as_it_was(out, tmp_path):
    def fail():
        with replacing(out) as draft:
            write(draft, a="3")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert texts(out) == {"deep/a": "1", "deep/b": "2"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]


@pytest.mark.parametrize("step", range(1, 4))
def test_the_next_one_mends_what_a_kill_left_between_the_steps(step, out, tmp_path):
    """The process ends itself before the first or second renaming, or after the second."""
    (out / "mine").write_text("mine")
    code = (
        "import os, pathlib, sys\n"
        "from gvbsm.files.replacing import replacing\n"
        "rename, left = pathlib.Path.rename, [int(sys.argv[2])]\n"
        "def counted(source, target):\n"
        "    left[0] -= 1\n"
        "    left[0] or os.kill(os.getpid(), 9)\n"
        "    return rename(source, target)\n"
        "pathlib.Path.rename = counted\n"
        "with replacing(pathlib.Path(sys.argv[1])) as draft:\n"
        "    (draft / 'new').write_text('new')\n"
        "os.kill(os.getpid(), 9)\n"
    )
    subprocess.run([sys.executable, "-c", code, str(out), str(step)], check=False)
    with replacing(out) as draft:
        write(draft, a="3")
    assert texts(out) == {"deep/a": "3", "mine": "mine"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]


def test_a_full_disk_is_named(out, monkeypatch):
    def full(*_args, **_options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    line = r"cannot write .*out \(No space left on device\).*make room"
    with pytest.raises(OSError, match=line), replacing(out) as draft:
        write(draft, a="3")
    assert texts(out) == {"deep/a": "1", "deep/b": "2"}
