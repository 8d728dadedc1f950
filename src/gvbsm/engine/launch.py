"""Which of several processes this one is, read from the environment that their launcher sets.

`torchrun` and `accelerate launch` set RANK (number of the process), WORLD_SIZE (how many there
are), LOCAL_RANK (its number on its machine), LOCAL_WORLD_SIZE (how many are on its machine), and
MASTER_ADDR and MASTER_PORT (where they connect). Slurm's `srun` sets variables of its own. Reading
them needs no torch, so that the command line can read the rank without importing it.
"""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Mapping
from typing import NamedTuple

from gvbsm.config import ConfigError

# Set by a process that has started the others itself.
CORES = "GVBSM_CORES"  # the number of cores that all processes share, unless threads are given
STARTED = "GVBSM_STARTED"  # in the others
LISTENER = "GVBSM_LISTENER"  # in the first process: the descriptor of its socket at MASTER_PORT

FIRST_PORT, PORTS = 10_000, 20_000  # for Slurm's steps: below the ephemeral ports

# The number of processes as other launchers call it; they set no address to connect to.
OTHER_LAUNCHERS = {"OMPI_COMM_WORLD_SIZE": "mpirun", "PMI_SIZE": "mpirun or mpiexec"}


class Launch(NamedTuple):
    """One process among those that were started together.

    Attributes:
        rank: Its number, from 0.
        world: How many there are.
        local_rank: Its number on its machine.
        local_world: How many there are on its machine; `world` if the launcher does not say.
        meeting: Host and port at which processes of `srun` connect; None means MASTER_ADDR and
            MASTER_PORT.
        cores: Number of cores that all processes share; None if threads are given.
    """

    rank: int = 0
    world: int = 1
    local_rank: int = 0
    local_world: int = 1
    meeting: tuple[str, int] | None = None
    cores: int | None = None

    @property
    def name(self) -> str:
        """Name for messages, such as `process 1 of 4`; empty for a single process."""
        return f"process {self.rank} of {self.world}" if self.world > 1 else ""


def is_started_here() -> bool:
    """Whether one of the processes has started the others."""
    return STARTED in os.environ or LISTENER in os.environ


def local_environment(world: int, port: int) -> dict[str, str]:
    """Return the variables that all processes of one machine share."""
    names = {name for _, name in socket.if_nameindex()}
    loopback = next(({"GLOO_SOCKET_IFNAME": name} for name in ("lo", "lo0") if name in names), {})
    return {
        "WORLD_SIZE": str(world),
        "LOCAL_WORLD_SIZE": str(world),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "TORCH_CPP_LOG_LEVEL": "ERROR",  # else torch prints its C++ stack when a process ends
        **loopback,
    }


def read_launch(environment: Mapping[str, str] = os.environ) -> Launch:
    """Read the rank and the number of processes; a single process if there is no launcher.

    WORLD_SIZE takes precedence over Slurm's variables, so that with WORLD_SIZE=1 each process of
    `srun` is a run of its own.

    Raises:
        ConfigError: If a variable is missing or not a valid number, or if another launcher has
            started several processes.
    """
    if "WORLD_SIZE" in environment:
        return _read_torchrun(environment)
    if environment.get("SLURM_STEP_NUM_TASKS", "1") != "1":
        return _read_slurm(environment)
    for variable, launcher in OTHER_LAUNCHERS.items():
        if environment.get(variable, "1") != "1":
            raise ConfigError(
                f"{variable}={environment[variable]}: {launcher} has started several processes, "
                "which cannot connect to each other; start them with torchrun or srun, or set "
                "WORLD_SIZE=1 for independent runs"
            )
    return Launch()


def _read_torchrun(environment: Mapping[str, str]) -> Launch:
    if environment["WORLD_SIZE"] == "1":
        return Launch()
    needed = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    if missing := [name for name in needed if not environment.get(name)]:
        raise ConfigError(
            f"WORLD_SIZE={environment['WORLD_SIZE']} asks for several processes, but "
            f"{' and '.join(missing)} is not set; start them with torchrun, or unset WORLD_SIZE"
        )
    defaults = {"LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": environment["WORLD_SIZE"]}
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
    launch = _parse(names, {**defaults, **environment}, "torchrun")
    return launch._replace(cores=int(environment[CORES])) if CORES in environment else launch


def _read_slurm(environment: Mapping[str, str]) -> Launch:
    """Read the variables of a job step; a batch script without `srun` has none of them."""
    names = ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID", "SLURM_STEP_TASKS_PER_NODE")
    needed = (*names, "SLURM_STEP_NODELIST")
    if missing := [name for name in needed if not environment.get(name)]:
        raise ConfigError(
            f"SLURM_STEP_NUM_TASKS={environment['SLURM_STEP_NUM_TASKS']} asks for several "
            f"processes, but {' and '.join(missing)} is not set; start them with srun or torchrun"
        )
    numbers = {name: environment[name] for name in names}
    numbers[names[3]] = _tasks_of_node(environment[names[3]], environment.get("SLURM_NODEID", "0"))
    launch = _parse(names, numbers, "srun")
    nodes = environment["SLURM_STEP_NODELIST"]
    one_node = environment.get("SLURM_STEP_NUM_NODES") == "1"
    host = environment.get("MASTER_ADDR") or ("127.0.0.1" if one_node else first_node(nodes))
    port = environment.get("MASTER_PORT") or str(_port_of_step(environment))
    if not port.isdecimal():
        raise ConfigError(f"MASTER_PORT must be a number, got {port!r}")
    return launch._replace(meeting=(host, int(port)))


def _parse(names: tuple[str, str, str, str], values: Mapping[str, str], launcher: str) -> Launch:
    """Parse and check rank, world, local rank and local world from variables of these names."""
    for name in names:
        if not values[name].isdecimal():
            raise ConfigError(
                f"{name} must be a number, got {values[name]!r}; start with {launcher}"
            )
    rank, world, local_rank, local_world = (int(values[name]) for name in names)
    if not (rank < world and local_rank < local_world <= world):
        raise ConfigError(
            f"{names[0]}={rank} must be less than {names[1]}={world}, and {names[2]}={local_rank} "
            f"less than {names[3]}={local_world}, at most {names[1]}"
        )
    return Launch(rank, world, local_rank, local_world)


def first_node(nodes: str) -> str:
    """Return the first name of Slurm's list of nodes, such as `gpu[003-005,9],login`."""
    first = re.split(r",(?![^\[]*\])", nodes)[0]
    return re.sub(r"\[([^],-]+)[^]]*\]", r"\1", first)


def _tasks_of_node(tasks: str, node: str) -> str:
    """Return a node's number of tasks from Slurm's list, such as `4(x2),3`; else the text."""
    counts: list[str] = []
    for entry in tasks.split(","):
        parts = re.fullmatch(r"(\d+)(?:\(x(\d+)\))?", entry)
        if parts is None:
            return tasks
        counts += [parts[1]] * int(parts[2] or 1)
    return counts[int(node)] if node.isdecimal() and int(node) < len(counts) else tasks


def _port_of_step(environment: Mapping[str, str]) -> int:
    """Derive a port from the ids of job and step: the same in all processes of a step."""
    digits = "".join(environment.get(name, "") for name in ("SLURM_JOB_ID", "SLURM_STEP_ID"))
    return FIRST_PORT + int(re.sub(r"\D", "", digits) or "0") % PORTS
