"""A network that learns small pictures in few passes (after Jordan 2024, arXiv 2404.00498).

As a teacher it reaches in a dozen epochs what a ResNet-18 needs several times the work for.

Shapes are (batch, channels, height, width).
"""

from __future__ import annotations

from collections import OrderedDict
from itertools import pairwise

import torch
from torch import Tensor, nn

WIDTHS = (64, 256, 256)  # of the three blocks


class Whitening(nn.Module):
    """A stem without weights to learn: (batch, channels, h, w) -> (batch, 8 channels, h - 1, w - 1).

    Jordan's stem projects 2x2 patches on the eigenvectors of their covariance in the training set,
    scaled to unit variance. The eigenvectors of natural pictures are known beforehand, up to small
    turns: a cosine transform of the patch times grey and two opponent colours. So the filters are
    fixed, and BatchNorm brings each answer to unit variance: no data is needed to build the network.

    Args:
        channels: Channels of the input.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        colors = torch.tensor([[1.0, 1.0, 1.0], [1.0, 0.0, -1.0], [1.0, -2.0, 1.0]])
        colors = colors if channels == 3 else torch.eye(channels)
        line = torch.tensor([[1.0, 1.0], [1.0, -1.0]])
        filters = torch.einsum("kc,ai,bj->kabcij", colors, line, line).flatten(0, 2)
        filters /= filters.flatten(1).norm(dim=1)[:, None, None, None]
        self.conv = nn.Conv2d(channels, len(filters), kernel_size=2, bias=False)
        self.conv.weight = nn.Parameter(filters, requires_grad=False)
        # Fine patterns of color hardly vary; without a floor their noise would be blown up.
        self.norm = nn.BatchNorm2d(len(filters), eps=5e-4, affine=False)

    def forward(self, pictures: Tensor) -> Tensor:
        """Answers and their negatives, so that an activation loses neither."""
        answers = self.norm(self.conv(pictures))
        return torch.cat([answers, -answers], dim=1)


def build_airbench(classes: int, image_size: int, channels: int) -> nn.Sequential:
    """Build stem, three blocks that each halve the side, a last max-pooling and a linear layer.

    Args:
        classes: Number of logits.
        image_size: Height and width of the input, in pixels.
        channels: Channels of the input.

    Returns:
        A module (batch, channels, image_size, image_size) -> (batch, classes).

    Raises:
        ValueError: If nothing would be left of the picture after the last block.
    """
    if (image_size - 1) // 2 ** len(WIDTHS) < 1:
        raise ValueError(
            f"airbench halves the picture {len(WIDTHS)} times after a stem that takes one pixel "
            f"off, and needs at least {2 ** len(WIDTHS) + 1} px, got {image_size} px"
        )
    layers: OrderedDict[str, nn.Module] = OrderedDict(stem=Whitening(channels), gelu=nn.GELU())
    widths = (2 * layers["stem"].conv.out_channels, *WIDTHS)  # type: ignore[operator,union-attr]
    for index, (inner, outer) in enumerate(pairwise(widths), 1):
        layers[f"block{index}"] = _block(inner, outer)
    layers["pool"] = nn.AdaptiveMaxPool2d(1)
    layers["flatten"] = nn.Flatten()
    layers["classifier"] = nn.Linear(WIDTHS[-1], classes)
    return nn.Sequential(layers)


def _block(inner: int, outer: int) -> nn.Sequential:
    """Build one block, (batch, inner, height, width) -> (batch, outer, height // 2, width // 2)."""
    return nn.Sequential(
        OrderedDict[str, nn.Module](
            conv1=_identity_conv(inner, outer),
            pool=nn.MaxPool2d(2),
            norm1=nn.BatchNorm2d(outer),
            gelu1=nn.GELU(),
            conv2=_identity_conv(outer, outer),
            norm2=nn.BatchNorm2d(outer),
            gelu2=nn.GELU(),
        )
    )


def _identity_conv(inner: int, outer: int) -> nn.Conv2d:
    """A 3x3 convolution whose first channels begin as the input's (partial identity)."""
    conv = nn.Conv2d(inner, outer, kernel_size=3, padding=1, bias=False)
    same = min(inner, outer)
    nn.init.dirac_(conv.weight.data[:same])
    return conv
