"""Training batches of a distilled set for torch: one epoch, a data set and a data loader."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from gvbsm.engine.device import Runtime
from gvbsm.engine.torch_defaults import torch_defaults
from gvbsm.store.batches import Batch, Labeler, StudentTask
from gvbsm.store.training_settings import TrainingSet, settle


class EpochDataset(IterableDataset[Batch]):
    """The batches of one epoch; `set_epoch` chooses which, as for torch's samplers.

    Worker processes of a data loader take turns, so that the batches come in their order.

    Args:
        distilled: The set.
        batch_size: Images in a batch; None takes that of the set's recorded settings.
        device: Where the views are made.

    Attributes:
        epochs: Epochs of the training that the set's settings describe.
        epoch: Number of the present epoch, from 0.

    Raises:
        ConfigError: If the recorded settings do not fit the set, or it was labeled in batches of
            another size that change its labels.
    """

    @torch_defaults()
    def __init__(
        self, distilled: TrainingSet, batch_size: int | None = None, device: str = "cpu"
    ) -> None:
        given: dict[str, Any] = {}
        if batch_size is not None:
            given = {"evaluation": {"batch_size": batch_size}, "labels": {"full_batch_up_to": 0}}
        config = settle(given, distilled)
        images, stored = distilled.images, distilled.soft_labels
        self._runtime = Runtime(torch.device(device), "fp32", config.seed, quiet=True)
        labeler = Labeler(
            len(images), images.shape[-1], config.labels, self._runtime, stored, teachers=[]
        )
        self._task = StudentTask(
            images,
            distilled.labels,
            labeler,
            distilled.normalization,
            config.evaluation,
            config.labels,
        )
        self._stored_epochs = None if stored is None else stored.epochs
        self.epochs = config.labels.epochs
        self.epoch = 0

    def __len__(self) -> int:
        """Batches in an epoch."""
        return self._task.steps

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch.

        Raises:
            ValueError: If the set has no soft labels for it.
        """
        stored = self._stored_epochs
        if epoch < 0 or (stored is not None and epoch >= stored):
            last = "" if stored is None else f" to {stored - 1}, the last with soft labels"
            raise ValueError(f"epoch must be from 0{last}, got {epoch}")
        self.epoch = epoch

    def __iter__(self) -> Iterator[Batch]:
        worker = get_worker_info()
        return self.batches() if worker is None else self.batches(worker.id, worker.num_workers)

    def batches(self, start: int = 0, stride: int = 1) -> Iterator[Batch]:
        """Return the batches of the present epoch, every `stride`-th from number `start` on."""
        return _computed(self._task.batches(self.epoch, start, self._runtime, stride))

    @torch_defaults()
    def loss(self, outputs: Tensor, batch: Batch) -> Tensor:
        """Return the loss that the set's settings describe, a scalar.

        Args:
            outputs: The network's logits for the views, (batch, classes).
            batch: The batch.
        """
        return self._task.loss(outputs.float(), batch)


def _computed(batches: Iterator[Batch]) -> Iterator[Batch]:
    """Yield batches that are computed with torch's own defaults, whatever the caller has set."""
    while True:
        with torch_defaults():
            batch = next(batches, None)
        if batch is None:
            return
        yield batch


class EpochLoader(DataLoader[Batch]):
    """A data loader: each pass over it gives the next epoch.

    Args:
        dataset: The batches.
        workers: Processes that make the views; 0 makes them in this process.
    """

    dataset: EpochDataset

    def __init__(self, dataset: EpochDataset, workers: int = 0) -> None:
        super().__init__(dataset, batch_size=None, num_workers=workers)
        self._next = dataset.epoch

    @property
    def epochs(self) -> int:
        """Epochs of the training that the set's settings describe."""
        return self.dataset.epochs

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch of the next pass; see `EpochDataset.set_epoch`."""
        self._next = epoch

    def __iter__(self) -> Any:
        self.dataset.set_epoch(self._next)
        self._next += 1
        return super().__iter__()

    def loss(self, outputs: Tensor, batch: Batch) -> Tensor:
        """Return the loss that the set's settings describe; see `EpochDataset.loss`."""
        return self.dataset.loss(outputs, batch)
