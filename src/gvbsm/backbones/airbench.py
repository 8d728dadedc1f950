"""airbench: a network that trains on small pictures in few epochs (Jordan 2024, arXiv 2404.00498).

docs/recipe.md has its accuracy and training time as a teacher.

Shapes are (batch, channels, height, width).
"""

from __future__ import annotations

from collections import OrderedDict
from itertools import pairwise

import torch
from torch import Tensor, nn

WIDTHS = (64, 256, 256)  # of the three blocks


class Whitening(nn.Module):
    """A stem of fixed filters: (batch, channels, h, w) -> (batch, 8 * channels, h - 1, w - 1).

    Jordan's stem projects 2x2 patches on the eigenvectors of their covariance in the training set,
    scaled to unit variance. For natural pictures these are nearly the same everywhere: a cosine
    transform of the patch times gray and two opponent colors. So the filters are fixed, BatchNorm
    scales each output to unit variance, and no data is needed to build the network.

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
        # High-frequency color varies little; without a large eps its noise would be amplified.
        self.norm = nn.BatchNorm2d(len(filters), eps=5e-4, affine=False)

    def forward(self, pictures: Tensor) -> Tensor:
        """Return the filters' outputs and their negatives, so that an activation keeps both."""
        outputs = self.norm(self.conv(pictures))
        return torch.cat([outputs, -outputs], dim=1)


def build_airbench(classes: int, image_size: int, channels: int) -> nn.Sequential:
    """Build the stem, three blocks that halve the side (down to 1), max-pooling, a linear layer.

    Args:
        classes: Number of logits.
        image_size: Height and width of the input, in pixels.
        channels: Channels of the input.

    Returns:
        A module (batch, channels, image_size, image_size) -> (batch, classes).

    Raises:
        ValueError: If the picture is a single pixel: the stem would leave nothing.
    """
    if image_size < 2:
        raise ValueError(f"airbench needs pictures of at least 2 px, got {image_size} px")
    stem = Whitening(channels)
    layers = OrderedDict[str, nn.Module](stem=stem, gelu=nn.GELU())
    widths = (2 * stem.conv.out_channels, *WIDTHS)
    side = image_size - 1
    for index, (inner, outer) in enumerate(pairwise(widths), 1):
        layers[f"block{index}"] = _block(inner, outer, 2 if side > 1 else 1)
        side = max(side // 2, 1)
    layers["pool"] = nn.AdaptiveMaxPool2d(1)
    layers["flatten"] = nn.Flatten()
    layers["classifier"] = nn.Linear(WIDTHS[-1], classes)
    return nn.Sequential(layers)


def _block(inner: int, outer: int, pool: int) -> nn.Sequential:
    """Build one block, (batch, inner, h, w) -> (batch, outer, h // pool, w // pool)."""
    return nn.Sequential(
        OrderedDict[str, nn.Module](
            conv1=_identity_conv(inner, outer),
            pool=nn.MaxPool2d(pool),
            norm1=nn.BatchNorm2d(outer),
            gelu1=nn.GELU(),
            conv2=_identity_conv(outer, outer),
            norm2=nn.BatchNorm2d(outer),
            gelu2=nn.GELU(),
        )
    )


def _identity_conv(inner: int, outer: int) -> nn.Conv2d:
    """Build a 3x3 convolution whose first channels start as the identity."""
    conv = nn.Conv2d(inner, outer, kernel_size=3, padding=1, bias=False)
    nn.init.dirac_(conv.weight.data[: min(inner, outer)])
    return conv
