"""Label several small batches with one call of each teacher."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from gvbsm.config import LabelsConfig
from gvbsm.engine.device import Runtime
from gvbsm.method.ensemble import label_batch


class Ensemble:
    """Teachers that label a set, by `label_batch`.

    Calling a network costs more than computing it where batches are small. A teacher that
    normalizes by recorded moments keeps views apart, so that it can take several batches as one.
    But the routine that multiplies matrices may depend on their size, and routines round
    differently. So the first batches of each size are passed both ways, and a teacher whose logits
    differ in any bit takes batch by batch: labels never depend on what is labeled at once.

    Args:
        teachers, config, runtime: As for `label_batch`.
    """

    def __init__(
        self, teachers: Sequence[nn.Module], config: LabelsConfig, runtime: Runtime
    ) -> None:
        self._teachers, self._config, self._runtime = teachers, config, runtime
        self._several = [_SeveralBatches(teacher) for teacher in teachers]

    def label(self, pictures: Tensor, sizes: Sequence[int]) -> Tensor:
        """Return the logits of consecutive batches, float16 (views, classes).

        Args:
            pictures: The views of all batches, normalized float (views, channels, height, width).
            sizes: Number of views in each batch.

        Raises:
            RunError: If memory runs out for a batch that must not be split.
        """
        teachers = self._teachers
        if self._config.batchnorm == "running" and len(sizes) > 1:
            for several in self._several:
                several.expect(pictures, sizes)
            teachers = self._several
        batches = torch.split(pictures, list(sizes))
        return torch.cat(
            [label_batch(batch, teachers, self._config, self._runtime) for batch in batches]
        )


class _SeveralBatches(nn.Module):
    """A teacher that computes all batches that are expected when it is called for the first."""

    def __init__(self, teacher: nn.Module) -> None:
        super().__init__()
        self._teacher = teacher
        self._has_same_bits: dict[tuple[int, ...], bool] = {}
        self._logits: Iterator[Tensor] = iter(())

    def expect(self, pictures: Tensor, sizes: Sequence[int]) -> None:
        """Announce the batches of the next calls."""
        self._logits = self._compute(pictures, tuple(sizes))

    def forward(self, _batch: Tensor) -> Tensor:
        """Return the logits of the next batch."""
        return next(self._logits)

    def _compute(self, pictures: Tensor, sizes: tuple[int, ...]) -> Iterator[Tensor]:
        if self._has_same_bits.get(sizes, True):
            together = torch.split(self._teacher(pictures), list(sizes))
            if sizes in self._has_same_bits:
                yield from together
                return
        single = [self._teacher(batch) for batch in torch.split(pictures, list(sizes))]
        if sizes not in self._has_same_bits:
            self._has_same_bits[sizes] = all(map(torch.equal, together, single))
        yield from single
