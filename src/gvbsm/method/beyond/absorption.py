"""Absorption: each tile of an image takes up the features of a real picture (CIM, ECCV 2026).

An image is divided into tiles. Each tile has an anchor, which is a real picture of the class. The
tile, brought to the size of a picture, should look to the middle of a network as its anchor does,
under the same random view.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gvbsm.config import SynthesisConfig
from gvbsm.data.views import Views, apply_views, resize
from gvbsm.engine.device import Runtime
from gvbsm.method.layers import hooked, layers_at
from gvbsm.method.matching import Teacher
from gvbsm.method.synthesis import Extra, State


def cut_tiles(images: Tensor, across: int) -> Tensor:
    """Cut images into `across` x `across` tiles, and enlarge each to the images' size (bilinear).

    Args:
        images: Float (batch, channels, height, width).
        across: Tiles along a side. If it does not divide the side, tiles differ by a pixel.

    Returns:
        Float (batch * across^2, channels, height, width): image after image, and row by row.
    """
    size = images.shape[2:]
    if across == 1:
        return images
    rows, columns = (
        [slice(side * k // across, side * (k + 1) // across) for k in range(across)]
        for side in size
    )
    tiles = [
        F.interpolate(images[:, :, row, column], size, mode="bilinear")
        for row in rows
        for column in columns
    ]
    return torch.stack(tiles, dim=1).flatten(end_dim=1)


def middle_layer(model: nn.Module, image_shape: Sequence[int]) -> str:
    """Return the module path of a network's middle layer.

    Of the n convolutions and linear layers in the order of a forward pass it is number n // 2, from
    0: in a ConvNet of three blocks the convolution of the third block.

    Args:
        model: A network in eval mode.
        image_shape: (channels, height, width) of a picture.

    Raises:
        ValueError: If it has no such layers.
    """
    layers: dict[str, nn.Module] = {
        path: layer
        for path, layer in model.named_modules()
        if isinstance(layer, (nn.Conv2d, nn.Linear))
    }
    called: list[str] = []
    weight = next(model.parameters())
    picture = torch.zeros(1, *image_shape, device=weight.device, dtype=weight.dtype)
    with torch.no_grad(), hooked(layers, lambda path: lambda *_: called.append(path)):
        model(picture)
    if not called:
        raise ValueError(f"{type(model).__name__} has no convolution and no linear layer")
    return called[len(called) // 2]


class _ReachedError(Exception):
    """Ends a forward pass at a layer, whose input it holds."""

    def __init__(self, features: Tensor) -> None:
        super().__init__()
        self.features = features


def input_at(model: nn.Module, path: str, pictures: Tensor) -> Tensor:
    """Return the input of the layer at `path`; what follows the layer is not computed.

    Args:
        model: A network in eval mode.
        path: Module path of a layer that each pass reaches.
        pictures: Normalized, (batch, channels, height, width).
    """

    def before(_path: str) -> Callable[..., None]:
        def end(_module: nn.Module, arguments: tuple[Tensor, ...]) -> None:
            raise _ReachedError(arguments[0])

        return end

    try:
        with hooked(layers_at(model, [path]), before):
            model(pictures)
    except _ReachedError as reached:
        return reached.features
    raise ValueError(f"layer `{path}` is not reached in a forward pass")


def feature_distance(tiles: Tensor, anchors: Tensor, count: int) -> Tensor:
    """Mean absolute difference of features over the `count` tiles of each image, float (batch,).

    That of CIM's code (LINs-lab/CIM@ea71377, condense/utils.py, `l1_mean`), which sums over images.
    The paper's objective has the squared norm.

    Args:
        tiles: Features of the tiles, image after image, (batch * count, ...).
        anchors: Features of their anchors, same shape.
        count: Tiles of an image.
    """
    differences = (tiles.float() - anchors.float()).abs().flatten(start_dim=1).mean(dim=1)
    return differences.view(-1, count).mean(dim=1)


class Absorption(Extra):
    """Adds the term `absorption`.

    Args:
        config: `weight_absorption` is read.
        anchors: The real pictures of each image's tiles, normalized float (groups * batch, tiles,
            channels, height, width).
        runtime: The precision of the two further forward passes.
    """

    name = "absorption"

    def __init__(self, config: SynthesisConfig, anchors: Tensor, runtime: Runtime) -> None:
        self.weight, self._runtime = config.weight_absorption, runtime
        self._count, self._anchors = anchors.shape[1], anchors.flatten(end_dim=1)
        self._middle: dict[str, str] = {}

    def term(self, state: State, views: Views, teacher: Teacher, logits: Tensor) -> Tensor:
        """Return the distance of each image's tiles from their anchors, float (groups * batch,)."""
        if teacher.name not in self._middle:
            self._middle[teacher.name] = middle_layer(teacher.model, state.images.shape[1:])
        middle, side = self._middle[teacher.name], state.images.shape[-1]
        images = torch.arange(len(state.images)).repeat_interleave(self._count)
        same_views = views.select(images)  # for all tiles of an image, and for their anchors
        self._anchors = self._anchors.to(state.images.device)
        tiles = apply_views(cut_tiles(state.images, round(self._count**0.5)), same_views)
        with self._runtime.of(teacher.name, "pixels").autocast():
            of_tiles = input_at(teacher.model, middle, tiles)
            with torch.no_grad():
                shown = apply_views(resize(self._anchors, side), same_views)
                of_anchors = input_at(teacher.model, middle, shown)
        return feature_distance(of_tiles, of_anchors, self._count)
