"""Processes that talk: shares, words, and what happens when one of them is gone."""

import json
import socket
import subprocess
import sys
from itertools import chain

import pytest
import torch

from gvbsm.engine.launch import Launch
from gvbsm.engine.processes import ALONE, Processes, join
from support.launch import by_hand, environment, torchrun

# Shares


@pytest.mark.parametrize("world", [1, 2, 3, 7])
@pytest.mark.parametrize("count", [0, 1, 2, 6, 7, 20])
def test_parts__are_all_of_it_once_in_order_and_even(world, count):
    parts = [list(range(count))[Processes(Launch(r, world, r)).part(count)] for r in range(world)]
    assert list(chain(*parts)) == list(range(count))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


@pytest.mark.parametrize("world", [1, 2, 3, 7])
@pytest.mark.parametrize("count", [2, 6, 7, 20])
def test_rows__weighted_means_have_the_mean_of_the_batch(world, count):
    values = torch.rand(count, dtype=torch.float64, generator=torch.Generator().manual_seed(count))
    team = [Processes(Launch(rank, world, rank)) for rank in range(world)]
    means = [each.weight(count) * values[each.rows(count)].mean() for each in team]
    torch.testing.assert_close(torch.stack(means).mean(), values.mean(), rtol=1e-14, atol=0)


def test_alone__there_is_nobody_to_talk_to(monkeypatch):
    for name in ("WORLD_SIZE", "RANK"):
        monkeypatch.delenv(name, raising=False)
    assert join() is ALONE
    assert ALONE.leads
    items, tensor = [1, 2, 3], torch.ones(2)
    assert list(ALONE.deal(items, 3)) == items
    assert ALONE.sum(tensor) is tensor
    assert ALONE.mean(tensor) is tensor
    assert ALONE.gather(items) == [items]
    assert ALONE.same(lambda: items) is items
    assert (ALONE.rows(3), ALONE.weight(3)) == (slice(0, 3), 1.0)
    ALONE.barrier()
    ALONE.agree({"a": 1})
    with pytest.raises(KeyError), ALONE.checking():
        raise KeyError
    assert not torch.distributed.is_initialized()


@pytest.mark.parametrize(
    ("cores", "pieces", "threads"),
    [(8, 1, 8), (8, 2, 4), (8, 3, 2), (8, 4, 2), (8, 9, 2), (8, 0, 8), (None, 1, 1)],
)
def test_processes_without_work__leave_their_cores_to_the_others(cores, pieces, threads):
    team = Processes(Launch(rank=3, world=4, cores=cores))
    assert team.threads == (2 if cores else None)
    before = torch.get_num_threads()
    with team.threads_for(pieces):
        assert torch.get_num_threads() == (threads if cores else before)
    assert torch.get_num_threads() == before


# Words; one start of three processes for all of them.

TALK = """
import json, sys
from gvbsm.engine.processes import ProcessError, join
us = join()
values = {"rank": us.rank, "leads": us.leads}
values["gather"] = us.gather({"of": us.rank, "text": "\\u00e4" * us.rank})
values["same"] = us.same(lambda: ["decided by", us.rank])
values["none"] = us.same(lambda: None)
values["sum"] = us.sum(__import__("torch").tensor([1, us.rank])).tolist()
values["dealt"] = [list(us.deal(range(n), n)) for n in (7, 2, 0)]
us.agree({"a": 1, "b": [us.world]})
try:
    us.agree({"a": 1, "b": us.rank // 2, "c": None})
except ProcessError as error:
    values["differs"] = str(error)
try:
    with us.checking():
        if us.rank: raise KeyError(us.rank)
except (KeyError, ProcessError) as error:
    values["fault"] = [type(error).__name__, str(error)]
us.barrier()
open(f"{sys.argv[1]}/{us.rank}.json", "w").write(json.dumps(values))
"""


@pytest.fixture(scope="module")
def received(tmp_path_factory):
    """The values that each of three processes received."""
    folder = tmp_path_factory.mktemp("talk")
    done = torchrun(3, *_script(folder, TALK), folder)
    assert done.returncode == 0, done.stderr
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(3)]


def _script(folder, text):
    path = folder / "script.py"
    path.write_text(text)
    return [path]


def test_words__reach_all(received):
    for rank, values in enumerate(received):
        assert values["rank"] == rank
        assert values["leads"] == (rank == 0)
        assert values["gather"] == [{"of": other, "text": "ä" * other} for other in range(3)]
        assert values["same"] == ["decided by", 0]
        assert values["none"] is None
        assert values["sum"] == [3, 3]


def test_dealt_items__go_to_one_process_each(received):
    for turn, count in enumerate((7, 2, 0)):
        dealt = [values["dealt"][turn] for values in received]
        assert sorted(chain(*dealt)) == list(range(count))
        assert all(part == sorted(part) for part in dealt)


def test_what_differs__is_named_by_all_and_a_fault_is_told_by_the_first_that_has_it(received):
    for rank, values in enumerate(received):
        assert values["differs"] == (
            "process 2 differs from process 0 (b: 1, not 0); start all with the same command, "
            "settings and work directory"
        )
        kind, text = values["fault"]
        assert (kind == "KeyError") == (rank == 1)
        assert "1" in text


def test_processes_of_srun_meet(tmp_path):
    script = (
        "from gvbsm.engine.processes import join\n"
        "us = join()\nprint(us.gather(us.rank), us.local_world)\n"
    )
    step = {
        "SLURM_JOB_ID": "1",
        "SLURM_STEP_ID": "0",
        "SLURM_STEP_NUM_NODES": "1",
        "SLURM_STEP_NUM_TASKS": "2",
        "SLURM_STEP_TASKS_PER_NODE": "2",
        "SLURM_NODEID": "0",
        "SLURM_STEP_NODELIST": "nowhere-to-be-found",
    }
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        step["MASTER_PORT"] = str(free.getsockname()[1])
    tasks = [
        subprocess.Popen(
            [sys.executable, *_script(tmp_path, script)],
            stdout=subprocess.PIPE,
            text=True,
            env=environment(**step, SLURM_PROCID=str(rank), SLURM_LOCALID=str(rank)),
        )
        for rank in range(2)
    ]
    assert [task.communicate(timeout=180)[0] for task in tasks] == ["[0, 1] 2\n"] * 2


# One is gone

WAIT = """
import os, signal
from gvbsm.engine.processes import ProcessError, join
us = join()
us.barrier()
if us.rank == 1:
    os.kill(os.getpid(), signal.SIGKILL)
try:
    {wait}
except ProcessError as error:
    print(error)
"""


@pytest.mark.parametrize("wait", ["us.barrier()"])
def test_a_killed_process__lets_nobody_wait(wait, tmp_path):
    first, second = by_hand(2, *_script(tmp_path, WAIT.format(wait=wait)))
    out, err = first.communicate(timeout=180)
    second.communicate(timeout=180)
    assert second.returncode == -9
    assert out.startswith("another process has failed or ended"), err
    assert out.count("\n") == 1


LEADER = """
import os, signal, sys, time
from gvbsm import cli
def work(*_arguments):
    import torch
    from gvbsm.engine.processes import join
    us = join()
    us.barrier()
    if us.rank == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    {meet}
cli._dispatch = work
sys.argv = ["gvbsm", "run"]
cli.entry()
"""


@pytest.mark.parametrize(
    "meet",
    [
        "us.barrier()",
        "while True: list(us.deal([1], 1))",
        "while True:\n        with us.together(): us.mean(torch.ones(3))",
    ],
)
def test_without_a_launcher__a_killed_leader_is_one_line_of_the_others(meet, tmp_path):
    first, second = by_hand(2, *_script(tmp_path, LEADER.format(meet=meet)))
    err = second.communicate(timeout=180)[1]
    first.communicate(timeout=180)
    assert (first.returncode, second.returncode) == (-9, 1)
    assert err.startswith("gvbsm: process 1 of 2: another process has failed or ended")
    assert err.count("\n") == 1


def test_a_process_that_is_not_there__is_told_in_a_line(tmp_path):
    """The port is nobody's, and the first process alone opens one."""
    script = "import datetime, gvbsm.engine.processes as p\n"
    script += "p.START_TIMEOUT = datetime.timedelta(seconds=1)\n"
    script += "try:\n    p.join()\nexcept p.ProcessError as error:\n    print(error)\n"
    first, second = by_hand(2, *_script(tmp_path, script), of={0: ["-c", ""]})
    first.communicate(timeout=180)
    out, err = second.communicate(timeout=180)
    assert out.startswith("process 1 of 2 cannot connect to the other processes: "), err
    assert out.count("\n") == 1
