"""The sample data as arrays, and the check that data which were read are the same."""

import io

import numpy as np
from PIL import Image

from faults.hostile.case import read_data

NAMES = tuple("abcd")


def toy(place):
    """The arrays of the sample data."""
    return dict(np.load(place.samples / "toy.npz"))


def expect(name, root, arrays, names=NAMES, **options):
    """A check that data hold the pictures and labels of these arrays, in whatever order."""

    def check():
        data = read_data(name, root, **options)
        assert data.class_names == tuple(names), data.class_names
        for split, side in ((data.train, "train"), (data.test, "test")):
            found = sorted(
                (int(label), bytes(image.permute(1, 2, 0).contiguous().numpy()))
                for image, label in zip(split.images, split.labels, strict=True)
            )
            images = arrays[f"{side}_images"]
            labels = arrays[f"{side}_labels"].tolist()
            assert found == sorted(
                zip(labels, map(bytes, map(np.ascontiguousarray, images)), strict=True)
            )

    return check


def png(array, **options):
    file = io.BytesIO()
    Image.fromarray(array).save(file, "PNG", **options)
    return file.getvalue()
