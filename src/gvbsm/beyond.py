"""Settings of synthesis beyond the paper (docs/beyond.md): what they mean, and what clashes."""

from __future__ import annotations

from collections.abc import Iterator

from gvbsm.config import Config, SynthesisConfig


def stage_begins(synthesis: SynthesisConfig) -> list[int]:
    """The iterations at which a stage but the first begins."""
    stages = synthesis.stages
    return [synthesis.iterations * number // stages for number in range(1, stages)]


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
    if synthesis.residual and synthesis.stages == 1:
        yield "synthesis.residual acts between stages, but synthesis.stages is 1; take more"
    if synthesis.residual and synthesis.init == "noise":
        yield (
            "synthesis.residual mixes the real start into the images, but synthesis.init is noise; "
            "set synthesis.init=real, or leave residual out"
        )
