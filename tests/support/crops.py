"""Slow crops of the toy pictures."""

import torchvision.transforms.v2.functional as TF


def resized_crop(data, picture, box, side):
    """A square of a training picture, sliced and then resized."""
    top, left, height, width = box.tolist()
    cut = data.train.images[picture][:, top : top + height, left : left + width]
    return TF.resize(cut, [side, side], antialias=True)
