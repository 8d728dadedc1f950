"""What an epoch on a distilled set consists of: order, views and mixes.

Labelling and training both draw it from here, so that labels made beforehand and labels made during
training belong to the same batches.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from gvbsm.config import Config, LabelsConfig, ViewConfig
from gvbsm.config.settled import settle_beta_dr, settle_teachers
from gvbsm.data.loading import batch_count
from gvbsm.data.mixing import (
    SHARES,
    Mixes,
    apply_cells,
    apply_mixes,
    apply_shares,
    kept_share,
    sample_cells,
    sample_mixes,
    sample_shares,
)
from gvbsm.data.pixels import Normalization
from gvbsm.data.views import Views, apply_views, sample_views
from gvbsm.engine.device import Runtime


class Plan(NamedTuple):
    """One epoch: the images' order, int64 (images,), and each image's view and mix.

    Beyond the paper: `cells`, the patch shuffle, int64 (images, n^2), and `shares`, Mixup's, int64
    (images,), of which an image with 0 or more has no CutMix; None is off.
    """

    order: Tensor
    views: Views
    mixes: Mixes
    cells: Tensor | None = None
    shares: Tensor | None = None

    def kept(self, index: Tensor, height: int, width: int) -> Tensor:
        """Share of each image at `index` that is its own, float (batch,), of this many pixels."""
        own = kept_share(self.mixes.boxes[index], height, width)
        return own if self.shares is None else own - self.shares[index].clamp(min=0) / SHARES


def batch_size_for(count: int, batch_size: int, full_batch_up_to: int) -> int:
    """Images in a batch: all of a small set, else `batch_size` (table 9: "64 or |S|")."""
    return count if count <= full_batch_up_to else batch_size


def settle_epochs(labels: LabelsConfig, count: int, batch_size: int) -> LabelsConfig:
    """The settings with as many epochs as a set of `count` images needs for `min_steps` steps.

    Args:
        labels: The settings.
        count: Images of the set.
        batch_size: Images in a training batch.
    """
    size = batch_size_for(count, batch_size, labels.full_batch_up_to)
    needed = math.ceil(labels.min_steps / batch_count(count, size))
    return replace(labels, epochs=max(labels.epochs, needed))


def settle(config: Config, classes: int) -> Config:
    """Return a run's settings with those that depend on the size of its set brought to one value.

    These are the epochs of the labels, the names of the teachers that have weights, and the
    probability that the matching of a layer is dropped (`synthesis.beta_dr`).

    Args:
        config: The settings.
        classes: Number of classes.
    """
    labels = settle_epochs(config.labels, config.ipc * classes, config.evaluation.batch_size)
    labels = settle_teachers(labels, config.squeeze.backbones)
    return settle_beta_dr(replace(config, labels=labels))


def draw_plan(count: int, size: int, views: ViewConfig, epoch: int, runtime: Runtime) -> Plan:
    """The plan of one epoch, a function of the run's seed and the epoch alone.

    Args:
        count: Images of the set.
        size: Side of an image in pixels.
        views: The augmentation.
        epoch: Number of the epoch, from 0.
        runtime: Holds the seed.
    """
    generator = runtime.generator("epoch", epoch)
    order = torch.randperm(count, generator=generator)
    drawn = sample_views(count, size, size, generator, views)
    mixes = sample_mixes(count, size, size, views.cutmix, generator, per_sample=views.per_sample)
    each, cells, shares = views.per_sample, None, None
    if views.shuffle > 1:
        cells = sample_cells(count, views.shuffle, generator, per_sample=each)
    if views.mixup:
        both = bool(views.cutmix)
        shares = sample_shares(count, views.mixup, generator, half=both, per_sample=each)
        boxes = torch.where(shares[:, None] < 0, mixes.boxes, torch.zeros_like(mixes.boxes))
        mixes = mixes._replace(boxes=boxes)
    return Plan(order, drawn, mixes, cells, shares)


def view_batch(
    images: Tensor,
    plan: Plan,
    index: Tensor,
    normalization: Normalization,
    runtime: Runtime,
    border: Tensor | None = None,
) -> Tensor:
    """The images at `index` as the plan sees them, mixed; normalized float, on the device.

    Args:
        images: All images of the set, uint8 (images, channels, height, width).
        plan: The epoch's plan.
        index: Which images, int64 (batch,).
        normalization: Mean and standard deviation of the data.
        runtime: Device.
        border: Color around a padded crop, from `loading.border_color`.
    """

    def seen(which: Tensor) -> Tensor:
        pictures = images[which].to(runtime.device, non_blocking=True)
        found = apply_views(normalization.normalize(pictures), plan.views.select(which), border)
        return found if plan.cells is None else apply_cells(found, plan.cells[which])

    mixes = plan.mixes.select(index)
    shares = torch.zeros(len(index)) if plan.shares is None else plan.shares[index]
    if not bool(mixes.boxes.any() or (shares > 0).any()):
        return seen(index)
    own, partners = seen(index), seen(mixes.partners)
    found = apply_mixes(own, partners, mixes.boxes)
    return found if plan.shares is None else apply_shares(found, partners, shares)
