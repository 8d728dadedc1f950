"""Count the arithmetic of a network's forward pass, and the bytes of its weights."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

from gvbsm.backbones import build_backbone, build_empty


@cache
def multiply_adds(name: str, classes: int, image_size: int, channels: int) -> float:
    """Return the multiply-adds of a network's forward pass of one picture.

    They are counted on the meta device, which computes shapes only, or on the CPU where an
    operation of the network does not work there.

    Args:
        name: As for `build_backbone`.
        classes: Number of logits.
        image_size: Height and width of the picture, in pixels.
        channels: Channels of the picture.
    """
    from torch.utils.flop_counter import FlopCounterMode  # slow to import: imports triton

    for device in ("meta", "cpu"):
        try:
            with torch.random.fork_rng(), torch.device(device), torch.no_grad():
                model = build_backbone(name, classes, image_size, channels).eval()
                picture: Tensor = torch.zeros(1, channels, image_size, image_size)
                with FlopCounterMode(display=False) as counter:
                    model(picture)
            return float(counter.get_total_flops()) / 2
        except Exception:  # of any type, as networks of any library raise
            if device == "cpu":
                raise
    raise AssertionError


@cache
def weight_bytes(name: str, classes: int, image_size: int, channels: int) -> int:
    """Return the bytes of a network's parameters and buffers.

    Args:
        name: As for `build_empty`.
        classes: Number of logits.
        image_size: Height and width of the picture, in pixels.
        channels: Channels of the picture.
    """
    model = build_empty(name, classes, image_size, channels)
    return sum(tensor.nbytes for tensor in model.state_dict().values())
