"""Which of several processes this one is, read from the environment that their launcher sets.

`torchrun` and `accelerate launch` set RANK (number of the process), WORLD_SIZE (how many there
are), LOCAL_RANK (its number on its machine), LOCAL_WORLD_SIZE (how many are there), MASTER_ADDR and
MASTER_PORT (where they meet). Slurm's `srun` sets variables of its own. No torch is needed to read
them, so that the command line knows the rank without importing it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import NamedTuple

from gvbsm.config import ConfigError

FIRST_PORT, PORTS = 10_000, 20_000  # of Slurm's steps: below those that systems give out

# What other launchers call the number of processes; they do not say where these may meet.
OTHER_LAUNCHERS = {"OMPI_COMM_WORLD_SIZE": "mpirun", "PMI_SIZE": "mpirun or mpiexec"}


class Launch(NamedTuple):
    """One process among those that were started together.

    Attributes:
        rank: Its number, from 0.
        world: How many there are.
        local_rank: Its number on its machine.
        local_world: How many there are on its machine; all, if the launcher does not say.
        meeting: Host and port at which processes of `srun` meet; None is what MASTER_ADDR and
            MASTER_PORT name.
    """

    rank: int = 0
    world: int = 1
    local_rank: int = 0
    local_world: int = 1
    meeting: tuple[str, int] | None = None

    @property
    def name(self) -> str:
        """Which process it is, for people; empty where there is one alone."""
        return f"process {self.rank} of {self.world}" if self.world > 1 else ""


def read_launch(environment: Mapping[str, str] = os.environ) -> Launch:
    """Read which process this is; without a launcher, or with one process, it is alone.

    WORLD_SIZE is believed before Slurm's variables, so that WORLD_SIZE=1 makes each process of
    `srun` a run of its own.

    Args:
        environment: The environment's variables.

    Raises:
        ConfigError: If something is missing or no sensible number, or the launcher is not known.
    """
    if "WORLD_SIZE" in environment:
        return _read_torchrun(environment)
    if environment.get("SLURM_STEP_NUM_TASKS", "1") != "1":
        return _read_slurm(environment)
    for variable, launcher in OTHER_LAUNCHERS.items():
        if environment.get(variable, "1") != "1":
            raise ConfigError(
                f"{variable}={environment[variable]}: {launcher} has started several processes, "
                "which cannot find each other; start them with torchrun or srun, or set "
                "WORLD_SIZE=1 for runs that know nothing of each other"
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
    return _checked(names, {**defaults, **environment}, "torchrun")


def _read_slurm(environment: Mapping[str, str]) -> Launch:
    """Read the variables of a job step; in a batch script without `srun` there is none of them."""
    names = ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID", "SLURM_STEP_TASKS_PER_NODE")
    needed = (*names, "SLURM_STEP_NODELIST")
    if missing := [name for name in needed if not environment.get(name)]:
        raise ConfigError(
            f"SLURM_STEP_NUM_TASKS={environment['SLURM_STEP_NUM_TASKS']} asks for several "
            f"processes, but {' and '.join(missing)} is not set; start them with srun or torchrun"
        )
    numbers = {name: environment[name] for name in names}
    numbers[names[3]] = _tasks_of_node(environment[names[3]], environment.get("SLURM_NODEID", "0"))
    launch = _checked(names, numbers, "srun")
    nodes = environment["SLURM_STEP_NODELIST"]
    alone = environment.get("SLURM_STEP_NUM_NODES") == "1"
    host = environment.get("MASTER_ADDR") or ("127.0.0.1" if alone else first_node(nodes))
    port = environment.get("MASTER_PORT") or str(_port_of_step(environment))
    if not port.isdecimal():
        raise ConfigError(f"MASTER_PORT must be a number, got {port!r}")
    return launch._replace(meeting=(host, int(port)))


def _checked(names: tuple[str, str, str, str], values: Mapping[str, str], launcher: str) -> Launch:
    """Rank, world, local rank and local world from the variables of these names."""
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
    """The first name of a list of Slurm's, such as `gpu[003-005,9],login`."""
    first = re.split(r",(?![^\[]*\])", nodes)[0]
    return re.sub(r"\[([^],-]+)[^]]*\]", r"\1", first)


def _tasks_of_node(tasks: str, node: str) -> str:
    """How many tasks a node has, of a list of Slurm's such as `4(x2),3`; the text if it is none."""
    counts: list[str] = []
    for entry in tasks.split(","):
        parts = re.fullmatch(r"(\d+)(?:\(x(\d+)\))?", entry)
        if parts is None:
            return tasks
        counts += [parts[1]] * int(parts[2] or 1)
    return counts[int(node)] if node.isdecimal() and int(node) < len(counts) else tasks


def _port_of_step(environment: Mapping[str, str]) -> int:
    """A port that all processes of a step compute alike, and few other steps."""
    digits = "".join(environment.get(name, "") for name in ("SLURM_JOB_ID", "SLURM_STEP_ID"))
    return FIRST_PORT + int(re.sub(r"\D", "", digits) or "0") % PORTS
