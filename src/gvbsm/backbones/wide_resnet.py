"""Wide ResNet (Zagoruyko & Komodakis 2016), pre-activation, without dropout.

Shapes are (batch, channels, height, width).
"""

from __future__ import annotations

from collections import OrderedDict

import torch.nn.functional as F
from torch import Tensor, nn


def build_wide_resnet(
    depth: int, width: int, classes: int, image_size: int, channels: int
) -> nn.Sequential:
    """Build WRN-`depth`-`width`: three groups of `16 * width * (1, 2, 4)` channels.

    Args:
        depth: 6n + 4, with n blocks a group.
        width: Widening factor.
        classes: Number of logits.
        image_size: Unused: the last feature map is averaged, whatever its size.
        channels: Channels of the input.

    Returns:
        A module (batch, channels, height, width) -> (batch, classes).

    Raises:
        ValueError: If depth is not 6n + 4 with n >= 1, or width is 0.
    """
    blocks, rest = divmod(depth - 4, 6)
    if rest or blocks < 1:
        raise ValueError(f"the depth of a WRN must be 10, 16, 22, ... (6n + 4), got {depth}")
    if width < 1:
        raise ValueError(f"the width of a WRN must be at least 1, got {width}")
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    layers["stem"] = nn.Conv2d(channels, 16, kernel_size=3, padding=1, bias=False)
    in_channels = 16
    for group, stride in enumerate((1, 2, 2)):
        out_channels = 16 * width * 2**group
        layers[f"group{group + 1}"] = nn.Sequential(
            _Block(in_channels, out_channels, stride),
            *(_Block(out_channels, out_channels, 1) for _ in range(blocks - 1)),
        )
        in_channels = out_channels
    layers["norm"] = nn.BatchNorm2d(in_channels)
    layers["relu"] = nn.ReLU()
    layers["pool"] = nn.AdaptiveAvgPool2d(1)
    layers["flatten"] = nn.Flatten()
    layers["classifier"] = nn.Linear(in_channels, classes)
    model = nn.Sequential(layers)
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return model


class _Block(nn.Module):
    """norm - ReLU - conv, twice, plus the input."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(in_channels)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.shortcut: nn.Conv2d | None = None
        if in_channels != out_channels or stride != 1:
            self.shortcut = nn.Conv2d(in_channels, out_channels, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, in, height, width) to (batch, out, height / stride, width / stride)."""
        active = F.relu(self.norm1(x))
        out: Tensor = self.conv2(F.relu(self.norm2(self.conv1(active))))
        # If the shape changes, the shortcut starts after the first activation, else before it.
        return out + (x if self.shortcut is None else self.shortcut(active))
