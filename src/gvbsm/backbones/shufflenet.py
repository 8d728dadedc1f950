"""ShuffleNetV2 for small images (Ma et al. 2018): torchvision's units behind a 1x1 stem.

Shapes are (batch, channels, height, width).
"""

from __future__ import annotations

from torch import nn

_STEM = 24


def build_shufflenet_v2_x0_5(classes: int, image_size: int, channels: int) -> nn.Module:
    """Build ShuffleNetV2 x0.5 with a 1x1 stem of stride 1 and no max-pool.

    Each stage is one unit that halves the size, then 3, 7 and 3 that keep it.

    Args:
        classes: Number of logits.
        image_size: Unused: the last feature map is averaged, whatever its size.
        channels: Channels of the input.

    Returns:
        A module (batch, channels, height, width) -> (batch, classes).
    """
    from torchvision.models.shufflenetv2 import ShuffleNetV2  # slow to import

    model: nn.Module = ShuffleNetV2([4, 8, 4], [_STEM, 48, 96, 192, 1024], num_classes=classes)
    model.conv1 = nn.Sequential(
        nn.Conv2d(channels, _STEM, kernel_size=1, bias=False),
        nn.BatchNorm2d(_STEM),
        nn.ReLU(),
    )
    model.maxpool = nn.Identity()
    return model
