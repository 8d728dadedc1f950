"""Starts: whole pictures and tiles, against slow cuts."""

import torch

from gvbsm.data.starts import Start
from support.crops import resized_crop


def test_pixels__whole_pictures(data):
    start = Start(torch.tensor([[7], [3], [9]]))
    assert torch.equal(start.pixels(data, torch.tensor([2, 0])), data.train.images[[9, 7]])


def test_pixels__four_tiles_lie_row_by_row(data):
    pictures = torch.tensor([[0, 1, 2, 3], [4, 5, 6, 7]])
    boxes = torch.tensor([[0, 0, 4, 4], [1, 2, 5, 5], [4, 4, 4, 4], [0, 0, 8, 8]]).expand(2, 4, 4)
    found = Start(pictures, boxes).pixels(data, torch.tensor([1, 0]))
    for image, row in zip(found, (1, 0), strict=True):
        tiles = [resized_crop(data, pictures[row, k], boxes[row, k], 4) for k in range(4)]
        top, below = torch.cat(tiles[:2], dim=2), torch.cat(tiles[2:], dim=2)
        assert torch.equal(image, torch.cat([top, below], dim=1))


def test_anchors__are_what_the_tiles_show_in_the_size_of_an_image(data, streamed):
    pictures = torch.tensor([[0, 1, 2, 3], [4, 5, 6, 7]])
    boxes = torch.tensor([[0, 0, 4, 4], [1, 2, 5, 5], [0, 0, 0, 0], [0, 0, 8, 8]]).expand(2, 4, 4)
    for source in (data, streamed):
        found = Start(pictures, boxes).anchors(source, torch.tensor([1, 0]))
        assert found.shape == (2, 4, 3, 8, 8)
        for row, image in zip((1, 0), found, strict=True):
            for tile, picture in enumerate(pictures[row].tolist()):
                box = boxes[row, tile] if tile != 2 else torch.tensor([0, 0, 8, 8])
                assert torch.equal(image[tile], resized_crop(data, picture, box, 8))
        alone = Start(pictures[:, :1]).anchors(source, torch.tensor([1]))
        assert torch.equal(alone, data.train.images[None, None, 4])


def test_pixels__a_box_without_height_takes_the_whole_picture(data):
    boxes = torch.tensor([[0, 0, 0, 0], [1, 2, 5, 5], [0, 0, 0, 0]])[:, None]
    start = Start(torch.tensor([[7], [3], [9]]), boxes)
    whole = data.train.images
    cut = resized_crop(data, 3, boxes[1, 0], 8)
    found = start.pixels(data, torch.tensor([1, 0, 2, 1]))
    assert torch.equal(found, torch.stack([cut, whole[7], whole[9], cut]))
    assert torch.equal(start.pixels(data, torch.tensor([2, 0])), whole[[9, 7]])
    assert torch.equal(start.pixels(data, torch.tensor([1])), cut[None])
