"""Convert plans of epochs to tensors in narrow types, and to rows of integers for bit fields."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from gvbsm.config import ViewConfig
from gvbsm.data.epochs import EpochPlan
from gvbsm.data.mixing import SHARES, Mixes
from gvbsm.data.views import Views
from gvbsm.store.label_codec import field
from gvbsm.store.label_store import Field

CELL, SHARE = "cell ", "mix share"  # names of optional columns


def pack_plan(plan: EpochPlan) -> dict[str, Tensor]:
    """Convert a plan to tensors in narrow types, by image (`SoftLabels.read`)."""
    return {
        "order": plan.order.to(torch.int32),
        "boxes": plan.views.boxes.to(torch.int16),
        "flips": plan.views.flips,
        "rolls": plan.views.rolls.to(torch.int16),
        "partners": plan.mixes.partners.to(torch.int32),
        "mix_boxes": plan.mixes.boxes.to(torch.int16),
        **{
            name: tensor.to(torch.int16)
            for name, tensor in (("cells", plan.cells), ("shares", plan.shares))
            if tensor is not None
        },
    }


def plan_fields(count: int, size: int, views: ViewConfig) -> tuple[Field, ...]:
    """The range of each column of `tabulate`, which follows from the settings alone."""
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
        ranges |= {f"{CELL}{number}": (0, cells - 1) for number in range(cells)}
    if views.mixup:
        ranges[SHARE] = (-1, SHARES)
    return tuple(field(name, low, high) for name, (low, high) in ranges.items())


def tabulate(plan: EpochPlan) -> Tensor:
    """Convert a plan to integers, int64 (images, fields): one row an image, in the plan's order."""
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


def from_table(table: Tensor, fields: Sequence[Field]) -> EpochPlan:
    """The inverse of `tabulate`; the names of its columns are those of `fields`."""
    order = table[:, 0].contiguous()
    by_image = torch.zeros_like(table)
    by_image[order] = table
    names = [field.name for field in fields]
    cells, shares = sum(name.startswith(CELL) for name in names), int(SHARE in names)
    boxes, flips, rolls, partners, mix_boxes, moved, blended = torch.split(
        by_image[:, 1:], [4, 1, 2, 1, 4, cells, shares], dim=1
    )
    views = Views(boxes.contiguous(), flips.squeeze(1).bool(), rolls.contiguous())
    return EpochPlan(
        order,
        views,
        Mixes(partners.squeeze(1).contiguous(), mix_boxes.contiguous()),
        moved.contiguous() if cells else None,
        blended.squeeze(1).contiguous() if shares else None,
    )
