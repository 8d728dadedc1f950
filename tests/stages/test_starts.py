"""The choice of crops against one that looks at every crop."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from gvbsm.config import ViewConfig
from gvbsm.data.pictures import DataError
from gvbsm.data.views import sample_views
from gvbsm.engine.seeds import generator_for
from gvbsm.stages.selection import starts
from gvbsm.stages.selection.starts import (
    CROPS,
    choose_crops,
    repeat_pictures,
    select_crops,
    select_lowest,
    start_from,
    training_losses,
)
from support.crops import resized_crop
from support.toy import CONVNET, WRN


@pytest.fixture
def both(teachers):
    return [teachers[CONVNET], teachers[WRN]]


@pytest.fixture
def slow_crops(data, both, runtime):
    """Call it for the (loss, picture, box) of the best crop of every candidate, class by class."""

    def look(across, scale, candidates):
        side, ranked = 8 // across, []
        for label in range(4):
            rows = []
            for picture in candidates:
                if data.train.labels[picture] != label:
                    continue
                views = ViewConfig(crop="resized", scale=scale, ratio=(1, 1), flip=False)
                generator = generator_for(runtime.seed, "crops", int(picture))
                boxes = sample_views(CROPS, 8, 8, generator, views).boxes
                assert (boxes[:, 2] == boxes[:, 3]).all()
                for box in boxes:
                    seen = torch.zeros(1, 3, 8, 8)
                    edge = (8 - side) // 2
                    cut = data.normalization.normalize(resized_crop(data, picture, box, side))
                    seen[0, :, edge : edge + side, edge : edge + side] = cut
                    logits = sum(teacher(seen) for teacher in both) / 2
                    loss = F.cross_entropy(logits, torch.tensor([label])).item()
                    rows.append((loss, int(picture), box.tolist()))
            best = {}
            for row in rows:
                if row[1] not in best or row[0] < best[row[1]][0]:
                    best[row[1]] = row
            ranked.append(sorted(best.values()))
        return ranked

    return look


@pytest.mark.parametrize(("across", "scale"), [(1, (0.3, 1.0)), (2, (0.2, 0.6))])
def test_choose_crops__takes_the_best_crop_of_the_best_pictures(
    across, scale, data, both, runtime, slow_crops
):
    found = choose_crops(data, [2] * 4, across, scale, both, runtime)
    ranked = slow_crops(across, scale, range(40))
    for label, rows in enumerate(ranked):
        wanted = rows[: 2 * across**2]
        mine = slice(2 * label, 2 * label + 2)
        assert found.pictures[mine].flatten().tolist() == [row[1] for row in wanted]
        assert found.boxes[mine].flatten(end_dim=1).tolist() == [row[2] for row in wanted]


def test_choose_crops__the_batch_and_the_files_do_not_matter(
    data, streamed, both, runtime, monkeypatch
):
    expected = choose_crops(data, [2] * 4, 2, (0.2, 0.6), both, runtime)
    monkeypatch.setattr(starts, "BATCH", 7)
    for pictures in (data, streamed):
        found = choose_crops(pictures, [2] * 4, 2, (0.2, 0.6), both, runtime)
        assert all(map(torch.equal, found, expected))
    every = torch.arange(8)
    assert torch.equal(expected.pixels(streamed, every), expected.pixels(data, every))


def test_choose_crops__looks_at_some_pictures_of_a_large_class(data, both, runtime, monkeypatch):
    monkeypatch.setattr(starts, "CROP_PICTURES", 3)
    found = choose_crops(data, [3] * 4, 1, (0.3, 1.0), both, runtime)
    other = choose_crops(data, [3] * 4, 1, (0.3, 1.0), both, replace(runtime, seed=8))
    assert set(found.pictures.flatten().tolist()) != set(other.pictures.flatten().tolist())
    assert torch.equal(data.train.labels[found.pictures[:, 0]], torch.arange(12) // 3)
    more = choose_crops(
        data, [5] * 4, 1, (0.3, 1.0), both, runtime
    )  # more than are usually looked at
    assert len(set(more.pictures.flatten().tolist())) == 20


def test_choose_crops__a_small_class_gives_second_crops(data, both, runtime):
    """Eleven images of ten pictures: ten best crops, as without it, and one second crop."""
    best = choose_crops(data, [10] * 4, 1, (0.2, 0.6), both, runtime)
    more = choose_crops(data, [11] * 4, 1, (0.2, 0.6), both, runtime)
    for label in range(4):
        first, rows = slice(10 * label, 10 * label + 10), slice(11 * label, 11 * label + 10)
        assert torch.equal(more.pictures[rows], best.pictures[first])
        assert torch.equal(more.boxes[rows], best.boxes[first])
        last = 11 * label + 10
        generator = generator_for(runtime.seed, "crops", int(more.pictures[last, 0]))
        views = ViewConfig(crop="resized", scale=(0.2, 0.6), ratio=(1, 1), flip=False)
        drawn = sample_views(CROPS, 8, 8, generator, views).boxes.tolist()
        assert more.boxes[last, 0].tolist() in drawn


def test_choose_crops__each_class_has_its_number_of_images(data, both, runtime):
    same = choose_crops(data, [3] * 4, 2, (0.2, 0.6), both, runtime)
    found = choose_crops(data, [1, 3, 2, 3], 2, (0.2, 0.6), both, runtime)
    places = [0, 3, 4, 5, 6, 7, 9, 10, 11]
    assert torch.equal(found.pictures, same.pictures[places])
    assert torch.equal(found.boxes, same.boxes[places])


def test_select_crops__known_answer():
    losses = torch.tensor([[0.3, 0.9], [0.1, 0.2], [0.5, 0.6]])
    labels = torch.tensor([0, 0, 1])
    assert select_crops(losses, labels, [1, 1]).tolist() == [[1, 2], [0, 0]]
    assert select_crops(losses, labels, [2, 2]).tolist() == [[1, 0, 2, 2], [0, 0, 0, 1]]
    assert select_crops(losses, labels, [3, 1]).tolist() == [[1, 0, 1, 2], [0, 0, 1, 0]]
    with pytest.raises(DataError, match="class 1 has 1 training pictures"):
        select_crops(losses, labels, [3, 3])


def test_repeat_pictures__in_turn_until_each_class_has_enough():
    labels = torch.tensor([1, 0, 1, 2, 2, 2, 2])
    assert repeat_pictures(labels, [1, 1, 1]).tolist() == [*range(7)]
    assert repeat_pictures(labels, [4, 4, 4]).tolist() == [*range(7), 1, 1, 1, 0, 2]
    assert repeat_pictures(labels, [1, 4, 6]).tolist() == [*range(7), 0, 2, 3, 4]


def test_start_from__repeats_are_squares_of_their_pictures(data, streamed, runtime):
    listed = torch.cat([torch.arange(40), torch.tensor([5, 5])])
    entries = torch.tensor([5, 40, 41, 6])
    whole = start_from(torch.tensor([5, 6]), listed, data, runtime)
    assert whole.pictures.tolist() == [[5], [6]]
    assert whole.boxes is None
    start = start_from(entries, listed, data, runtime)
    assert start.pictures.flatten().tolist() == [5, 5, 5, 6]
    boxes = start.boxes[:, 0]
    assert boxes[[0, 3]].eq(0).all()
    assert not torch.equal(boxes[1], boxes[2])
    for top, left, height, width in boxes[1:3].tolist():
        assert 4 <= height == width <= 8  # a quarter of the area at least
        assert 0 <= top <= 8 - height
        assert 0 <= left <= 8 - width
    again = start_from(entries, listed, streamed, runtime)
    assert torch.equal(again.boxes, start.boxes)
    assert torch.equal(again.pixels(streamed, torch.arange(4)), start.pixels(data, torch.arange(4)))


def test_training_losses__are_of_the_mean_logits(data, both, runtime):
    found = training_losses(data, both, runtime, 7, 0)
    pictures = data.normalization.normalize(data.train.images)
    logits = (both[0](pictures) + both[1](pictures)) / 2
    expected = F.cross_entropy(logits, data.train.labels, reduction="none")
    assert torch.allclose(found, expected, rtol=1e-4, atol=1e-6)


def test_select_lowest__known_answer():
    losses = torch.tensor([3.0, 1.0, 2.0, 0.5, 2.0, 2.0])
    labels = torch.tensor([0, 0, 0, 1, 1, 1])
    assert select_lowest(losses, labels, [2, 2]).tolist() == [1, 2, 3, 4]
    assert select_lowest(losses, labels, [3, 1]).tolist() == [1, 2, 0, 3]
    with pytest.raises(DataError, match="class 0 has 3"):
        select_lowest(losses, labels, [4, 4])
