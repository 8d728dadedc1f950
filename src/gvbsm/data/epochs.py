"""Epochs on a distilled set: the order, views and mixes of its images.

Labeling and training both draw an epoch here, so that labels that are stored beforehand and labels
that are computed during training belong to the same batches.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

from gvbsm.config import Config, LabelsConfig, Rival, ViewConfig
from gvbsm.config.build import for_method
from gvbsm.config.keys import merge
from gvbsm.config.settled import settle_beta_dr, settle_teachers
from gvbsm.data.class_sizes import image_counts, settle_ipc
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


class EpochPlan(NamedTuple):
    """Order, views and mixes of one epoch.

    Attributes:
        order: Indices of the images, int64 (images,).
        views: The view of each image.
        mixes: CutMix of each image.
        cells: Beyond the paper, the patch shuffle, int64 (images, n^2); None is off.
        shares: Beyond the paper, Mixup's shares in `SHARES`-ths, int64 (images,). An image with a
            share of 0 or more has no CutMix; None is off.
    """

    order: Tensor
    views: Views
    mixes: Mixes
    cells: Tensor | None = None
    shares: Tensor | None = None

    def kept(self, index: Tensor, height: int, width: int) -> Tensor:
        """Return the share of each image at `index` that its mix keeps, float (batch,)."""
        kept = kept_share(self.mixes.boxes[index], height, width)
        return kept if self.shares is None else kept - self.shares[index].clamp(min=0) / SHARES


def batch_size_for(count: int, batch_size: int, full_batch_up_to: int) -> int:
    """Return the images in a full batch of a set of `count` images (table 9: "64 or |S|").

    A small set, of at most `full_batch_up_to` images, is one batch.
    """
    return count if count <= full_batch_up_to else min(count, batch_size)


def settle_epochs(labels: LabelsConfig, count: int, batch_size: int) -> LabelsConfig:
    """Return the settings with enough epochs for `min_steps` steps on a set of `count` images."""
    size = batch_size_for(count, batch_size, labels.full_batch_up_to)
    epochs = math.ceil(labels.min_steps / batch_count(count, size))
    return replace(labels, epochs=max(labels.epochs, epochs))


def settle(config: Config, class_names: Sequence[str]) -> Config:
    """Return a run's settings with those that depend on the size of its set brought to one value.

    These are the images of single classes, the epochs of the labels, also of single baselines, the
    names of the teachers that have weights, and the probability that the matching of a layer is
    dropped (`synthesis.beta_dr`).

    Raises:
        ConfigError: If `ipc_of` names a class that is not among them.
    """
    config = settle_ipc(config, class_names)
    images = image_counts(config, class_names).total
    config = _settle_baselines(config, images)
    labels = settle_epochs(config.labels, images, config.evaluation.batch_size)
    labels = settle_teachers(labels, config.squeeze.backbones)
    return settle_beta_dr(replace(config, labels=labels))


def _settle_baselines(config: Config, images: int) -> Config:
    """Settle the epochs of baselines that have another number of steps than the run's own set."""
    overrides = dict(config.baselines.overrides)
    for name, settings in overrides.items():
        labels, evaluation = (settings.get(key, {}) for key in ("labels", "evaluation"))
        if {"min_steps", "full_batch_up_to"} & {*labels} or "batch_size" in evaluation:
            rival = for_method(config, cast(Rival, name))
            settled = settle_epochs(rival.labels, images, rival.evaluation.batch_size)
            overrides[name] = merge(settings, {"labels": {"epochs": settled.epochs}})
    return replace(config, baselines=replace(config.baselines, overrides=overrides))


def draw_plan(count: int, size: int, views: ViewConfig, epoch: int, runtime: Runtime) -> EpochPlan:
    """Draw the plan of one epoch, a function of the run's seed and the epoch only."""
    generator = runtime.generator("epoch", epoch)
    order = torch.randperm(count, generator=generator)
    image_views = sample_views(count, size, size, generator, views)
    mixes = sample_mixes(count, size, size, views.cutmix, generator, per_sample=views.per_sample)
    per_sample, cells, shares = views.per_sample, None, None
    if views.shuffle > 1:
        cells = sample_cells(count, views.shuffle, generator, per_sample=per_sample)
    if views.mixup:
        half = bool(views.cutmix)  # the other half has CutMix
        shares = sample_shares(count, views.mixup, generator, half=half, per_sample=per_sample)
        boxes = torch.where(shares[:, None] < 0, mixes.boxes, torch.zeros_like(mixes.boxes))
        mixes = mixes._replace(boxes=boxes)
    return EpochPlan(order, image_views, mixes, cells, shares)


def join_plans(plans: Sequence[EpochPlan]) -> EpochPlan:
    """Join the plans of several epochs, so that their views can be made at once (`view_batch`).

    Args:
        plans: Plans of one set, drawn with the same settings.

    Returns:
        A plan in which image i of a set of n images has the number k n + i for the k-th epoch.
    """
    if len(plans) == 1:
        return plans[0]
    count = len(plans[0].order)
    offsets = count * torch.arange(len(plans)).repeat_interleave(count)
    partners, boxes = _joined([plan.mixes for plan in plans])
    return EpochPlan(
        torch.cat([plan.order for plan in plans]) + offsets,
        Views(*_joined([plan.views for plan in plans])),
        Mixes(partners + offsets, boxes),
        *_joined([(plan.cells, plan.shares) for plan in plans]),
    )


def _joined(rows: Sequence[tuple[Tensor | None, ...]]) -> list[Any]:
    columns = zip(*rows, strict=True)
    return [None if column[0] is None else torch.cat(column) for column in columns]


def view_batch(
    images: Tensor,
    plan: EpochPlan,
    index: Tensor,
    normalization: Normalization,
    runtime: Runtime,
    border: Tensor | None = None,
) -> Tensor:
    """Augment and mix the images at `index` by the plan; normalized float, on the device.

    Args:
        images: All images of the set, uint8 (images, channels, height, width).
        plan: The plan of an epoch, or of several (`join_plans`).
        index: Numbers of the images in the plan, int64 (batch,).
        normalization: Mean and standard deviation of the data.
        runtime: Device.
        border: Color around a padded crop, from `loading.border_color`.
    """

    def augment(index: Tensor) -> Tensor:
        pictures = images[index % len(images)].to(runtime.device, non_blocking=True)
        views = apply_views(normalization.normalize(pictures), plan.views.select(index), border)
        return views if plan.cells is None else apply_cells(views, plan.cells[index])

    mixes = plan.mixes.select(index)
    shares = torch.zeros(len(index)) if plan.shares is None else plan.shares[index]
    if not bool(mixes.boxes.any() or (shares > 0).any()):
        return augment(index)
    # An image and its partner are both of the set: each is augmented once.
    several, places = torch.unique(torch.cat([index, mixes.partners]), return_inverse=True)
    views = augment(several)
    pictures, partners = views[places.to(views.device)].view(2, len(index), *views.shape[1:])
    mixed = apply_mixes(pictures, partners, mixes.boxes)
    return mixed if plan.shares is None else apply_shares(mixed, partners, shares)
