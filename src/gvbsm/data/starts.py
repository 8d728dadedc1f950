"""Real pictures, or squares cut from them, from which the optimization of images starts.

A start holds the indices of the pictures and the boxes of the squares, not the pixels, which are
read when a batch of images begins. So the start of a set of any size takes a few megabytes.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from gvbsm.data.datasets import ImageData
from gvbsm.data.loading import gather_images
from gvbsm.data.pictures import read_image


class Start(NamedTuple):
    """The real pictures that images start from, class by class.

    Attributes:
        pictures: Indices of each image's training pictures, int64 (images, tiles); several tiles
            lie row by row.
        boxes: The square that is cut from each, (top, left, height, width) in the pixels of its
            file, int64 (images, tiles, 4). None, and a height of 0 where there is one tile, take
            whole pictures, brought to size.
    """

    pictures: Tensor
    boxes: Tensor | None = None

    def pixels(self, data: ImageData, index: Tensor) -> Tensor:
        """Read the pixels of the images at `index` (n,): uint8 (n, channels, size, size)."""
        if self.boxes is None:
            return gather_images(data, self.pictures[index, 0])
        across = round(self.pictures.shape[1] ** 0.5)
        whole = self.boxes[index, 0, 2] == 0
        if bool(whole.any()):
            return self._with_whole_pictures(data, index, whole)
        side = data.image_size // across
        pictures, boxes = self.pictures[index].flatten(), self.boxes[index].flatten(end_dim=1)
        tiles = torch.stack(
            [
                cut_squares(training_picture(data, picture), box[None], side)
                for picture, box in zip(pictures.tolist(), boxes, strict=True)
            ]
        )
        rows = tiles.view(len(index), across, across, *tiles.shape[2:])
        return rows.permute(0, 3, 1, 4, 2, 5).flatten(4, 5).flatten(2, 3).contiguous()

    def anchors(self, data: ImageData, index: Tensor) -> Tensor:
        """Read the picture or square of each tile in the size of an image, not of a tile.

        Args:
            data: The real pictures.
            index: Images, int64 (n,).

        Returns:
            uint8 (n, tiles, channels, size, size).
        """
        pictures = self.pictures[index].flatten()
        shown = gather_images(data, pictures)
        if self.boxes is not None:
            for row, box in enumerate(self.boxes[index].flatten(end_dim=1)):
                if box[2]:
                    picture = training_picture(data, int(pictures[row]))
                    shown[row] = cut_squares(picture, box[None], data.image_size)[0]
        return shown.view(len(index), -1, *shown.shape[1:])

    def _with_whole_pictures(self, data: ImageData, index: Tensor, whole: Tensor) -> Tensor:
        """Read the pixels of images of one tile, of which those at `whole` are not cut."""
        pixels = gather_images(data, self.pictures[index, 0])
        if not bool(whole.all()):
            pixels[~whole] = self.pixels(data, index[~whole])
        return pixels


def training_picture(data: ImageData, index: int) -> Tensor:
    """Read a training picture in the size of its file: uint8 (channels, height, width)."""
    if data.train.images is not None:
        return data.train.images[index]
    assert data.train.paths is not None
    return read_image(data.train.paths[index], data.channels)


def cut_squares(picture: Tensor, boxes: Tensor, side: int) -> Tensor:
    """Cut a picture at `boxes` (n, 4), and resize the crops: uint8 (n, channels, side, side)."""
    from torchvision.transforms.v2 import functional as transforms  # slow to import

    crops = [
        transforms.resized_crop(picture, *box, [side, side], antialias=True)
        for box in boxes.tolist()
    ]
    return torch.stack(crops)
