"""The example for Slurm: its command, and processes as `srun` starts and signals them."""

import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from gvbsm.cli.parsing import parse_run
from support.launch import environment
from support.workdirs import quick_settings, write_arrays, write_files, write_preset

SCRIPT = Path(__file__).parents[2] / "examples" / "slurm.sbatch"
COMMAND = """
import signal
signal.signal(signal.SIGUSR1, signal.SIG_DFL)
from gvbsm.cli import entry
entry()
"""

pytestmark = pytest.mark.skipif(os.name != "posix", reason="Slurm runs on Linux")


def command_of(script, variables):
    """The arguments of `srun` in a script, with its variables filled in."""
    (line,) = re.findall(r"^srun (.*)$", script, re.MULTILINE)
    return shlex.split(re.sub(r"\$(\w+)", lambda name: variables[name[1]], line))


def test_the_script_is_bash_and_its_command_is_known(tmp_path):
    subprocess.run(["bash", "-n", SCRIPT], check=True)
    pictures, workdir = write_files(tmp_path / "pictures"), tmp_path / "run"
    variables = {"PICTURES": str(pictures), "WORKDIR": str(workdir)}
    option, program, verb, *arguments = command_of(SCRIPT.read_text(), variables)
    assert (option, program) == ("--kill-on-bad-exit=0", "gvbsm")
    parsed = parse_run(verb, arguments)
    assert (parsed.config.data.root, parsed.workdir) == (str(pictures), workdir)


@pytest.mark.parametrize(("code", "requeued"), [(0, False), (1, False), (138, True)])
def test_the_script_goes_back_to_the_queue_after_a_checkpoint_alone(code, requeued, tmp_path):
    for name, text in (("srun", f"exit {code}"), ("scontrol", f"echo $@ > {tmp_path}/asked")):
        program = tmp_path / name
        program.write_text(f"#!/bin/bash\n{text}\n")
        program.chmod(0o755)
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", SCRIPT], env={**os.environ, "PATH": path, "SLURM_JOB_ID": "7"}, check=False
    )
    assert done.returncode == code
    asked = tmp_path / "asked"
    assert (asked.read_text() if asked.exists() else "") == "requeue 7\n" * requeued


def task(rank, port, *arguments):
    """One of two tasks of a step on this machine."""
    step = {
        "SLURM_JOB_ID": "812",
        "SLURM_STEP_ID": "0",
        "SLURM_NTASKS": "2",
        "SLURM_PROCID": str(rank),
        "SLURM_LOCALID": str(rank),
        "SLURM_NODEID": "0",
        "SLURM_STEP_NUM_TASKS": "2",
        "SLURM_STEP_NUM_NODES": "1",
        "SLURM_STEP_TASKS_PER_NODE": "2",
        "SLURM_STEP_NODELIST": "node1",
        "MASTER_PORT": str(port),
    }
    return subprocess.Popen(
        [sys.executable, "-c", COMMAND, *map(str, arguments)],
        env=environment(**step),
        stderr=subprocess.PIPE,
        text=True,
    )


def test_both_tasks_of_a_step_save_their_first_checkpoint_before_the_time_limit(tmp_path):
    settings = quick_settings({"name": "npz", "root": str(write_arrays(tmp_path / "toy.npz"))})
    preset, workdir = write_preset(tmp_path / "toy.yaml", settings), tmp_path / "w"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    long = ("--squeeze.epochs", "1000000", "--checkpoint_seconds", "1e6")
    tasks = [task(rank, port, "run", preset, "--workdir", workdir, *long) for rank in range(2)]
    try:
        end = time.monotonic() + 200
        while not all((workdir / name).is_file() for name in ("seconds.json", ".seconds-1.json")):
            assert time.monotonic() < end
            time.sleep(0.05)
        time.sleep(2)  # they train, and none has saved yet
        assert [*workdir.glob("squeeze/*.partial.safetensors")] == []
        for process in tasks:
            process.send_signal(signal.SIGUSR1)
        told = [process.communicate(timeout=80)[1] for process in tasks]
    finally:
        for process in tasks:
            process.kill()
    assert [process.returncode for process in tasks] == [138, 138], told
    assert len([*workdir.glob("squeeze/*.partial.safetensors")]) == 2
    kept = r"gvbsm: stopped by SIGUSR1; kept: squeeze \S+ at step [\d,]+ of [\d,]+; .*"
    assert re.fullmatch(kept, told[0].splitlines()[-1])
    assert told[1] == ""
