"""Count the arithmetic of a network's forward pass, and the bytes of its weights."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from gvbsm.backbones import build_backbone, build_empty, check_takes

CLASSES, CHANNELS = 10, 3  # of the pictures for which `size_of` measures a network


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


@dataclass(frozen=True)
class Size:
    """What a network for small pictures takes and costs.

    Attributes:
        parameters: Number of parameters.
        multiply_adds: Multiply-adds of the forward pass of one picture.
        smallest: Least side of a picture that it can be trained on, in pixels.
    """

    parameters: int
    multiply_adds: float
    smallest: int


def size_of(name: str, image_size: int) -> Size:
    """Measure a network for pictures of `CLASSES` classes without training it.

    Args:
        name: As for `build_backbone`.
        image_size: Height and width of the picture, in pixels, at which its arithmetic is counted.

    Raises:
        ValueError: If there is no such network for such pictures.
    """
    model = build_empty(name, CLASSES, image_size, CHANNELS)
    sides = (side for side in range(1, image_size) if _takes(name, side))
    return Size(
        sum(parameter.numel() for parameter in model.parameters()),
        multiply_adds(name, CLASSES, image_size, CHANNELS),
        next(sides, image_size),
    )


def _takes(name: str, image_size: int) -> bool:
    try:
        check_takes(name, CLASSES, image_size, CHANNELS)
    except ValueError:
        return False
    return True
