"""Find the real picture of its class that is nearest to each image of a synthesis (RETA)."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from gvbsm.data.datasets import ImageData
from gvbsm.data.loading import gather_images
from gvbsm.engine.seeds import generator_for
from gvbsm.method.beyond.retrieval import complexity, scores

POOL = 300  # most pictures of a class that are compared
BATCH = 100  # pictures in a forward pass


class _Pool(NamedTuple):
    """Pictures of a class: their indices, features and complexities, (pictures, ...) each."""

    pictures: Tensor
    features: Tensor
    complexities: Tensor


class NearestPictures:
    """Finds the nearest real pictures of images, among up to `POOL` random ones of their class.

    The pool of a class is read when it is first needed, and kept. It depends on the seed and the
    class alone.

    Args:
        data: The real pictures.
        features: Features of normalized pictures, float (batch, features) on the CPU.
        device: Where the pictures are compared.
        seed: Seed of the pools.
    """

    def __init__(
        self,
        data: ImageData,
        features: Callable[[Tensor], Tensor],
        device: torch.device,
        seed: int,
    ) -> None:
        self._data, self._features, self._device, self._seed = data, features, device, seed
        self._pools: dict[int, _Pool] = {}

    def __call__(self, images: Tensor, labels: Tensor, start: Tensor) -> Tensor:
        """Return for each image the real picture of the lowest score, or its start if that has it.

        Args:
            images: Normalized, of the pictures' side, (batch, channels, height, width).
            labels: Their classes, int64 (batch,).
            start: What they started from, normalized, on the CPU; same shape.

        Returns:
            Normalized float (batch, channels, height, width) on the CPU.
        """
        features, own = self._features(images), self._features(start.to(self._device))
        plain, chosen = complexity(start), start.clone()
        for row, label in enumerate(labels.tolist()):
            pool = self._pool(label)
            candidates = torch.cat([own[row : row + 1], pool.features])
            complexities = torch.cat([plain[row : row + 1], pool.complexities])
            best = int(scores(features[row : row + 1], candidates, complexities).argmin())
            if best:
                chosen[row] = self._read(pool.pictures[best - 1 : best])[0]
        return chosen

    def _read(self, index: Tensor) -> Tensor:
        return self._data.normalization.normalize(gather_images(self._data, index))

    def _pool(self, label: int) -> _Pool:
        if label not in self._pools:
            members = (self._data.train.labels == label).nonzero().flatten()
            generator = generator_for(self._seed, "nearest pictures", label)
            drawn = members[torch.randperm(len(members), generator=generator)[:POOL]]
            parts = [
                (self._features(pictures.to(self._device)), complexity(pictures))
                for pictures in map(self._read, torch.split(drawn, BATCH))
            ]
            features, complexities = map(torch.cat, zip(*parts, strict=True))
            self._pools[label] = _Pool(drawn, features, complexities)
        return self._pools[label]
