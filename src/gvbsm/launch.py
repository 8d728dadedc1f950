"""Which of several processes this one is, as `torchrun` and `accelerate launch` tell it.

They tell it in the environment: RANK (number of the process), WORLD_SIZE (how many there are),
LOCAL_RANK (its number on its machine), LOCAL_WORLD_SIZE (how many are there), MASTER_ADDR and
MASTER_PORT (where they meet). No torch is needed to read it, so that the command line knows at once
who speaks.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import NamedTuple

from gvbsm.config import ConfigError


class Launch(NamedTuple):
    """One process among those that were started together.

    Attributes:
        rank: Its number, from 0.
        world: How many there are.
        local_rank: Its number on its machine.
        local_world: How many there are on its machine; all, if the launcher does not tell.
    """

    rank: int = 0
    world: int = 1
    local_rank: int = 0
    local_world: int = 1

    @property
    def name(self) -> str:
        """Which process it is, for people; empty where there is one alone."""
        return f"process {self.rank} of {self.world}" if self.world > 1 else ""


def read_launch(environment: Mapping[str, str] = os.environ) -> Launch:
    """Read what the launcher has told; without one, or with one process, all is as ever.

    Args:
        environment: The environment's variables.

    Raises:
        ConfigError: If something is missing or no sensible number.
    """
    if environment.get("WORLD_SIZE", "1") == "1":
        return Launch()
    needed = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    if missing := [name for name in needed if not environment.get(name)]:
        raise ConfigError(
            f"WORLD_SIZE={environment['WORLD_SIZE']} asks for several processes, but "
            f"{' and '.join(missing)} is not set; start them with torchrun, or unset WORLD_SIZE"
        )
    told = {"LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": environment["WORLD_SIZE"], **environment}
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
    numbers = {name: told[name] for name in names}
    for name, text in numbers.items():
        if not text.isdecimal():
            raise ConfigError(f"{name} must be a number, got {text!r}; start with torchrun")
    found = Launch(*(int(text) for text in numbers.values()))
    if not (found.rank < found.world and found.local_rank < found.local_world <= found.world):
        raise ConfigError(
            f"RANK={found.rank} must be less than WORLD_SIZE={found.world}, and LOCAL_RANK="
            f"{found.local_rank} less than LOCAL_WORLD_SIZE={found.local_world}, at most WORLD_SIZE"
        )
    return found
