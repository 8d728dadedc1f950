"""Let the BatchNorm layers of networks in eval mode normalize by the batch that they see."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from gvbsm.engine.device import RunError


@contextmanager
def batch_moments(networks: Sequence[nn.Module]) -> Iterator[None]:
    """Have the BatchNorm of networks in eval mode normalize by what it sees, for the block.

    Nothing else is in training mode (dropout stays off), and no running moment is changed.

    Args:
        networks: They must be given a batch as a whole.

    Raises:
        RunError: If memory runs out in the block.
    """
    layers = [m for net in networks for m in net.modules() if isinstance(m, _BatchNorm)]
    before = [(layer.training, layer.track_running_stats) for layer in layers]
    try:
        for layer in layers:
            # Without the second, torch would take the batch into the running moments.
            layer.training, layer.track_running_stats = True, False
        yield
    except torch.OutOfMemoryError:
        raise RunError(
            "out of memory, and labels.batchnorm=batch needs all views of a batch at once: lower "
            "both --labels.batch_size and --evaluation.batch_size, or use another device"
        ) from None
    finally:
        for layer, (training, tracking) in zip(layers, before, strict=True):
            layer.training, layer.track_running_stats = training, tracking
