"""Late starts: images of later rounds start at later iterations (DELT, CVPR 2025)."""

from __future__ import annotations

from gvbsm.config import SynthesisConfig


def late_begins(config: SynthesisConfig, ipc: int) -> list[int]:
    """Return the iteration at which the k-th image of a class starts, for k = 0 to `ipc` - 1.

    The images are divided into rounds whose sizes differ by one at most, larger ones first, as in
    DELT (VILA-Lab/DELT@0736b27, recover/recover.py).
    """
    size, remainder = divmod(ipc, config.rounds)
    return [
        config.iterations * number // config.rounds
        for number in range(config.rounds)
        for _ in range(size + (number < remainder))
    ]
