"""Starts Python code in several processes that find each other, as `torchrun` does."""

import os
import socket
import subprocess
import sys
from pathlib import Path

TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node")
TESTS = Path(__file__).parents[1]


def environment(**more):
    """This process's environment, in which a child finds the tests' modules and takes one core."""
    paths = [str(TESTS), *filter(None, [os.environ.get("PYTHONPATH")])]
    one_core = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive"}
    return {**os.environ, **one_core, "PYTHONPATH": os.pathsep.join(paths), **more}


def torchrun(world, *arguments):
    """Run `python ARGUMENTS` in `world` processes to the end; one alone without a launcher."""
    launcher = [*TORCHRUN, str(world)] if world > 1 else []
    return subprocess.run(
        [sys.executable, *launcher, *map(str, arguments)],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


def by_hand(world, *arguments, of=None):
    """Start them by the variables alone, without a launcher that watches; gives the processes.

    Args:
        world: How many.
        arguments: Of Python.
        of: Number of a process -> arguments of its own.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {"WORLD_SIZE": str(world), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    return [
        subprocess.Popen(
            [sys.executable, *map(str, (of or {}).get(rank, arguments))],
            env=environment(RANK=str(rank), LOCAL_RANK=str(rank), **shared),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(world)
    ]
