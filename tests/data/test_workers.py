"""Worker processes: the same batches however they travel, and one line when one fails."""

import logging
import os
import shutil
import signal
import subprocess
import sys
from collections import namedtuple
from multiprocessing import active_children, parent_process

import pytest
import torch
from torch.utils.data import Dataset, TensorDataset

from gvbsm.data import workers
from gvbsm.data.pictures import DataError
from gvbsm.data.workers import streamed
from gvbsm.engine.device import RunError
from support.launch import environment

BATCHES = [torch.tensor([0, 1, 2]), torch.tensor([3, 4, 5]), torch.tensor([6])]
SET = TensorDataset(torch.arange(7 * 12).view(7, 3, 2, 2).to(torch.uint8), torch.arange(7))


@pytest.fixture(autouse=True)
def _nothing_noted(monkeypatch):
    monkeypatch.setattr(workers, "_noted", set())


def assert_all_there(batches):
    images, labels = SET.tensors
    assert torch.equal(torch.cat([batch[0] for batch in batches]), images)
    assert torch.equal(torch.cat([batch[1] for batch in batches]), labels)


@pytest.mark.parametrize("room", [True, False])
def test_batches_are_the_same_through_shared_memory_and_through_pipes(
    room, runtime, monkeypatch, caplog
):
    usage = namedtuple("usage", "total used free")
    on_the_way = 6 * 3 * (12 + 8)  # batches, their items, and an item's bytes
    free = on_the_way - (not room)
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: usage(free, 0, free))
    for _ in range(2):  # two epochs: one note
        batches = list(streamed(SET, BATCHES, runtime, 2))
        assert_all_there(batches)
        assert {tensor.is_shared() for batch in batches for tensor in batch} == {room}
    notes = [record.getMessage() for record in caplog.records]
    assert len(notes) == (not room)
    assert all("--shm-size" in note for note in notes)


@pytest.mark.parametrize("reason", ["daemonic", "semaphores"])
def test_without_workers_where_none_can_be_started(reason, runtime, monkeypatch, caplog):
    if reason == "daemonic":
        daemon = namedtuple("process", "daemon")(True)
        monkeypatch.setattr(workers.multiprocessing, "current_process", lambda: daemon)
    else:

        def refuse(_context):
            raise OSError(38, "Function not implemented")

        monkeypatch.setattr("multiprocessing.context.BaseContext.Lock", refuse)
    with caplog.at_level(logging.WARNING):
        assert_all_there(list(streamed(SET, BATCHES, runtime, 2)))
    assert [reason in record.getMessage() for record in caplog.records] == [True]


class Failing(Dataset):
    """Fails in a worker process, in one of the ways that are no fault of the program."""

    def __init__(self, way):
        self.way = way

    def __getitem__(self, index):
        if parent_process() is None:
            return (torch.zeros(2),)
        if self.way == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        # Words of torch 2.14 where /dev/shm is full, and where a process has no more descriptors.
        if self.way == "full":
            raise RuntimeError(
                "unable to allocate shared memory(shm) for file </torch_7_1_0>: No space left on "
                "device (28)"
            )
        if self.way == "files":
            raise RuntimeError("Too many open files. Communication with the workers is no longer")
        if self.way == "data":
            raise DataError("cannot read a.png: it is cut off; repair or remove it")
        if self.way == "memory":
            raise MemoryError
        if self.way == "allocator":
            raise RuntimeError(
                "DefaultCPUAllocator: can't allocate memory: you tried to allocate 9"
            )
        raise RuntimeError("a fault of the program")


@pytest.mark.parametrize(
    ("way", "words"),
    [
        ("killed", "a worker process that reads pictures was killed"),
        ("full", "--shm-size"),
        ("files", "ulimit -n"),
        ("memory", "ran out of memory"),
        ("allocator", "ran out of memory"),
    ],
)
def test_a_worker_that_fails_by_its_surroundings_is_one_line(way, words, runtime):
    with pytest.raises(RunError) as caught:
        list(streamed(Failing(way), BATCHES, runtime, 2))
    line = str(caught.value)
    assert words in line
    assert "--data.workers 0" in line
    assert "\n" not in line


def test_a_picture_that_a_worker_cannot_read_is_one_line(runtime):
    with pytest.raises(DataError) as caught:
        list(streamed(Failing("data"), BATCHES, runtime, 2))
    assert str(caught.value) == "cannot read a.png: it is cut off; repair or remove it"
    assert active_children() == []


def test_a_fault_of_the_program_in_a_worker_stays_what_it_is(runtime):
    with pytest.raises(RuntimeError, match="a fault of the program"):
        list(streamed(Failing("program"), BATCHES, runtime, 2))
    assert active_children() == []  # they would end seconds later, as the error is forgotten


def test_workers_that_cannot_be_started_are_one_line(runtime, monkeypatch):
    """The server ends where it may fork no more, and multiprocessing hears nothing from it."""
    monkeypatch.setattr("multiprocessing.forkserver.read_signed", _ended)
    with pytest.raises(RunError, match=r"could not be started.*--data\.workers 0"):
        list(streamed(SET, BATCHES, runtime, 2))


def _ended(_descriptor):
    raise EOFError("unexpected EOF")


SCRIPT = """
import torch
from torch.utils.data import TensorDataset
from gvbsm.engine.device import Runtime
from gvbsm.data.workers import streamed
print("begins")
runtime = Runtime(torch.device("cpu"), "fp32", seed=0)
batches = [torch.tensor([0, 1]), torch.tensor([2])]
print([len(x) for x, in streamed(TensorDataset(torch.zeros(3, 1)), batches, runtime, 2)])
"""


def run_python(folder, *arguments, text=None):
    """Run Python in a folder, with `text` as its standard input, and wait for its end."""
    return subprocess.run(
        [sys.executable, *arguments],
        input=text,
        env=environment(),
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.mark.parametrize("source", ["script", "standard input"])
def test_the_users_script_needs_no_guard_and_no_file(source, tmp_path):
    arguments = ["-"]
    if source == "script":
        (tmp_path / "script.py").write_text(SCRIPT)
        arguments = ["script.py"]
    done = run_python(tmp_path, *arguments, text=SCRIPT)
    assert (done.returncode, done.stdout) == (0, "begins\n[2, 1]\n"), done.stderr
    assert done.stderr == ""


KILLED_TRACKER = """
import psutil, torch
from torch.utils.data import TensorDataset
from gvbsm.engine.device import resolve_runtime
from gvbsm.data.workers import streamed

runtime = resolve_runtime("cpu", "fp32", 0, 60, True)
batches = [torch.tensor([0, 1]), torch.tensor([2])]
for epoch in range(3):
    items = streamed(TensorDataset(torch.arange(3)), batches, runtime, 2)
    seen = [next(items)[0].tolist()]
    if epoch == 1:
        (tracker,) = [
            child for child in psutil.Process().children()
            if any("resource_tracker" in word for word in child.cmdline())
        ]
        tracker.kill()
        tracker.wait()
    print(seen + [batch[0].tolist() for batch in items])
"""


def test_a_run_outlives_pythons_tracker_of_semaphores(tmp_path):
    done = run_python(tmp_path, "-c", KILLED_TRACKER)
    assert (done.returncode, done.stdout) == (0, "[[0, 1], [2]]\n" * 3), done.stderr


def test_a_signal_waits_until_the_workers_are_started():
    heard = []
    before = signal.signal(signal.SIGTERM, lambda number, _frame: heard.append(number))
    try:
        with workers._deferred_signals():
            os.kill(os.getpid(), signal.SIGTERM)
            assert heard == []
        assert heard == [signal.SIGTERM]
        assert signal.getsignal(signal.SIGTERM)(0, None) is None
        assert heard == [signal.SIGTERM, 0]
    finally:
        signal.signal(signal.SIGTERM, before)
