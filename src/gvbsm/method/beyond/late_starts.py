"""Late starts: images of later rounds begin at later iterations (DELT, CVPR 2025)."""

from __future__ import annotations

from gvbsm.config import SynthesisConfig


def late_begins(config: SynthesisConfig, ipc: int) -> list[int]:
    """The iteration at which the k-th image of a class begins, for k = 0 to `ipc` - 1.

    The images are cut into rounds as equal as can be, of which the first ones are the larger, as in
    DELT (VILA-Lab/DELT@0736b27, recover/recover.py).
    """
    size, over = divmod(ipc, config.rounds)
    return [
        config.iterations * number // config.rounds
        for number in range(config.rounds)
        for _ in range(size + (number < over))
    ]
