"""What a work directory says of its files."""

import errno
import subprocess
import sys
import threading
import time

import pytest
import torch

from gvbsm.files.artifacts import ArtifactError, write_json
from gvbsm.files.tensors import save
from gvbsm.store.workdir import Workspace, await_files

RECIPE = {"stage": "toy", "size": 3}


@pytest.fixture
def workspace(tmp_path):
    workspace = Workspace(tmp_path)
    workspace.claim()
    return workspace


@pytest.fixture
def made(workspace):
    path = workspace.teacher("convnet8_d1")
    save(path, {"x": torch.ones(2)}, {"kind": "toy", "recipe": RECIPE})
    return path


def test_is_made__only_by_the_same_recipe(workspace, made, caplog):
    caplog.set_level("INFO", "gvbsm")
    assert workspace.is_made(made, RECIPE, "squeeze", make=True)
    assert not caplog.messages
    assert not workspace.is_made(made, {**RECIPE, "size": 4}, "squeeze", make=True)
    assert "size: 3 -> 4" in caplog.text


def test_is_made__names_the_stage_and_what_differs_if_it_may_not_be_made(workspace, made):
    with pytest.raises(ArtifactError, match=r"size: 3 -> 4.*gvbsm squeeze PRESET"):
        workspace.is_made(made, {**RECIPE, "size": 4}, "squeeze", make=False)
    with pytest.raises(ArtifactError, match="is not there"):
        workspace.is_made(workspace.statistics("convnet8_d1"), RECIPE, "statistics", make=False)


def test_is_made__a_damaged_file_stops_the_run_before_any_work(workspace, made):
    made.write_bytes(b"no tensors")
    with pytest.raises(ArtifactError, match=r"convnet8_d1.safetensors is in the way"):
        workspace.is_made(made, RECIPE, "squeeze", make=True)
    made.unlink()
    assert not workspace.is_made(made, RECIPE, "squeeze", make=True)


def test_names_of_libraries_make_no_folders(workspace):
    assert workspace.teacher("timm/deit_tiny").parent == workspace.directory / "squeeze"


def test_teachers__are_those_that_are_finished(workspace):
    assert workspace.teachers() == []
    names = ("wrn10_1", "convnet8_d1", "convnet8_d2.partial")
    for name in names:
        save(workspace.teacher(name), {}, {"kind": "teacher", "recipe": RECIPE})
    assert workspace.teachers() == [workspace.teacher(name) for name in ("convnet8_d1", "wrn10_1")]


def test_teachers__of_earlier_settings_are_left_out(workspace):
    for name in ("wrn10_1", "convnet8_d1"):
        header = {"kind": "teacher", "recipe": RECIPE, "backbone": name}
        save(workspace.teacher(name), {}, header)
    results = {"rows": [], "origin": {"preset": None, "changed": []}}
    write_json(workspace.results, results)
    assert len(workspace.teachers()) == 2
    config = {"squeeze": {"backbones": ["resnet18", "wrn10_1"]}}
    write_json(workspace.results, {**results, "config": config})
    assert workspace.teachers() == [workspace.teacher("wrn10_1")]


def test_image_sets__one_of_each_method_the_runs_own_first_and_real_pictures_last(workspace):
    assert workspace.image_sets() == {}
    data = {"class_names": ["a", "b"], "mean": [0.5], "std": [0.5]}
    header = {"kind": "images", "recipe": RECIPE, **data}

    def write(folder, method):
        path = workspace.directory / folder / "synthesis" / "images.safetensors"
        save(path, {}, {**header, "method": method})
        return path

    save(workspace.real, {}, {**header, "method": "real"})
    write("baselines/random-1", "random")
    expected = {
        "gvbsm": write("", "gvbsm"),
        "random": write("baselines/random-0", "random"),
        "sre2l": write("baselines/sre2l", "sre2l"),
        "real": workspace.real,
    }
    assert list(workspace.image_sets().items()) == list(expected.items())
    score = {"mean": 60.0, "std": None, "values": [60.0]}
    row = {"student": "a", "ipc": 1, "top1": score, "top1_best": score, "seconds": 1.0}
    rows = [{**row, "method": method} for method in ("gvbsm", "random-soft")]
    origin = {"preset": None, "changed": []}
    write_json(workspace.results, {"rows": rows, "origin": origin})
    assert list(workspace.image_sets()) == ["gvbsm", "random", "real"]  # sre2l is an earlier run's


def test_timed__is_noted_only_if_the_work_ended_well(workspace):
    def fail():
        with workspace.timed("labels/toy"):
            raise RuntimeError

    assert workspace.seconds() == {}
    with pytest.raises(RuntimeError):
        fail()
    assert workspace.seconds() == {}
    for name in ("squeeze/a", "squeeze/b"):
        with workspace.timed(name):
            pass
    assert workspace.seconds().keys() == {"squeeze/a", "squeeze/b"}
    assert all(value >= 0 for value in workspace.seconds().values())


def test_timed__nothing_is_known_of_work_that_had_a_break(workspace):
    def stop():
        with workspace.timed("labels/toy"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stop()
    with workspace.timed("labels/toy"):
        assert workspace.seconds() == {}  # it may go on from a checkpoint
    assert workspace.seconds() == {}
    with workspace.timed("labels/toy"):  # made again, as a whole
        pass
    assert workspace.seconds().keys() == {"labels/toy"}


# One run at a time


def test_locked__keeps_another_run_out_until_the_end(workspace, tmp_path):
    with (
        workspace.locked(),
        pytest.raises(ArtifactError, match="another run is at work in"),
        Workspace(tmp_path).locked(),
    ):
        pytest.fail("two runs at once")
    with Workspace(tmp_path).locked():
        pass


def test_locked__a_failure_inside_is_told_as_it_is_and_frees_the_directory(workspace):
    def fail():
        with workspace.locked():
            raise KeyError("x")

    with pytest.raises(KeyError):
        fail()
    with workspace.locked():
        pass


def test_locked__one_that_was_killed_holds_nothing(workspace, tmp_path):
    code = (
        "import sys, pathlib, time; from gvbsm.store.workdir import Workspace\n"
        "with Workspace(pathlib.Path(sys.argv[1])).locked():\n"
        "    print('locked', flush=True); time.sleep(60)"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as other:
        assert other.stdout.readline() == b"locked\n"
        with pytest.raises(ArtifactError, match="another run"), workspace.locked():
            pytest.fail("two runs at once")
        other.kill()
    with workspace.locked():
        pass


def test_locked__what_a_killed_writer_has_left_is_removed_and_nothing_else(workspace, tmp_path):
    code = (
        "import os, pathlib, sys; from gvbsm.files.artifacts import atomic\n"
        "with atomic(pathlib.Path(sys.argv[1])) as path:\n"
        "    path.write_text('half'); os.kill(os.getpid(), 9)"
    )
    inner = Workspace(tmp_path / "inner")
    files = [tmp_path / "labels" / "y.json", tmp_path / "inner" / "results.json"]
    mine = [tmp_path / name for name in ("labels/notes.tmp", ".Trash.tmp", ".gvbsm-mine.tmp")]
    inner.claim()
    for folder in mine:
        folder.mkdir(parents=True)
        (folder / "mine").write_text("mine")
    for file in files:
        subprocess.run([sys.executable, "-c", code, str(file)], check=False)
    assert not any(file.exists() for file in files)
    with inner.locked():
        subprocess.run([sys.executable, "-c", code, str(files[1])], check=False)  # still at work
        with workspace.locked():
            left = {path for path in tmp_path.rglob("*.tmp") if path not in mine}
    assert [folder.parent for folder in left] == [tmp_path / "inner"]
    assert all((folder / "mine").read_text() == "mine" for folder in mine)


def test_locked__a_directory_that_cannot_be_written_to_is_told_in_one_line(tmp_path, monkeypatch):
    def refuse(*_args, **_kwargs):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr("gvbsm.files.locks.FileLock.acquire", refuse)
    line = r"cannot be written to \(Permission denied\); give another --workdir"
    with pytest.raises(ArtifactError, match=line), Workspace(tmp_path).locked():
        pytest.fail("locked")


def test_reporting__works_beside_a_run_and_one_at_a_time(workspace, tmp_path):
    with workspace.reporting():
        stray = tmp_path / "report" / "figures" / ".gvbsm-1.tmp"
        stray.mkdir(parents=True)
        (stray / "draft-of").touch()
    begun, order = threading.Event(), []

    def second():
        begun.set()
        with Workspace(tmp_path).reporting():
            order.append("second")

    with workspace.locked(), workspace.reporting():
        assert not stray.exists()
        thread = threading.Thread(target=second)
        thread.start()
        begun.wait()
        time.sleep(0.1)
        order.append("first")
    thread.join()
    assert order == ["first", "second"]


def test_a_damaged_note_of_times_is_named_and_kept(workspace, caplog):
    with workspace.timed("labels/a"):
        pass
    (workspace.directory / "seconds.json").write_bytes(b"")
    assert workspace.seconds() == {}
    assert "the times so far are lost" in caplog.text
    with pytest.raises(ArtifactError, match=r"seconds\.json is in the way"):
        workspace.note("labels/b", None)
    assert (workspace.directory / "seconds.json").read_bytes() == b""


def test_timed__a_clock_that_is_set_back_or_forward_changes_nothing(workspace, monkeypatch):
    monkeypatch.setattr(time, "time", lambda: next(jumps))
    jumps = iter([1e9, -1e9] * 100)
    with workspace.timed("labels/a"):
        pass
    assert 0 <= workspace.seconds()["labels/a"] < 60


# Several processes


def test_times_of_other_processes__are_taken_over_and_keep_what_is_known(workspace, tmp_path):
    other = Workspace(tmp_path, rank=2)
    workspace.note("squeeze/broken", None)
    workspace.note("labels/toy", 3.0)
    with other.timed("squeeze/broken"), other.timed("squeeze/whole"):
        assert workspace.seconds() == {"labels/toy": 3.0}
    with pytest.raises(KeyError), other.timed("squeeze/begun"):
        raise KeyError
    workspace.absorb()
    assert workspace.seconds().keys() == {"labels/toy", "squeeze/whole"}
    assert not list(tmp_path.glob(".seconds-*"))
    for name, known in (("squeeze/begun", False), ("squeeze/broken", True)):
        with workspace.timed(name):  # the one had begun; the other's break is past
            pass
        assert (name in workspace.seconds()) == known


def test_files_of_other_processes__are_waited_for(tmp_path, monkeypatch):
    await_files([])
    paths = [tmp_path / "made" / "first", tmp_path / "made" / "second"]

    def make(_seconds):
        path = next(path for path in paths if not path.exists())
        path.parent.mkdir(exist_ok=True)
        path.touch()

    monkeypatch.setattr("gvbsm.store.workdir.time.sleep", make)
    await_files(paths)
    assert all(path.exists() for path in paths)
    monkeypatch.setattr("gvbsm.store.workdir.PATIENCE_SECONDS", 0.0)
    with pytest.raises(ArtifactError, match="one shared --workdir"):
        await_files([tmp_path / "never"])
