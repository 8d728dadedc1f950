"""What a distilled set shows of itself: a line, a picture, a figure."""

import base64
import io
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from PIL import Image

from gvbsm.files.sizes import byte_count
from gvbsm.store.distilled import load_distilled, load_labels
from gvbsm.store.showing.pictures import grid, png
from support.distilled_files import write_images, write_labels
from support.fonts import installed, write_font


@pytest.fixture
def distilled(tmp_path):
    """Four images of 2 x 2 pixels in two classes, with labels of five epochs."""
    write_images(tmp_path)
    write_labels(tmp_path / "labels")
    return load_distilled(tmp_path)


def test_a_set_is_a_sequence_of_images_and_labels(distilled):
    assert len(distilled) == 4
    images, labels = zip(*distilled, strict=True)  # ends, as a list does
    assert torch.equal(torch.stack(images), distilled.images)
    assert list(labels) == [0, 0, 1, 1]
    assert distilled[-1][1] == 1


def test_its_line_has_names_and_human_units(distilled, tmp_path):
    size = byte_count(load_labels(tmp_path / "labels").nbytes())
    assert re.fullmatch(r"\d.\d+ kB", size)
    assert repr(distilled) == (
        "DistilledDataset(no name: 4 images of 2 classes, 3 x 2 x 2 pixels, "
        f"soft labels of 5 epochs, {size})"
    )
    header = {"dataset": "folder", "title": "my birds"}
    bare = replace(distilled, soft_labels=None, header=header)
    assert repr(bare) == (
        "DistilledDataset(my birds: 4 images of 2 classes, 3 x 2 x 2 pixels, hard labels)"
    )
    assert "(folder: " in repr(replace(bare, header={"dataset": "folder"}))


def test_a_grid_has_a_row_a_class():
    images = torch.arange(5, dtype=torch.uint8)[:, None, None, None].expand(5, 1, 16, 16)
    labels = torch.tensor([0, 0, 0, 2, 2])
    pixels = grid(images, labels, classes=9, columns=2)
    assert pixels.shape == (1, 33, 33)
    corners = [pixels[0, 0, 0], pixels[0, 0, 17], pixels[0, 17, 0], pixels[0, 32, 32]]
    assert [int(corner) for corner in corners] == [0, 1, 3, 4]
    assert set(pixels[0, 16].tolist()) == {255}
    uneven = grid(images[:4], labels[:4], classes=9, columns=2)
    assert set(uneven[0, 17:, 17:].flatten().tolist()) == {255}  # class 2 has one image
    assert grid(images, labels, classes=1, columns=3).shape == (1, 16, 50)


@pytest.mark.parametrize(("size", "side"), [(2, 32), (40, 40), (100, 64)])
def test_images_of_a_png_are_neither_tiny_nor_large(size, side):
    images = torch.full((4, 3, size, size), 7, dtype=torch.uint8)
    picture = Image.open(io.BytesIO(png(images, torch.tensor([0, 0, 1, 1]), classes=1)))
    gap = max(1, side // 16)
    assert picture.size == (2 * side + gap, side)
    assert np.unique(np.asarray(picture)).tolist() == [7, 255]


def test_a_notebook_shows_its_line_and_its_picture(distilled):
    shown = replace(distilled, header={"dataset": "<b>"})._repr_html_()
    assert "&lt;b&gt;: 4 images of 2 classes" in shown
    content = re.search(r"base64,([^\"]+)", shown)[1]
    picture = Image.open(io.BytesIO(base64.b64decode(content)))
    assert picture.size == (66, 66)
    first = distilled.images[0, :, 0, 0].tolist()
    assert picture.getpixel((0, 0)) == tuple(first)


def test_its_figure_names_the_classes(distilled):
    figure = distilled.show(columns=1)
    (axes,) = figure.axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["class 0", "class 1"]
    pixels = axes.images[0].get_array()
    assert pixels.shape == (5, 2, 3)
    assert np.array_equal(pixels[:2], distilled.images[0].permute(1, 2, 0))
    figure.canvas.draw()


def test_long_names_and_those_of_any_script_are_beside_their_images(distilled, tmp_path):
    named = replace(distilled, class_names=("x" * 100, "$字"))
    with installed(write_font(tmp_path / "han.ttf", "Han", "字")):
        figure = named.show(columns=1)
        FigureCanvasAgg(figure).draw()
    (axes,) = figure.axes
    left, right = 0, figure.bbox.x1
    for label in axes.get_yticklabels():
        box = label.get_window_extent()
        assert left <= box.x0 < box.x1 <= axes.get_window_extent().x0 < right
    long, short = axes.get_yticklabels()
    assert long.get_text() == "\n".join(["x" * 20] * 2 + ["x" * 19 + "…"])
    assert long.get_window_extent().height < axes.get_window_extent().height / 2
    assert short.get_fontfamily()[-1] == "Han"


def test_a_gray_figure_is_gray(distilled):
    gray = replace(distilled, images=distilled.images[:, :1])
    assert gray.show().axes[0].images[0].cmap.name == "gray"
