"""Settings of synthesis that are beyond the paper (docs/beyond.md): what they mean, and faults."""

from __future__ import annotations

import math
from collections.abc import Iterator

from gvbsm.config import Config, SynthesisConfig


def stage_begins(synthesis: SynthesisConfig) -> list[int]:
    """The iterations at which a stage but the first begins."""
    stages = synthesis.stages
    return [synthesis.iterations * number // stages for number in range(1, stages)]


def beyond_faults(config: Config) -> Iterator[str]:
    """What does not hold of them, one line a fault."""
    yield from _start_faults(config.synthesis)
    yield from _number_faults(config.synthesis)


def _start_faults(synthesis: SynthesisConfig) -> Iterator[str]:
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
    if synthesis.residual and synthesis.stages == 1:
        yield "synthesis.residual acts between stages, but synthesis.stages is 1; take more"
    if synthesis.residual and synthesis.init == "noise":
        yield (
            "synthesis.residual mixes the real start into the images, but synthesis.init is noise; "
            "set synthesis.init=real, or leave residual out"
        )


def _number_faults(synthesis: SynthesisConfig) -> Iterator[str]:
    for name in ("residual", "flatness_decay"):
        if not 0 <= getattr(synthesis, name) < 1:
            yield f"synthesis.{name} must be in [0, 1), got {getattr(synthesis, name)}"
    if not 0 <= synthesis.weight_class <= 1:
        yield f"synthesis.weight_class must be in [0, 1], got {synthesis.weight_class}"
    if not 0 <= synthesis.weight_flatness < math.inf:
        yield f"synthesis.weight_flatness must not be negative, got {synthesis.weight_flatness}"
    if not 0 < synthesis.flatness_tau < math.inf:
        yield f"synthesis.flatness_tau must be positive, got {synthesis.flatness_tau}"
