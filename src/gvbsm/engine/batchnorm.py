"""Normalize by the batch in the BatchNorm layers of networks in eval mode."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from gvbsm.engine.device import RunError


@contextmanager
def batch_moments(networks: Sequence[nn.Module]) -> Iterator[None]:
    """Let BatchNorm normalize by the moments of the batch inside the block.

    All other layers stay in eval mode (dropout stays off), and running moments do not change.

    Args:
        networks: Networks in eval mode; their batches must not be split inside the block.

    Raises:
        RunError: If memory runs out in the block.
    """
    layers = [m for net in networks for m in net.modules() if isinstance(m, _BatchNorm)]
    modes = [(layer.training, layer.track_running_stats) for layer in layers]
    try:
        for layer in layers:
            # If `track_running_stats` were True, torch would update the running moments.
            layer.training, layer.track_running_stats = True, False
        yield
    except torch.OutOfMemoryError:
        raise RunError(
            "out of memory, and labels.batchnorm=batch needs all views of a batch at once: lower "
            "both --labels.batch_size and --evaluation.batch_size, or use another device"
        ) from None
    finally:
        for layer, (training, tracking) in zip(layers, modes, strict=True):
            layer.training, layer.track_running_stats = training, tracking
