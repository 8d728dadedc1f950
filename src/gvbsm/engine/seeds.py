"""Derive a seed for each purpose from the run's seed, and save torch's global random state."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator

import torch
from torch import Generator, Tensor


def derived_seed(seed: int, *path: object) -> int:
    """Derive a 63-bit seed from the run's seed and a path that names what is drawn."""
    text = "/".join(map(str, (seed, *path)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator_for(seed: int, *path: object) -> Generator:
    """Return a CPU generator for one purpose, such as (seed, "synthesis", group, step).

    A fresh generator for each step makes resuming simple: there is no generator state to save, and
    the draws of a step do not depend on the steps before it.
    """
    return torch.Generator().manual_seed(derived_seed(seed, *path))


@contextlib.contextmanager
def seeded(seed: int, *path: object) -> Iterator[None]:
    """Seed torch's global generator inside the block, for code that takes no generator."""
    with torch.random.fork_rng():
        torch.manual_seed(derived_seed(seed, *path))
        yield


def get_random_state(device: torch.device) -> Tensor:
    """Return the state of the generator that dropout on this device uses, uint8 on the CPU."""
    return torch.cuda.get_rng_state(device) if device.type == "cuda" else torch.get_rng_state()


def set_random_state(device: torch.device, state: Tensor) -> None:
    """Restore what `get_random_state` returned on the same kind of device."""
    if device.type == "cuda":
        torch.cuda.set_rng_state(state, device)
    else:
        torch.set_rng_state(state)
