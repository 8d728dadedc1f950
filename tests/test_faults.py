"""Kills, damaged files, bad and hostile inputs: `pytest -m faults`, or faults/stress.py for more.

A sample of the hostile inputs is tried in every run of the tests.
"""

import mmap
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

import pytest

from faults.corpus import Ending, Forks, judge, kill_session, moved, resident, tree
from faults.hostile.case import Command
from faults.inputs import run_inputs
from faults.kills import run_kills
from faults.mutations import run_mutations

STRESS = Path(__file__).parent / "faults" / "stress.py"
faults = pytest.mark.faults


def corpus(folder, *options):
    """What the corpus says, in a process of its own: it forks, and limits memory."""
    command = [sys.executable, str(STRESS), "corpus", "--folder", str(folder), *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-5000:]
    return done.stdout


@pytest.mark.timeout(900)
def test_a_sample_of_hostile_inputs_does_no_harm(tmp_path):
    assert "corpus: 30, no harm done" in corpus(tmp_path, "--count", "30")


def leave_a_process():
    if os.fork() == 0:
        time.sleep(60)
    return 0


def take_memory():
    """Take 200 MB more than the process had at its peak, which a fork inherits of its parent.

    Not from the heap, where freed memory may lie.
    """
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    size = max(0, peak - resident(os.getpid())) + 200_000_000
    with mmap.mmap(-1, size) as taken:
        for page in range(0, size, mmap.PAGESIZE):
            taken[page] = 1
    return 0


@pytest.mark.parametrize(
    ("work", "harm"),
    [
        (lambda: time.sleep(60), "hangs for 1 s"),
        (take_memory, "takes more than"),
        (leave_a_process, "leaves a process behind"),
        (lambda: 0, ""),
    ],
)
def test_what_hangs_or_takes_too_much_is_ended(work, harm, tmp_path, monkeypatch):
    monkeypatch.setattr("faults.corpus.PATIENCE", 0.2)
    forks = Forks(tmp_path)
    bare = forks.end(forks.start(lambda: 0, tmp_path, {}), 20).memory
    pid = forks.start(work, tmp_path, {})
    assert forks.end(pid, 1, bare + 10**8).killed.startswith(harm)
    assert not kill_session(pid, patience=5)


REFUSED = Command(refused=("x.json",))
DONE = Command(check=bool)


@pytest.mark.parametrize(
    ("command", "code", "errors", "harm"),
    [
        (REFUSED, 2, "gvbsm: x.json is damaged\n", ""),
        (REFUSED, 2, "gvbsm: it is damaged\n", "do not name"),
        (REFUSED, 2, "x.json is damaged\n", "do not begin with"),
        (REFUSED, 2, "", "do not begin with"),
        (REFUSED, 2, "gvbsm: x.json\n" * 9, "9 lines"),
        (REFUSED, 2, f"gvbsm: x.json {'y' * 999}\n", "the longest of"),
        (REFUSED, 2, "gvbsm: x.json \x1b[31m\n", "not printable"),
        (REFUSED, 1, "gvbsm: x.json is damaged\n", "exit code 1"),
        (REFUSED, 0, "", "was to be refused"),
        (REFUSED, 1, "Traceback (most recent call last):\n", "a traceback"),
        (REFUSED, -9, "", "exit code -9"),
        (DONE, 2, "gvbsm: x.json is damaged\n", "was to be done"),
        (DONE, 0, "gvbsm: a note\n", ""),
    ],
)
def test_how_a_command_ends_is_judged(command, code, errors, harm):
    harms = "; ".join(judge(command, Ending(code, "", errors, 0, 0)))
    assert harm in harms
    assert bool(harm) == bool(harms)


def test_files_that_are_left_or_touched_are_noticed(tmp_path):
    (tmp_path / "here").mkdir()
    for name in ("mine", "yours"):
        (tmp_path / "here" / name).write_text(name)
    before = tree(tmp_path)
    command = Command(outputs=("out",))
    assert list(moved(command, before, before, True)) == []
    (tmp_path / "here" / "out").mkdir()
    (tmp_path / "here" / "mine").write_text("your")
    (tmp_path / "here" / "yours").unlink()
    changed, left = moved(command, before, tree(tmp_path), False)
    assert "here/mine" in changed
    assert "here/yours" in changed
    assert "here/out" in left
    assert len(list(moved(command, before, tree(tmp_path), True))) == 1


@faults
@pytest.mark.timeout(7200)
def test_hostile_inputs_do_no_harm(tmp_path):
    assert "no harm done" in corpus(tmp_path)


@faults
@pytest.mark.timeout(7200)
def test_kills_at_random_moments_end_in_the_same_files(tmp_path):
    assert run_kills(tmp_path, count=200) == 200


@faults
@pytest.mark.timeout(7200)
def test_damaged_files_are_refused_or_do_no_harm(tmp_path):
    assert run_mutations(tmp_path, count=500) == 500


@faults
@pytest.mark.timeout(7200)
def test_bad_inputs_are_refused_before_anything_is_written(tmp_path):
    assert run_inputs(tmp_path) >= 100
