"""A descent that has left the finite numbers: told with the iteration and where it began."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from gvbsm.engine.device import RunError
from gvbsm.method.capture import first_broken_layer
from gvbsm.method.matching import Target
from gvbsm.method.synthesis import Stack

ADVICE = "lower synthesis.optimizer.lr"


def check_loss(
    step: int,
    teacher: str,
    loss: Tensor,
    images: Tensor,
    stack: Stack,
    targets: Sequence[Target],
) -> None:
    """Stop if a group's loss is not finite, naming the iteration and where it began."""
    bad = (~torch.isfinite(loss.detach())).nonzero().flatten().tolist()
    if not bad:
        return
    number, value = stack.numbers[bad[0]], float(loss[bad[0]].detach())
    pictures = images.detach()[bad[0] * stack.batch : (bad[0] + 1) * stack.batch]
    if bool(torch.isfinite(pictures).all()):
        model = next(target.model for target in targets if target.name == teacher)
        layer = first_broken_layer(model, pictures)
        where = f"first in layer {layer} of {teacher}" if layer else f"in the losses of {teacher}"
    else:
        where = "first in the pixels"
    raise RunError(
        f"synthesis of batch {number}: the loss became {value:g} at iteration {step}, {where}; "
        f"{ADVICE}"
    )


def check_pixels(step: int, images: Tensor, stack: Stack) -> None:
    """Stop before a state that is not finite is kept; the last checkpoint is from before it."""
    finite = torch.isfinite(images.detach()).view(len(stack.numbers), -1).all(dim=1).tolist()
    for number, good in zip(stack.numbers, finite, strict=True):
        if not good:
            raise RunError(
                f"synthesis of batch {number}: the pixels are no longer finite after {step} "
                f"iterations; {ADVICE}"
            )
