"""Locks, and file systems that have none."""

import errno
import os
from contextlib import ExitStack
from pathlib import Path

import filelock
import pytest

from gvbsm.files.drafts import draft_folder, locked_draft_folder
from gvbsm.files.locks import held
from gvbsm.files.tensors import load_tensors, save
from gvbsm.store.workdir import Workspace

fcntl = pytest.importorskip("fcntl")


@pytest.fixture
def plain_drive(monkeypatch):
    """A network drive that knows neither locks nor modes, and says so with this error."""

    def mount(number):
        def refuse(*_arguments, **_options):
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr(fcntl, "flock", refuse)
        monkeypatch.setattr(os, "chmod", refuse)
        monkeypatch.setattr(os, "fchmod", refuse)
        monkeypatch.setattr(Path, "chmod", refuse)

    return mount


@pytest.mark.parametrize("name", ["ENOSYS", "ENOTSUP", "ENOLCK"])
def test_a_drive_without_locks_and_modes_is_worked_on_with_a_note(
    name, plain_drive, tmp_path, caplog
):
    plain_drive(getattr(errno, name))
    workspace, path = Workspace(tmp_path), tmp_path / "a.safetensors"
    for _ in range(2):  # nothing that is left behind stands for a lock
        with workspace.locked():
            save(path, {}, {"kind": "teacher", "recipe": {}})
        with workspace.reporting():
            pass
    assert load_tensors(path, "teacher")[0] == {}
    notes = [record.getMessage() for record in caplog.records]
    assert all("has no locks" in note for note in notes)
    assert {str(tmp_path) in note for note in notes} == {True}


def test_another_fault_of_a_lock_is_one(plain_drive, tmp_path):
    plain_drive(errno.EIO)
    with ExitStack() as stack, pytest.raises(OSError, match="Input/output error"):
        stack.enter_context(held(tmp_path / ".lock"))


def test_a_lock_is_held_for_the_block(tmp_path):
    other = filelock.FileLock(tmp_path / ".lock", timeout=0)
    with held(tmp_path / ".lock"), pytest.raises(filelock.Timeout):
        other.acquire()
    with other, ExitStack() as stack, pytest.raises(filelock.Timeout):
        stack.enter_context(held(tmp_path / ".lock", timeout=0))


def test_without_locks_nothing_of_a_writer_at_work_is_removed(plain_drive, tmp_path):
    plain_drive(errno.ENOSYS)
    mine, run = tmp_path / "set.safetensors", tmp_path / "run"
    workspace = Workspace(run)
    with workspace.locked(), locked_draft_folder(mine) as draft, draft_folder(run / "a") as other:
        with locked_draft_folder(mine), Workspace(run).locked():
            pass
        assert draft.is_dir()
        assert other.is_dir()
