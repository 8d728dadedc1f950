"""Recover from out-of-memory errors by splitting batches into parts that give the same result.

In training the gradients of the parts are summed. A network in eval mode keeps pictures apart, so
that there the answers are put together. Work is done again after an error once the error is gone:
as long as it is being handled, it holds on to the tensors that it happened with.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from gvbsm.engine.device import RunError

log = logging.getLogger("gvbsm")

Answer = TypeVar("Answer")


class Step(NamedTuple):
    """One training step.

    Attributes:
        size: Images of its batch.
        loss: Mean loss of some of them, as a function of the network and their rows.
    """

    size: int
    loss: Callable[[nn.Module, slice], Tensor]


class Parts:
    """Split a training step's batch, and sum the gradients of its parts to that of the batch.

    The sum of the parts' mean losses, each weighted by its share of the images, is the mean loss
    of the batch, and so is its gradient, up to rounding. BatchNorm breaks this: it normalizes each
    part by the part's own moments. So it is never cut unless a limit was given.

    Args:
        limit: Most images in a part; None is all of them.
        section: The section of the settings that holds `micro_batch`, for errors.
        shared: Whether other processes train the network too: all must take the same parts.
    """

    def __init__(self, limit: int | None, section: str, shared: bool = False) -> None:
        self.limit = limit
        self._section, self._shared = section, shared

    def backward(self, model: nn.Module, step: Step) -> Tensor:
        """Leave the gradient of a step's mean loss with the network's parameters; return the loss.

        Out of memory, a network without BatchNorm goes on with parts of half as many images.

        Raises:
            RunError: If memory runs out and smaller parts would not be the same, or do not exist.
        """
        while True:
            model.zero_grad(set_to_none=True)
            try:
                return self._accumulate(model, step)
            except torch.OutOfMemoryError:
                at_once = min(step.size, self.limit or step.size)
            self.limit = self._lower(model, at_once)

    def _accumulate(self, model: nn.Module, step: Step) -> Tensor:
        losses = []
        for rows in even_parts(step.size, self.limit or step.size):
            loss = step.loss(model, rows) * ((rows.stop - rows.start) / step.size)
            loss.backward()
            losses.append(loss.detach())
        return torch.stack(losses).sum() if len(losses) > 1 else losses[0]

    def _lower(self, model: nn.Module, at_once: int) -> int:
        half = math.ceil(at_once / 2)
        if at_once == 1:
            raise RunError("out of memory with one image in a step; use another device")
        if self._shared:
            raise RunError(
                f"out of memory with {at_once} images at once in each process; use more processes, "
                f"lower --{self._section}.batch_size, or use other devices"
            )
        if any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in model.modules()):
            raise RunError(
                f"out of memory with {at_once} images at once, and BatchNorm sees what is at once: "
                f"set --{self._section}.micro_batch {half} to let it see so many, lower "
                f"--{self._section}.batch_size, or use another device"
            )
        log.warning("out of memory with %d images at once: going on with %d", at_once, half)
        return half


def even_parts(size: int, limit: int) -> Iterator[slice]:
    """Rows of the fewest parts of at most `limit` that `size` images can be cut into.

    They differ by one image at most, since a part of a single one is what BatchNorm fails on.
    """
    count = math.ceil(size / limit)
    for part in range(count):
        yield slice(size * part // count, size * (part + 1) // count)


class Halving:
    """Process a batch at once, or in ever smaller parts after memory has run out."""

    def __init__(self) -> None:
        self._limit: int | None = None

    def __call__(self, work: Callable[[Tensor], Answer], pictures: Tensor) -> list[Answer]:
        """The answers to the batch's parts, in order.

        Args:
            work: What is done to a part; of what it answers nothing may be kept elsewhere, since it
                may be asked for again.
            pictures: The batch, (batch, ...).

        Raises:
            RunError: If there is no memory for a single picture.
        """
        while True:
            at_once = min(len(pictures), self._limit or len(pictures))
            try:
                return [work(pictures[rows]) for rows in even_parts(len(pictures), at_once)]
            except torch.OutOfMemoryError:
                half = math.ceil(at_once / 2)
            if at_once == 1:
                raise RunError("out of memory with one picture at once; use another device")
            log.warning("out of memory with %d pictures at once: going on with %d", at_once, half)
            self._limit = half


class InParts(nn.Module):
    """A network in eval mode that splits its batches once memory has run out.

    Args:
        model: The network, (batch, ...) -> (batch, ...).
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self._model, self._halving = model, Halving()

    def forward(self, pictures: Tensor) -> Tensor:
        """What the network answers to (batch, ...)."""
        answers: list[Tensor] = self._halving(self._model, pictures)
        return torch.cat(answers) if len(answers) > 1 else answers[0]
