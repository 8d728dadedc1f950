"""ConvNet: the plain network of dataset condensation (Gidaris & Komodakis 2018; DC, ICLR 2021).

Shapes are (batch, channels, height, width).
"""

from __future__ import annotations

from collections import OrderedDict

from torch import nn


def build_convnet(
    width: int, depth: int, classes: int, image_size: int, channels: int
) -> nn.Sequential:
    """Build `depth` blocks conv3x3 - GroupNorm - ReLU - AvgPool2, then one linear layer.

    The paper's ConvNetW128 is width 128, depth 3, on 32 px and on 64 px images alike. It has no
    BatchNorm, so it takes part in conv matching only.

    Args:
        width: Channels of every block.
        depth: Number of blocks; each halves height and width, rounding down.
        classes: Number of logits.
        image_size: Height and width of the input, in pixels.
        channels: Channels of the input.

    Returns:
        A module (batch, channels, image_size, image_size) -> (batch, classes).

    Raises:
        ValueError: If width or depth is 0, or nothing would be left of the image after the last
            pooling.
    """
    if width < 1 or depth < 1:
        raise ValueError(f"a ConvNet needs width and depth of at least 1, got {width} and {depth}")
    side = image_size // 2**depth
    if side < 1:
        raise ValueError(
            f"a ConvNet of depth {depth} halves the image {depth} times and needs at least "
            f"{2**depth} px, got {image_size} px; take a smaller depth, such as "
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
            # One group a channel, which is InstanceNorm with a learnt scale and shift.
            norm=nn.GroupNorm(out_channels, out_channels),
            relu=nn.ReLU(),
            pool=nn.AvgPool2d(2),
        )
    )
