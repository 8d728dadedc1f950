"""What an epoch on a distilled set consists of: order, views and mixes.

Labelling and training both draw it from here, so that labels made beforehand and labels made during
training belong to the same batches.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from gvbsm.config import ConfigError, LabelsConfig, ViewConfig
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
from gvbsm.store.label_codec import Field, field

CELL, SHARE = "cell ", "mix share"  # names of columns that not all stores have


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


def check_shuffle(views: ViewConfig, size: int) -> None:
    """Check that views can be cut into their cells.

    Args:
        views: The augmentation.
        size: Side of an image in pixels.

    Raises:
        ConfigError: If they cannot.
    """
    if views.shuffle > 1 and size % views.shuffle:
        raise ConfigError(
            f"labels.views.shuffle must divide the images' side of {size} pixels, got "
            f"{views.shuffle}"
        )


def pack_plan(plan: Plan) -> dict[str, Tensor]:
    """The plan in narrow types, by image, as `SoftLabels.read` gives it."""
    return {
        "order": plan.order.to(torch.int32),
        "boxes": plan.views.boxes.to(torch.int16),
        "flips": plan.views.flips,
        "rolls": plan.views.rolls.to(torch.int16),
        "partners": plan.mixes.partners.to(torch.int32),
        "mix_boxes": plan.mixes.boxes.to(torch.int16),
        **{
            name: part.to(torch.int16)
            for name, part in (("cells", plan.cells), ("shares", plan.shares))
            if part is not None
        },
    }


def plan_fields(count: int, size: int, views: ViewConfig) -> tuple[Field, ...]:
    """The range of each column of `tabulate`, which follows from the settings alone.

    Args:
        count: Images of the set.
        size: Side of an image in pixels.
        views: The augmentation.
    """
    if views.crop == "resized":
        corner, side = (0, size - 1), (1, size)
    else:
        reach = views.padding if views.crop == "pad" else 0
        corner, side = (-reach, reach), (size, size)
    mixed = bool(views.cutmix)
    ranges = {
        "image": (0, count - 1),
        **{f"crop {name}": corner for name in ("top", "left")},
        **{f"crop {name}": side for name in ("height", "width")},
        "flip": (0, int(views.flip)),
        **{f"roll {name}": (0, views.roll) for name in ("down", "right")},
        "partner": (0, count - 1),
        **{f"mix {name}": (0, mixed * (size - 1)) for name in ("top", "left")},
        **{f"mix {name}": (0, mixed * size) for name in ("height", "width")},
    }
    if views.shuffle > 1:
        cells = views.shuffle**2
        ranges |= {f"{CELL}{place}": (0, cells - 1) for place in range(cells)}
    if views.mixup:
        ranges[SHARE] = (-1, SHARES)
    return tuple(field(name, low, high) for name, (low, high) in ranges.items())


def tabulate(plan: Plan) -> Tensor:
    """The plan as whole numbers, int64 (images, fields), a row an image in the plan's order."""
    views, mixes, order = plan.views, plan.mixes, plan.order
    columns = [
        torch.arange(len(order))[:, None],
        views.boxes,
        views.flips[:, None].long(),
        views.rolls,
        mixes.partners[:, None],
        mixes.boxes,
    ]
    columns += [] if plan.cells is None else [plan.cells]
    columns += [] if plan.shares is None else [plan.shares[:, None]]
    return torch.cat(columns, dim=1)[order]


def from_table(table: Tensor, fields: Sequence[Field]) -> Plan:
    """The inverse of `tabulate`; the names of its columns are those of `fields`."""
    order = table[:, 0].contiguous()
    by_image = torch.zeros_like(table)
    by_image[order] = table
    names = [part.name for part in fields]
    cells, shares = sum(name.startswith(CELL) for name in names), int(SHARE in names)
    boxes, flips, rolls, partners, mix_boxes, moved, blended = torch.split(
        by_image[:, 1:], [4, 1, 2, 1, 4, cells, shares], dim=1
    )
    views = Views(boxes.contiguous(), flips.squeeze(1).bool(), rolls.contiguous())
    return Plan(
        order,
        views,
        Mixes(partners.squeeze(1).contiguous(), mix_boxes.contiguous()),
        moved.contiguous() if cells else None,
        blended.squeeze(1).contiguous() if shares else None,
    )


def pooled_epochs(epochs: int, pruning: float, runtime: Runtime) -> tuple[int, ...]:
    """The epochs whose views and labels are kept, of a store that is pruned; all if it is not.

    LPLD (docs/labels.md) keeps random (epoch, batch) records. Labels belong to images here, not to
    batches, so whole epochs are kept, whose batches are drawn anew in training (`redraw`): so each
    image keeps as many views as any other. A smaller pool is part of a larger one.

    Args:
        epochs: Epochs of the training.
        pruning: One epoch of so many is kept, of all at least one.
        runtime: Holds the seed.
    """
    kept = min(epochs, max(1, round(epochs / pruning)))
    drawn = torch.randperm(epochs, generator=runtime.generator("pool"))
    return tuple(sorted(drawn[:kept].tolist()))


def redraw(epoch: int, pool: Sequence[int], count: int, runtime: Runtime) -> tuple[int, Tensor]:
    """The pool's epoch that an epoch of training takes, and the new order of its images.

    All of the pool are taken once, in random order, before any is taken again.

    Args:
        epoch: Number of the epoch of training, from 0.
        pool: The epochs that are kept.
        count: Images of the set.
        runtime: Holds the seed.

    Returns:
        One of `pool`, and int64 (images,).
    """
    turn, place = divmod(epoch, len(pool))
    drawn = torch.randperm(len(pool), generator=runtime.generator("pool", turn))
    order = torch.randperm(count, generator=runtime.generator("pool", "order", epoch))
    return pool[int(drawn[place])], order


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
