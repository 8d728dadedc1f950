"""MobileNetV2 for small images (Sandler et al. 2018): torchvision's network with fewer strides.

Shapes are (batch, channels, height, width).
"""

from __future__ import annotations

from torch import nn

# (expansion, channels at width 1, blocks, stride), as in torchvision except for the second row,
# whose stride is 2 there.
_STAGES = [
    [1, 16, 1, 1],
    [6, 24, 2, 1],
    [6, 32, 3, 2],
    [6, 64, 4, 2],
    [6, 96, 3, 1],
    [6, 160, 3, 2],
    [6, 320, 1, 1],
]


def build_mobilenet_v2_x0_5(classes: int, image_size: int, channels: int) -> nn.Module:
    """Build MobileNetV2 x0.5 as the authors train it on CIFAR: 32 px shrink to 2 px.

    The paper writes MobileNetV2-0.5 in its text and MobileNetV2 in its Table 9; the authors' code
    has the former. Its stem keeps stride 2, and there is no dropout.

    Args:
        classes: Number of logits.
        image_size: Unused: the last feature map is averaged, whatever its size.
        channels: Channels of the input.

    Returns:
        A module (batch, channels, height, width) -> (batch, classes).
    """
    from torchvision.models.mobilenetv2 import MobileNetV2  # slow to import

    # With multiples of 4, half of 24 is 12, as in the authors' network; torchvision's 8 give 16.
    model: nn.Module = MobileNetV2(
        classes, 0.5, _STAGES, round_nearest=4, block=_block, dropout=0.0
    )
    stem = nn.Conv2d(channels, 16, kernel_size=3, stride=2, padding=1, bias=False)
    nn.init.kaiming_normal_(stem.weight, mode="fan_out")  # as torchvision initializes it
    model.get_submodule("features.0").register_module("0", stem)
    return model


def _block(
    in_channels: int,
    out_channels: int,
    stride: int,
    expand_ratio: int,
    norm_layer: type[nn.Module],
) -> nn.Module:
    """Build torchvision's block, with the 1x1 expansion even if it expands by 1.

    torchvision omits that convolution; the authors' network has it: 53 convolutions, not 52.
    """
    from torchvision.models.mobilenetv2 import InvertedResidual
    from torchvision.ops.misc import Conv2dNormActivation

    block: nn.Module = InvertedResidual(in_channels, out_channels, stride, expand_ratio, norm_layer)
    if expand_ratio == 1:
        expand = Conv2dNormActivation(
            in_channels,
            in_channels,
            kernel_size=1,
            norm_layer=norm_layer,
            activation_layer=nn.ReLU6,
        )
        block.conv = nn.Sequential(expand, *block.get_submodule("conv").children())
    return block
