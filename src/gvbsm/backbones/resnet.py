"""ResNet for small images (He et al. 2016): torchvision's blocks behind a stem that keeps the size.

Shapes are (batch, channels, height, width).
"""

from __future__ import annotations

from torch import nn

# Blocks of each stage; the deeper two have bottlenecks.
_BLOCKS = {
    18: [2, 2, 2, 2],
    34: [3, 4, 6, 3],
    50: [3, 4, 6, 3],
    101: [3, 4, 23, 3],
}


def build_resnet(depth: int, classes: int, image_size: int, channels: int) -> nn.Module:
    """Build a ResNet with a 3x3 stem of stride 1 and no max-pool.

    Args:
        depth: 18, 34, 50 or 101.
        classes: Number of logits.
        image_size: Unused: the last feature map is averaged, whatever its size.
        channels: Channels of the input.

    Returns:
        A module (batch, channels, height, width) -> (batch, classes).
    """
    from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet  # slow to import

    block = BasicBlock if depth < 50 else Bottleneck
    model: nn.Module = ResNet(block, _BLOCKS[depth], num_classes=classes)
    model.conv1 = nn.Conv2d(channels, 64, kernel_size=3, stride=1, padding=1, bias=False)
    # Initialize the new stem as the constructor initializes its own.
    nn.init.kaiming_normal_(model.conv1.weight, mode="fan_out", nonlinearity="relu")
    model.maxpool = nn.Identity()
    return model
