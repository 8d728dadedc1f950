"""Corrupt pictures with the library imagecorruptions.

It has the 15 common corruptions of ImageNet-C (Hendrycks & Dietterich 2019,
hendrycks/robustness@305054464935) at five severities, for pictures of any size, with the strengths
that ImageNet-C has for 224 pixels. CIFAR-10-C has weaker strengths for its 32 pixels.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gvbsm.config import ConfigError
from gvbsm.engine.seeds import derived_seed

PACKAGE = "imagecorruptions-imaug"
LEAST_SIDE = 32  # pixels that the library takes
SEEDED = ("impulse_noise", "glass_blur")  # kinds that take a seed; others use NumPy's global one


def check_library() -> None:
    """Check that the library can be imported.

    Raises:
        ConfigError: If it cannot.
    """
    try:
        import imagecorruptions  # noqa: F401
    except ImportError as error:
        raise ConfigError(
            "evaluation.corruptions needs the package imagecorruptions-imaug (pip install "
            f"'gvbsm[corruptions]'), or corrupted sets as evaluation.corruptions.folder: {error}"
        ) from None


def library_name() -> str:
    """Return name and version of the library, as results hold it."""
    try:
        return f"{PACKAGE} {version(PACKAGE)}"
    except PackageNotFoundError:  # the same module from elsewhere
        return "imagecorruptions"


def corrupt(picture: Tensor, kind: str, severity: int, seed: int) -> Tensor:
    """Return a corrupted copy of a picture.

    A picture of less than 32 pixels is enlarged by a whole factor, each pixel to a square, and the
    mean over each square of the copy is taken. Of a gray picture, which the library corrupts as
    three equal channels, the green channel of the copy is taken, which has the full noise.

    Args:
        picture: uint8 (channels, size, size), 1 or 3 channels.
        kind: Name of the corruption, such as gaussian_noise.
        severity: From 1 to 5.
        seed: Seed of its noise; the same seed gives the same copy.

    Returns:
        uint8, of the shape of `picture`.
    """
    from imagecorruptions import corrupt as corrupted_by

    channels, side, _ = picture.shape
    factor = -(-LEAST_SIDE // side)
    array = picture.permute(1, 2, 0).numpy().repeat(factor, axis=0).repeat(factor, axis=1)
    number = derived_seed(seed, kind, severity) % 2**32
    options: dict[str, Any] = {"seed": number} if kind in SEEDED else {}
    with _seeded(number):
        copy = corrupted_by(array, severity, kind, **options)
    pixels = torch.from_numpy(copy.astype(np.float32)).permute(2, 0, 1)
    pixels = pixels[1:2] if channels == 1 else pixels
    squares = pixels.reshape(channels, side, factor, side, factor)
    return squares.mean((2, 4)).round().to(torch.uint8)


@contextmanager
def _seeded(number: int) -> Iterator[None]:
    """Seed NumPy's global generator inside the block, from which the library draws."""
    state = np.random.get_state()  # noqa: NPY002
    np.random.seed(number)  # noqa: NPY002
    try:
        yield
    finally:
        np.random.set_state(state)  # noqa: NPY002
