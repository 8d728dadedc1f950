"""Late starts: images of later rounds start at later iterations (DELT, CVPR 2025)."""

from __future__ import annotations

import torch
from torch import Tensor

from gvbsm.config import SynthesisConfig
from gvbsm.data.class_sizes import ImageCounts


def late_begins(config: SynthesisConfig, counts: ImageCounts) -> Tensor:
    """Return the iteration at which each image of a set starts, int64 (images,).

    The images of a class are divided into rounds whose sizes differ by one at most, larger ones
    first, as in DELT (VILA-Lab/DELT@0736b27, recover/recover.py). A class with fewer images than
    there are rounds has none in the last ones.
    """
    begins = {count: _begins(config, count) for count in set(counts.of_class)}
    return torch.tensor([begin for count in counts.of_class for begin in begins[count]])


def _begins(config: SynthesisConfig, ipc: int) -> list[int]:
    """Return the iteration at which the k-th image of a class of `ipc` images starts."""
    size, remainder = divmod(ipc, config.rounds)
    return [
        config.iterations * number // config.rounds
        for number in range(config.rounds)
        for _ in range(size + (number < remainder))
    ]
