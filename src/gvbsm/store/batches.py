"""Training batches of a distilled set: the views of an epoch with their soft and hard labels.

Students of a run, `gvbsm train` and `DistilledDataset.batches` all take their batches from here.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor, nn

from gvbsm.config import EvaluationConfig, LabelsConfig
from gvbsm.data.epochs import EpochPlan, batch_size_for, draw_plan, join_plans, view_batch
from gvbsm.data.loading import batch_count, border_color, split_batches
from gvbsm.data.pixels import Normalization
from gvbsm.engine.device import Runtime
from gvbsm.method.beyond.cosine import cosine_loss, smoothed_labels
from gvbsm.method.beyond.hard_phase import hard_epochs, smoothed_loss, soft_number
from gvbsm.method.beyond.label_pool import redraw
from gvbsm.method.ensemble import label_batch
from gvbsm.method.losses import hard_loss, kd_loss, mse_gt_loss
from gvbsm.store.soft_labels import EpochLabels, SoftLabels

VIEW_BYTES = 4 * 1024**2  # views that are made at once: small ones cost more calls than work
MOST_EPOCHS = 32  # that are drawn or read at once


class Batch(NamedTuple):
    """A training batch of a distilled set.

    Attributes:
        views: Normalized views of the images, mixed with their partners, float32 (batch, channels,
            height, width).
        logits: Soft labels as logits, float32 (batch, classes); None if there are none, or in an
            epoch of the hard phase.
        labels: Hard labels of the images, int64 (batch,).
        partners: Hard labels of the images that are mixed in, int64 (batch,).
        kept: Share of each view that is of the image itself, float32 (batch,); 1 is not mixed.
    """

    views: Tensor
    logits: Tensor | None
    labels: Tensor
    partners: Tensor
    kept: Tensor

    def probabilities(self, temperature: float = 1.0) -> Tensor:
        """Return the soft labels as probabilities, float32 (batch, classes).

        Args:
            temperature: Divisor of the logits.

        Raises:
            ValueError: If the batch has no soft labels.
        """
        if self.logits is None:
            raise ValueError("this batch has no soft labels; use labels, partners and kept")
        return (self.logits / temperature).softmax(dim=1)

    def rows(self, rows: slice) -> Batch:
        """Return the batch of some of the rows."""
        if rows == slice(0, len(self.labels)):
            return self
        return Batch(*(None if tensor is None else tensor[rows] for tensor in self))  # type: ignore[arg-type]


class Labeler:
    """Plans and soft labels of the training batches, from the store or from the teachers.

    Both give the same batches: plans are drawn with the same seed, and the teachers' logits are
    rounded to float16 as in the store. With a pruned store, each epoch draws one of the stored
    epochs and shuffles its batches.

    Args:
        count: Images of the set.
        size: Side of an image in pixels.
        labels: Settings of the views, and of how the teachers' logits are combined.
        runtime: Device and seed.
        stored: The label store, or None.
        teachers: Networks that label if there is no store; none are needed for hard labels.
    """

    def __init__(
        self,
        count: int,
        size: int,
        labels: LabelsConfig,
        runtime: Runtime,
        stored: SoftLabels | None,
        teachers: Sequence[nn.Module],
    ) -> None:
        self._count, self._size = count, size
        self._config, self._runtime = labels, runtime
        self._stored, self._teachers = stored, teachers

    def joined(self, epochs: Sequence[int]) -> tuple[EpochPlan, EpochLabels | None]:
        """Return the joined plan of several epochs (`join_plans`), and stored labels."""
        count, runtime = self._count, self._runtime
        if self._stored is None:
            return self._drawn(epochs), None
        kept = self._stored.kept
        if len(kept) == self._stored.epochs:
            return self._stored.joined(epochs)
        drawn = [redraw(epoch, kept, count, runtime) for epoch in epochs]
        plan, labels = self._stored.joined([number for number, _ in drawn])
        orders = [order + count * place for place, (_, order) in enumerate(drawn)]
        return plan._replace(order=torch.cat(orders)), labels

    def fresh(self, epochs: Sequence[int]) -> EpochPlan:
        """Return the joined plan of several epochs whose views no label belongs to."""
        labeled = self._config.epochs if self._stored is None else self._stored.epochs
        return self._drawn([labeled + epoch for epoch in epochs])

    def _drawn(self, epochs: Sequence[int]) -> EpochPlan:
        size, views, runtime = self._size, self._config.views, self._runtime
        return join_plans([draw_plan(self._count, size, views, epoch, runtime) for epoch in epochs])

    def logits(self, pictures: Tensor) -> Tensor | None:
        """Return the teachers' logits of a batch, float32 (batch, classes); None without any."""
        if not self._teachers:
            return None
        return label_batch(pictures, self._teachers, self._config, self._runtime).float()


def epochs_at_once(images: int, entries: int) -> int:
    """Return the number of epochs that are drawn or read at once.

    Args:
        images: Images of the set.
        entries: Numbers of an image: channels x height x width.
    """
    return max(1, min(MOST_EPOCHS, VIEW_BYTES // (4 * images * entries)))


@dataclass(frozen=True)
class StudentTask:
    """A set and the settings that students are trained with.

    Attributes:
        images: The set, uint8 (images, channels, size, size).
        labels: Hard labels, int64 (images,).
        labeler: Plans and soft labels.
        normalization: Mean and standard deviation of the real data.
        config: Loss, batches, optimizer and tests.
        labels_config: Epochs and batches, as in labeling.
    """

    images: Tensor
    labels: Tensor
    labeler: Labeler
    normalization: Normalization
    config: EvaluationConfig
    labels_config: LabelsConfig

    def with_rate_of(self, student: str) -> StudentTask:
        """Return the task with the learning rate of a student, by the name of its architecture."""
        optimizer = self.config.optimizer
        lr = self.config.lr_of.get(student, optimizer.lr)
        return replace(self, config=replace(self.config, optimizer=replace(optimizer, lr=lr)))

    @property
    def batch_size(self) -> int:
        """Images in a batch: all of a small set."""
        full_batch = self.labels_config.full_batch_up_to
        return batch_size_for(len(self.images), self.config.batch_size, full_batch)

    @property
    def hard(self) -> range:
        """Epochs of the hard phase."""
        return hard_epochs(self.labels_config.epochs, self.config)

    @property
    def steps(self) -> int:
        """Batches in an epoch."""
        return batch_count(len(self.images), self.batch_size)

    def batches(self, epoch: int, start: int, runtime: Runtime, stride: int = 1) -> Iterator[Batch]:
        """Yield the batches of an epoch on the device, from number `start` on.

        Args:
            epoch: Number of the epoch of training, from 0.
            start: Number of the first batch.
            runtime: Device.
            stride: Distance of the batches: 2 takes every second one.
        """
        yield from self._batches([epoch], slice(start, None, stride), runtime)

    def batches_from(self, epoch: int, start: int, runtime: Runtime) -> Iterator[Batch]:
        """Yield the batches of the training, from one of an epoch on, on the device.

        They are those of `batches`. Small epochs are drawn and read together: it takes less time.

        Args:
            epoch: Number of the first epoch of training, from 0.
            start: Number of its first batch.
            runtime: Device.
        """
        most, first = epochs_at_once(len(self.images), self.images[0].numel()), epoch
        phases = (self.hard.start, self.hard.stop, self.labels_config.epochs)
        while first < phases[-1]:
            end = min(first + most, *(last for last in phases if last > first))
            chosen = slice(start if first == epoch else 0, None)
            yield from self._batches(range(first, end), chosen, runtime)
            first = end

    def _batches(self, epochs: Sequence[int], chosen: slice, runtime: Runtime) -> Iterator[Batch]:
        """Yield the chosen ones of the batches of several epochs, all in the hard phase or none."""
        views, normalization, device = self.labels_config.views, self.normalization, runtime.device
        border, hard_phase = border_color(views, normalization, device), epochs[0] in self.hard
        if hard_phase:
            plan, stored = self.labeler.fresh(epochs), None
        else:
            plan, stored = self.labeler.joined([soft_number(item, self.hard) for item in epochs])
        count, size = len(self.images), self.batch_size
        orders = torch.split(plan.order, count)
        indices = [index for order in orders for index in split_batches(order, size)][chosen]
        together = max(1, VIEW_BYTES // (4 * size * self.images[0].numel()))
        for first in range(0, len(indices), together):
            several = indices[first : first + together]
            index, sizes = torch.cat(several), list(map(len, several))
            pictures = view_batch(self.images, plan, index, normalization, runtime, border)
            partners = plan.mixes.partners[index] % count
            kept = plan.kept(index, *self.images.shape[2:])
            hard = (self.labels[index % count], self.labels[partners], kept)
            columns = (pictures, *(target.to(device, non_blocking=True) for target in hard))
            parts = [torch.split(column, sizes) for column in columns]
            soft: Iterable[Tensor | None]
            if stored is not None:
                soft = torch.split(stored.logits(index, device), sizes)
            elif hard_phase:
                soft = [None] * len(sizes)
            else:
                soft = map(self.labeler.logits, parts[0])  # one by one
            for pictures, logits, *targets in zip(parts[0], soft, *parts[1:], strict=True):
                yield Batch(pictures, logits, *targets)

    def loss(self, outputs: Tensor, batch: Batch) -> Tensor:
        """Return the loss that the settings choose, a scalar.

        Args:
            outputs: The student's logits, float32 (batch, classes).
            batch: The batch that they are of.
        """
        config = self.config
        kept = torch.ones_like(batch.kept) if config.hard_target == "base" else batch.kept
        if config.loss == "hard":
            return hard_loss(outputs, batch.labels, batch.partners, kept)
        if batch.logits is None:  # the hard phase
            smoothing = config.hard_phase.smoothing
            return smoothed_loss(outputs, batch.labels, batch.partners, batch.kept, smoothing)
        if config.loss == "kl":
            return kd_loss(outputs, batch.logits, config.temperature)
        if config.loss == "cosine":
            classes = outputs.shape[1]
            smoothed = smoothed_labels(batch.labels, batch.partners, kept, classes)
            return cosine_loss(outputs, batch.logits, smoothed)
        hard = hard_loss(outputs, batch.labels, batch.partners, kept)
        return mse_gt_loss(outputs, batch.logits, hard, config.gamma)
