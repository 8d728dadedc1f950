"""Recover from out-of-memory errors by splitting batches, with the same result.

In training the gradients of the micro-batches are summed. A network in eval mode treats each
picture on its own, so its outputs are concatenated. Work is repeated after the `except` block and
not in it: an exception that is being handled keeps the tensors of the failed attempt alive.
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

Output = TypeVar("Output")


class Step(NamedTuple):
    """One training step.

    Attributes:
        size: Images of its batch.
        loss: Mean loss of a slice of the batch, as a function of the network and the slice.
    """

    size: int
    loss: Callable[[nn.Module, slice], Tensor]


class MicroBatches:
    """Split a training step's batch into micro-batches and accumulate their gradients.

    The mean losses of the micro-batches, weighted by their shares of the images, sum to the mean
    loss of the batch, and so do the gradients, up to rounding. BatchNorm breaks this: it normalizes
    a micro-batch by that micro-batch's moments. A network with BatchNorm is therefore split only
    if a limit is set.

    Args:
        limit: Most images in a micro-batch; None is the whole batch.
        section: The section of the settings that holds `micro_batch`, for errors.
        shared: Whether other processes train the network too: all must split alike, so none splits
            when memory runs out.
    """

    def __init__(self, limit: int | None, section: str, shared: bool = False) -> None:
        self.limit = limit
        self._section, self._shared = section, shared

    def backward(self, model: nn.Module, step: Step) -> Tensor:
        """Compute the gradient of a step's mean loss, and return the loss.

        When memory runs out, a network without BatchNorm continues with micro-batches of half the
        size.

        Raises:
            RunError: If memory runs out and smaller micro-batches would change the result, or a
                micro-batch already is a single image.
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
        for rows in even_slices(step.size, self.limit or step.size):
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


def even_slices(size: int, limit: int) -> Iterator[slice]:
    """Yield the fewest slices of at most `limit` images that cover `size` images.

    Their sizes differ by one at most, because BatchNorm fails on a single image.
    """
    count = math.ceil(size / limit)
    for number in range(count):
        yield slice(size * number // count, size * (number + 1) // count)


class Halving:
    """Process a batch at once; when memory runs out, in parts of half the size."""

    def __init__(self) -> None:
        self._limit: int | None = None

    def __call__(self, work: Callable[[Tensor], Output], pictures: Tensor) -> list[Output]:
        """Return the outputs of the parts of a batch, in order.

        Args:
            work: Processes a part. It must have no side effects, since it may be called again for
                the same pictures.
            pictures: The batch, (batch, ...).

        Raises:
            RunError: If there is no memory for a single picture.
        """
        while True:
            at_once = min(len(pictures), self._limit or len(pictures))
            try:
                return [work(pictures[rows]) for rows in even_slices(len(pictures), at_once)]
            except torch.OutOfMemoryError:
                half = math.ceil(at_once / 2)
            if at_once == 1:
                raise RunError("out of memory with one picture at once; use another device")
            log.warning("out of memory with %d pictures at once: going on with %d", at_once, half)
            self._limit = half


class InParts(nn.Module):
    """Wrap a network in eval mode so that it splits its batches when memory runs out.

    Args:
        model: The network, (batch, ...) -> (batch, ...).
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self._model, self._halving = model, Halving()

    def forward(self, pictures: Tensor) -> Tensor:
        """Return the network's output for pictures (batch, ...)."""
        outputs: list[Tensor] = self._halving(self._model, pictures)
        return torch.cat(outputs) if len(outputs) > 1 else outputs[0]
