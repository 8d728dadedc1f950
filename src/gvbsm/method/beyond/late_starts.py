"""Settings of synthesis beyond the paper (docs/beyond.md): what they mean, and what clashes."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator

from gvbsm.config import Config, SynthesisConfig


def stage_begins(synthesis: SynthesisConfig) -> list[int]:
    """The iterations at which a stage but the first begins."""
    stages = synthesis.stages
    return [synthesis.iterations * number // stages for number in range(1, stages)]


def side_at(synthesis: SynthesisConfig, step: int, side: int) -> int:
    """Side of the images in an iteration, in pixels; `side` is that of the pictures."""
    sizes = synthesis.stage_sizes
    return sizes[bisect_right(stage_begins(synthesis), step)] if sizes else side


def late_begins(synthesis: SynthesisConfig, ipc: int) -> list[int]:
    """The iteration at which the k-th image of a class begins, for k = 0 to `ipc` - 1.

    The images are cut into rounds as equal as can be, of which the first ones are the larger, as in
    DELT (VILA-Lab/DELT@0736b27, recover/recover.py).
    """
    size, over = divmod(ipc, synthesis.rounds)
    return [
        synthesis.iterations * number // synthesis.rounds
        for number in range(synthesis.rounds)
        for _ in range(size + (number < over))
    ]


def beyond_faults(config: Config) -> Iterator[str]:
    """Which of them do not go together, one line a fault."""
    synthesis = config.synthesis
    low, high = synthesis.crop_scale
    if not 0 < low <= high <= 1:
        yield f"synthesis.crop_scale must satisfy 0 < low <= high <= 1, got {[low, high]}"
    if synthesis.init != "crops" and synthesis.crop_tiles != 1:
        yield (
            f"synthesis.crop_tiles={synthesis.crop_tiles} tiles crops, but synthesis.init is "
            f"{synthesis.init}; set synthesis.init=crops, or leave crop_tiles out"
        )
    if not 1 <= synthesis.stages <= max(synthesis.iterations, 1):
        yield (
            f"synthesis.stages must be from 1 to synthesis.iterations ({synthesis.iterations}), "
            f"got {synthesis.stages}"
        )
    sizes = synthesis.stage_sizes
    if sizes and (len(sizes) != synthesis.stages or min(sizes) < 1):
        yield (
            "synthesis.stage_sizes must name a side of 1 pixel or more for each of "
            f"synthesis.stages ({synthesis.stages}), got {list(sizes)}"
        )
    if synthesis.residual and synthesis.stages == 1:
        yield "synthesis.residual acts between stages, but synthesis.stages is 1; take more"
    if synthesis.residual and synthesis.init == "noise":
        yield (
            "synthesis.residual mixes the real start into the images, but synthesis.init is noise; "
            "set synthesis.init=real, or leave residual out"
        )
    if not 1 <= synthesis.rounds <= max(min(config.ipc, synthesis.iterations), 1):
        yield (
            "synthesis.rounds must be from 1 to the images of a class, ipc "
            f"({config.ipc}), and to synthesis.iterations ({synthesis.iterations}), "
            f"got {synthesis.rounds}"
        )
    if synthesis.rounds > 1 and synthesis.init == "noise":
        yield (
            "synthesis.rounds lets images begin late from their real start, but synthesis.init is "
            "noise; set synthesis.init=real, or leave rounds out"
        )
