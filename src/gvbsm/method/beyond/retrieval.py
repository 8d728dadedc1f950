"""Retrieval: which real picture is mixed into an image between stages (RETA, arXiv 2602.24144).

RETA's dynamic retrieval connection takes, where a stage begins, the picture of the class that is
near to the image in a teacher's features and simple in itself. RETA's other part, a term of
persistent homology, is not here.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

FIT, COMPLEXITY = 0.9, 0.1  # weights of the two terms
SIGMA, RADIUS = 1.0, 3  # of the Gaussian filter, in pixels


def complexity(pictures: Tensor) -> Tensor:
    """Variance over the pixels of |grad(G * o)|^2, float (pictures,).

    G is a Gaussian of 1 pixel, with edges repeated. The gradient is that of central differences,
    one-sided at the edges, and its square is summed over the channels. The width, the differences
    and the normalized units are choices of this package.

    Args:
        pictures: o, normalized float (pictures, channels, height, width).
    """
    channels = pictures.shape[1]
    offsets = torch.arange(-RADIUS, RADIUS + 1, device=pictures.device, dtype=pictures.dtype)
    weights = (-offsets.square() / (2 * SIGMA**2)).exp()
    kernel = (weights / weights.sum()).expand(channels, 1, -1)
    smooth = F.pad(pictures, [RADIUS] * 4, mode="replicate")
    smooth = F.conv2d(smooth, kernel[..., None], groups=channels)
    smooth = F.conv2d(smooth, kernel[:, :, None], groups=channels)
    squares = torch.stack(torch.gradient(smooth, dim=(2, 3))).square().sum(dim=(0, 2))
    return squares.flatten(start_dim=1).var(dim=1, correction=0)


def scores(features: Tensor, candidates: Tensor, complexities: Tensor) -> Tensor:
    """0.9 ||x - o||^2 + 0.1 complexity(o) of images x and real pictures o.

    x and o are features of length 1.

    Args:
        features: Of the images, (images, features); their lengths do not matter.
        candidates: Of the real pictures, (candidates, features); likewise.
        complexities: Of the real pictures, (candidates,).

    Returns:
        float64 (images, candidates); the lowest is the best.
    """
    x, o = (F.normalize(vectors.double(), dim=1) for vectors in (features, candidates))
    # Of unit vectors: ||x - o||^2 = 2 - 2 x o.
    return FIT * (2 - 2 * (x @ o.T)) + COMPLEXITY * complexities.double()
