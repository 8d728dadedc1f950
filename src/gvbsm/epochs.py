"""What an epoch on a distilled set consists of: order, views, mixes and the ensemble's logits.

Labelling and training both draw it from here, so that labels made beforehand and labels made during
training belong to the same batches.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor, nn

from gvbsm.compression import Field, field
from gvbsm.config import LabelsConfig, ViewConfig
from gvbsm.loading import batch_count, view_arguments
from gvbsm.losses import ensemble_logits
from gvbsm.pictures import normalize
from gvbsm.runtime import Runtime
from gvbsm.views import Mixes, Views, apply_mixes, apply_views, sample_mixes, sample_views


class Plan(NamedTuple):
    """One epoch: the images' order, int64 (images,), and each image's view and mix."""

    order: Tensor
    views: Views
    mixes: Mixes


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
    drawn = sample_views(count, size, size, generator, **view_arguments(views))
    mixes = sample_mixes(count, size, size, views.cutmix, generator, per_sample=views.per_sample)
    return Plan(order, drawn, mixes)


def pack_plan(plan: Plan) -> dict[str, Tensor]:
    """The plan in narrow types, by image, as `SoftLabels.read` gives it."""
    return {
        "order": plan.order.to(torch.int32),
        "boxes": plan.views.boxes.to(torch.int16),
        "flips": plan.views.flips,
        "rolls": plan.views.rolls.to(torch.int16),
        "partners": plan.mixes.partners.to(torch.int32),
        "mix_boxes": plan.mixes.boxes.to(torch.int16),
    }


def unpack_plan(stored: dict[str, Tensor]) -> Plan:
    """The inverse of `pack_plan`."""
    wide = {
        name: stored[name].long() for name in ("order", "boxes", "rolls", "partners", "mix_boxes")
    }
    views = Views(wide["boxes"], stored["flips"], wide["rolls"])
    return Plan(wide["order"], views, Mixes(wide["partners"], wide["mix_boxes"]))


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
    return torch.cat(columns, dim=1)[order]


def from_table(table: Tensor) -> Plan:
    """The inverse of `tabulate`."""
    order = table[:, 0].contiguous()
    by_image = torch.zeros_like(table)
    by_image[order] = table
    boxes, flips, rolls, partners, mix_boxes = torch.split(by_image[:, 1:], [4, 1, 2, 1, 4], dim=1)
    views = Views(boxes.contiguous(), flips.squeeze(1).bool(), rolls.contiguous())
    return Plan(order, views, Mixes(partners.squeeze(1).contiguous(), mix_boxes.contiguous()))


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
    normalization: tuple[Sequence[float], Sequence[float]],
    runtime: Runtime,
) -> Tensor:
    """The images at `index` as the plan sees them, mixed; normalized float, on the device.

    Args:
        images: All images of the set, uint8 (images, channels, height, width).
        plan: The epoch's plan.
        index: Which images, int64 (batch,).
        normalization: Mean and deviation of the data.
        runtime: Device.
    """

    def seen(which: Tensor) -> Tensor:
        pictures = normalize(images[which].to(runtime.device), *normalization)
        views = plan.views.select(which)
        return apply_views(pictures, Views(*(part.to(runtime.device) for part in views)))

    mixes = plan.mixes.select(index)
    if not bool(mixes.boxes.any()):
        return seen(index)
    return apply_mixes(seen(index), seen(mixes.partners), mixes.boxes.to(runtime.device))


def label_batch(
    pictures: Tensor, teachers: Sequence[nn.Module], normalize_logits: bool, runtime: Runtime
) -> Tensor:
    """The ensemble's logits of a batch, float16 (batch, classes), as they are stored.

    Args:
        pictures: Views, normalized float (batch, channels, height, width).
        teachers: Networks in eval mode.
        normalize_logits: Eq. 8 with logit normalization, over this batch.
        runtime: Device and precision.
    """
    with torch.no_grad(), runtime.autocast():
        logits = [teacher(pictures).float() for teacher in teachers]
    return ensemble_logits(logits, normalize_logits).half()
