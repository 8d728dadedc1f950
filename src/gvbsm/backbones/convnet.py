"""ConvNet: the plain network of dataset condensation (Gidaris & Komodakis 2018; DC, ICLR 2021).

Shapes are (batch, channels, height, width).
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


def build_convnet(
    width: int, depth: int, classes: int, image_size: int, channels: int
) -> nn.Sequential:
    """Build `depth` blocks conv3x3 - GroupNorm - ReLU - AvgPool2, then one linear layer.

    The paper's ConvNetW128 is width 128, depth 3, on 32 px and on 64 px images alike. It has no
    BatchNorm, so only its convolutions are matched.

    Args:
        width: Channels of every block.
        depth: Number of blocks; each halves height and width, rounding down.
        classes: Number of logits.
        image_size: Height and width of the input, in pixels.
        channels: Channels of the input.

    Returns:
        A module (batch, channels, image_size, image_size) -> (batch, classes).

    Raises:
        ValueError: If width or depth is 0, or the image is too small for `depth` poolings.
    """
    if width < 1 or depth < 1:
        raise ValueError(f"a ConvNet needs width and depth of at least 1, got {width} and {depth}")
    side = image_size >> depth  # a number of any size: 2**depth would take memory and time
    if side < 1:
        raise ValueError(
            f"a ConvNet of depth {depth} halves the image {depth} times, too often for "
            f"{image_size} px; choose a smaller depth, such as "
            f"convnet{width}_d{max(image_size.bit_length() - 1, 1)}"
        )
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    for index in range(depth):
        layers[f"block{index + 1}"] = _block(channels if index == 0 else width, width)
    layers["flatten"] = nn.Flatten()  # (batch, width, side, side) -> (batch, width * side**2)
    layers["classifier"] = nn.Linear(width * side**2, classes)
    return nn.Sequential(layers)


def _block(in_channels: int, out_channels: int) -> nn.Sequential:
    """Build one block, (batch, in, height, width) -> (batch, out, height // 2, width // 2)."""
    return nn.Sequential(
        OrderedDict[str, nn.Module](
            conv=nn.Conv2d(in_channels, out_channels, kernel_size=3, padding=1),
            # One group a channel: InstanceNorm with a learned scale and shift.
            norm=nn.GroupNorm(out_channels, out_channels),
            relu=nn.ReLU(),
            pool=_Pool(2),
        )
    )


class _Pool(nn.AvgPool2d):
    """AvgPool2d(2) with identical bits, faster on the CPU, where torch pools cell by cell.

    GPUs, compiled networks, other dtypes and channels-last maps use torch's layer.
    """

    def forward(self, x: Tensor) -> Tensor:
        is_fast = x.dtype in (torch.float32, torch.bfloat16) and x.is_contiguous()
        if torch.compiler.is_compiling() or x.device.type != "cpu" or not is_fast:
            return super().forward(x)
        pooled: Tensor = _MeanOfCells.apply(x)
        return pooled


class _MeanOfCells(torch.autograd.Function):
    """Mean of each cell of 2 x 2 pixels, in a few operations on whole feature maps.

    (batch, channels, height, width) -> (batch, channels, height // 2, width // 2).
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.shape = x.shape
        upper, lower = _cell_rows(x)
        # AvgPool2d's order, on which the last bit depends; like AvgPool2d, sums are float32.
        total = upper[..., 0].float() + upper[..., 1]
        return total.add_(lower[..., 0]).add_(lower[..., 1]).mul_(0.25).to(x.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        odd = any(side % 2 for side in ctx.shape[2:])
        spread = gradient.new_zeros(ctx.shape) if odd else gradient.new_empty(ctx.shape)
        upper, lower = _cell_rows(spread)
        torch.mul(gradient, 0.25, out=upper[..., 0])
        upper[..., 1] = upper[..., 0]
        lower.copy_(upper)
        return spread


def _cell_rows(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return the upper and the lower row of each cell, views (batch, channels, rows, columns, 2).

    On an odd side the last row or column belongs to no cell.
    """
    rows, columns = (side // 2 for side in x.shape[2:])
    cells = x[..., : 2 * rows, : 2 * columns].view(*x.shape[:2], rows, 2, columns, 2)
    return cells[:, :, :, 0], cells[:, :, :, 1]
