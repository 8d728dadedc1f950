"""Mean, deviation and range of pixels against NumPy, and sets that were not scaled to 0..255."""

import numpy as np
import pytest
import torch
from PIL import Image

from gvbsm.data import file_sample
from gvbsm.data.datasets import load_dataset
from gvbsm.data.pictures import DataError, greatest_value, open_image
from gvbsm.data.pixel_statistics import check_range, pixel_statistics
from support.picture_files import draw_classes


@pytest.mark.parametrize("channels", [1, 3])
def test_statistics_are_those_of_all_batches_together(channels):
    pixels = torch.randint(3, 250, (11, channels, 5, 7), dtype=torch.uint8)
    found = pixel_statistics(torch.split(pixels, 4), channels)
    values = pixels.numpy().astype(np.float64) / 255
    assert found.normalization.mean == pytest.approx(values.mean((0, 2, 3)), rel=1e-12)
    assert found.normalization.std == pytest.approx(values.std((0, 2, 3)), rel=1e-12)
    assert found.value_range == (int(pixels.min()), int(pixels.max()))


@pytest.mark.parametrize("value_range", [(0, 1), (0, 16), (5, 31)])
def test_pixels_that_were_not_scaled_are_refused(value_range):
    with pytest.raises(DataError, match="of 255, nearly black: scale them"):
        check_range("mine", value_range)


@pytest.mark.parametrize("value_range", [(0, 0), (0, 32), (0, 255), (200, 201)])
def test_other_ranges_are_taken(value_range):
    check_range("mine", value_range)


@pytest.mark.parametrize(
    ("dtype", "most", "suffix"),
    [(np.uint16, 4095, "png"), (np.uint16, 255, "png"), (np.int32, 255, "tif")],
)
def test_deep_pictures_that_use_few_of_their_bits_are_refused(dtype, most, suffix, tmp_path):
    """12 bits in a 16-bit PNG, 8 in a 16-bit PNG or a 32-bit TIFF: all would be near black."""
    generator = np.random.default_rng(0)
    for index in range(8):
        path = tmp_path / "a" / "xy"[index % 2] / f"{index}.{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = generator.integers(0, most + 1, (8, 8)).astype(dtype)
        pixels[0, 0] = most
        Image.fromarray(pixels).save(path)
    with pytest.raises(
        DataError, match=f"reach {most} of 65535 in a sample of 8, and.*nearly black: scale"
    ):
        load_dataset("folder", tmp_path / "a")


def test_each_file_of_the_sample_is_opened_once_for_size_channels_and_depth(tmp_path, monkeypatch):
    """Of 250 files 200 are opened, first and last among them."""
    root = tmp_path / "a"
    pixels = np.full((8, 8), 65535, dtype=np.uint16)
    for index in range(250):
        path = root / "xy"[index % 2] / f"{index:03d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
    opened, decoded = [], []

    def look(path):
        opened.append(path)
        return open_image(path)

    def decode(file, path):
        decoded.append(path)
        return greatest_value(file, path)

    monkeypatch.setattr(file_sample, "open_image", look)
    monkeypatch.setattr(file_sample, "greatest_value", decode)
    data = load_dataset("folder", root, in_memory=True)
    assert (data.channels, data.image_size) == (1, 8)
    assert len(opened) == len({*opened}) == 200
    assert opened == sorted(opened)
    assert (opened[0], opened[-1]) == (root / "x" / "000.png", root / "y" / "249.png")
    assert decoded == opened[:20]


def test_deep_pictures_among_others_are_taken(tmp_path):
    root = draw_classes(tmp_path / "a", {"x": 3, "y": 3}, mode="L")
    pixels = np.random.default_rng(0).integers(0, 65536, (8, 8)).astype(np.uint16)
    Image.fromarray(pixels).save(root / "x" / "deep.png")
    data = load_dataset("folder", root, val_fraction=0.3)
    assert data.channels == 1
