"""Batches: every picture once, the same after a stop, and the same from memory and from files."""

import os
import pickle
from dataclasses import astuple, replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from gvbsm.config import ViewConfig
from gvbsm.data import loading, workers
from gvbsm.data.loading import (
    PackedPaths,
    batch_count,
    gather_images,
    picture_parts,
    plain_batches,
    split_batches,
    training_batches,
    view_batches,
)
from gvbsm.data.pictures import Split
from gvbsm.data.views import sample_views
from support import reference

PLAIN = ViewConfig(crop="none", flip=False)
PADDED = ViewConfig(crop="pad", padding=2, flip=True, roll=3)
RESIZED = ViewConfig(crop="resized", scale=(0.2, 1.0), flip=True, roll=3)


def epoch(data, views, batch_size, runtime, path=("test", 0), start=0, workers=0):
    """The batches of an epoch, from `start` on."""
    batches = training_batches(data, batch_size, runtime, path)[start:]
    return list(view_batches(data, views, batches, runtime, path, workers))


def in_order(data, views, batch_size, runtime, path=("test", 0)):
    """Views of all training pictures, in the order of the split."""
    batches = torch.split(torch.arange(len(data.train)), batch_size)
    return list(view_batches(data, views, batches, runtime, path))


def joined(batches):
    return torch.cat([pictures for pictures, _ in batches])


def positions(data, batches):
    """Which training pictures the unchanged views are, in order."""
    known = data.normalization.normalize(data.train.images)
    distance = (joined(batches)[:, None] - known[None]).abs().amax(dim=(2, 3, 4))
    nearest = distance.min(dim=1)
    assert nearest.values.max() < 1e-5
    return nearest.indices


def same(ours, theirs):
    """Whether two lists of batches are equal bit for bit."""
    return len(ours) == len(theirs) and all(
        torch.equal(a, b)
        for x, y in zip(ours, theirs, strict=True)
        for a, b in zip(x, y, strict=True)
    )


@pytest.mark.parametrize(
    ("count", "batch_size", "expected"),
    [(40, 40, 1), (40, 20, 2), (40, 16, 3), (41, 20, 2), (42, 20, 3), (1, 8, 1), (3, 8, 1)],
)
def test_batch_count__known_answers(count, batch_size, expected):
    assert batch_count(count, batch_size) == expected
    assert len(split_batches(torch.arange(count), batch_size)) == expected


def test_batch_count__agrees_with_the_batches_for_all_small_numbers():
    for count in range(1, 12):
        for batch_size in range(1, 12):
            found = len(split_batches(torch.arange(count), batch_size))
            assert batch_count(count, batch_size) == found, (count, batch_size)


def test_training_batches__last_batch_of_one_picture_is_left_out(data, runtime):
    batches = epoch(data, PLAIN, 13, runtime)  # 3 x 13 + 1
    assert [len(labels) for _, labels in batches] == [13, 13, 13]
    assert len(set(positions(data, batches).tolist())) == 39
    assert [len(labels) for _, labels in epoch(data, PLAIN, 19, runtime)] == [19, 19, 2]


def test_training_batches__an_epoch_covers_every_picture_once(data, runtime):
    batches = epoch(data, PLAIN, 16, runtime)
    order = positions(data, batches)
    assert sorted(order.tolist()) == list(range(40))
    assert order.tolist() != list(range(40))
    assert torch.equal(torch.cat([labels for _, labels in batches]), data.train.labels[order])


def test_view_batches__unshuffled_keeps_the_order_of_the_split(data, runtime):
    batches = in_order(data, PLAIN, 16, runtime)
    assert positions(data, batches).tolist() == list(range(40))


def test_view_batches__order_and_views_belong_to_path_and_seed(data, runtime):
    first = epoch(data, PADDED, 16, runtime)
    torch.manual_seed(123)  # the global generator has no say
    assert same(epoch(data, PADDED, 16, runtime), first)
    assert not same(epoch(data, PADDED, 16, runtime, path=("test", 1)), first)
    assert not same(epoch(data, PADDED, 16, replace(runtime, seed=8)), first)
    orders = [
        positions(data, epoch(data, PLAIN, 16, r, path=p)).tolist()
        for r, p in ((runtime, ("a",)), (runtime, ("b",)), (replace(runtime, seed=8), ("a",)))
    ]
    assert orders[0] != orders[1]
    assert orders[0] != orders[2]


@pytest.mark.parametrize("source", ["data", "streamed"])
@pytest.mark.parametrize("views", [PLAIN, PADDED, RESIZED], ids=lambda views: views.crop)
def test_view_batches__start_gives_exactly_the_rest(request, source, views, runtime):
    data = request.getfixturevalue(source)
    whole = epoch(data, views, 11, runtime)
    for start in range(len(whole) + 1):
        assert same(epoch(data, views, 11, runtime, start=start), whole[start:])


def test_files_without_a_crop_equal_memory(data, streamed, runtime):
    assert same(epoch(streamed, PLAIN, 16, runtime), epoch(data, PLAIN, 16, runtime))
    for split in ("train", "test"):
        ours, theirs = (
            list(plain_batches(source, getattr(source, split), 7, runtime, workers=0))
            for source in (streamed, data)
        )
        assert same(ours, theirs)


@pytest.mark.parametrize("views", [PADDED, RESIZED], ids=lambda views: views.crop)
def test_views_of_files_belong_to_seed_path_and_index(streamed, runtime, views):
    known = joined(in_order(streamed, views, 40, runtime))
    for batch_size in (7, 16):
        again = joined(in_order(streamed, views, batch_size, runtime))
        assert torch.equal(again, known)
    order = torch.randperm(40, generator=runtime.generator("test", 0, "order"))
    assert torch.equal(joined(epoch(streamed, views, 16, runtime)), known[order])
    for other in (
        in_order(streamed, views, 40, runtime, path=("test", 1)),
        in_order(streamed, views, 40, replace(runtime, seed=8)),
    ):
        assert (joined(other) != known).flatten(1).any(dim=1).float().mean() > 0.8


def test_a_worker_process_gives_the_same_batches(streamed, runtime):
    alone = epoch(streamed, RESIZED, 16, runtime)
    assert same(epoch(streamed, RESIZED, 16, runtime, workers=1), alone)


def test_no_more_workers_are_started_than_there_are_batches(streamed, runtime, monkeypatch):
    started = []

    class Loader(torch.utils.data.DataLoader):
        def __init__(self, dataset, *, num_workers, **options):
            started.append(num_workers)
            super().__init__(dataset, **options | {"multiprocessing_context": None})

    monkeypatch.setattr(workers, "DataLoader", Loader)
    assert len(list(plain_batches(streamed, streamed.test, 8, runtime, workers=99))) == 2
    assert len(epoch(streamed, PLAIN, 16, runtime, workers=2)) == 3
    assert started == [2, 2]


@pytest.mark.parametrize("source", ["data", "streamed"])
def test_views_change_the_pictures(request, source, runtime):
    data = request.getfixturevalue(source)
    plain = joined(in_order(data, PLAIN, 40, runtime))
    for views in (PADDED, RESIZED):
        seen = joined(in_order(data, views, 40, runtime))
        assert (seen != plain).flatten(1).any(dim=1).float().mean() > 0.8


def test_flip_mirrors_about_half_of_the_pictures(data, streamed, runtime):
    for source in (data, streamed):
        plain = joined(in_order(source, PLAIN, 40, runtime))
        seen = joined(in_order(source, replace(PLAIN, flip=True), 40, runtime))
        kept = [torch.equal(a, b) for a, b in zip(seen, plain, strict=True)]
        mirrored = [torch.equal(a, b.flip(2)) for a, b in zip(seen, plain, strict=True)]
        assert all(a != b for a, b in zip(kept, mirrored, strict=True))
        assert 8 < sum(mirrored) < 32


def seen_by_reference(picture, views):
    """A roll, then a crop, then a mirror, by the slow twin; in grey levels."""
    top, left, height, width = views.boxes[0].tolist()
    rolled = reference.roll(picture.double(), *views.rolls[0].tolist())
    cut = reference.resized_crop(rolled, top, left, height, width)
    return reference.mirror(cut) if views.flips[0] else cut


@pytest.mark.parametrize("source", ["data", "streamed"])
def test_a_black_border_is_that_of_torchvisions_crop_of_the_picture(request, source, data, runtime):
    """Padded in uint8 and sliced; the mean color is another border, and what is inside the same."""
    views = replace(PADDED, roll=0, flip=False, border="black")
    found = request.getfixturevalue(source)
    black = joined(in_order(found, views, 16, runtime))
    seen = joined(in_order(found, replace(views, border="mean"), 16, runtime))
    alike = ((black - seen).abs().amax(dim=1) < 1e-5).flatten(1).float().mean(dim=1)
    assert alike.min() > 0.5
    mean, std = (torch.tensor(v)[:, None, None] for v in astuple(data.normalization))
    grey, edges = (black * std + mean) * 255, 0
    for picture, ours in zip(data.train.images, grey, strict=True):
        padded = F.pad(picture, [2] * 4).float()
        cut = padded.unfold(1, 8, 1).unfold(2, 8, 1).permute(1, 2, 0, 3, 4).flatten(0, 1)
        distance = (cut - ours).abs().amax(dim=(1, 2, 3))
        assert distance.min() < 1e-3
        edges += int(distance.argmin()) != 12  # 2 x 5 + 2: not shifted
    assert edges > 25


@pytest.mark.parametrize("crop", ["none", "resized"])
def test_a_border_is_there_for_padded_crops_alone(crop, data, streamed, runtime):
    views = replace(PADDED, crop=crop)
    for source in (data, streamed):
        black = epoch(source, replace(views, border="black"), 16, runtime)
        assert same(black, epoch(source, views, 16, runtime))


@pytest.mark.parametrize(
    "roll",
    [
        0,
        5,
    ],
)
def test_resized_crops_of_files_are_the_drawn_ones(data, streamed, runtime, roll):
    views = replace(RESIZED, roll=roll)
    seen = joined(in_order(streamed, views, 40, runtime))
    for index, picture in enumerate(data.train.images):
        drawn = sample_views(1, 8, 8, runtime.generator("test", 0, index), views)
        mean, std = (
            torch.tensor(v, dtype=torch.float64)[:, None, None] for v in astuple(data.normalization)
        )
        grey = (seen[index] * std + mean) * 255
        torch.testing.assert_close(grey, seen_by_reference(picture, drawn), rtol=0, atol=1.001)


def test_plain_batches__each_picture_once_in_order(data, runtime):
    batches = list(plain_batches(data, data.test, 5, runtime, workers=0))
    assert [len(labels) for _, labels in batches] == [5, 5, 5, 1]  # also a last one alone
    mean, std = (torch.tensor(part)[:, None, None] for part in astuple(data.normalization))
    pixels = joined(batches).double() * std + mean
    torch.testing.assert_close(pixels * 255, data.test.images.double(), rtol=0, atol=1e-3)
    assert torch.equal(torch.cat([labels for _, labels in batches]), data.test.labels)


def test_files_of_any_shape_are_brought_to_size(data, runtime, tmp_path):
    picture = Image.new("RGB", (30, 20), (10, 20, 30))
    picture.paste((200, 100, 50), (0, 0, 2, 20))  # cut off by the centre crop
    picture.save(tmp_path / "wide.png")
    split = Split(torch.tensor([0]), paths=(tmp_path / "wide.png",))
    ((pictures, _),) = plain_batches(data, split, 4, runtime, workers=0)
    expected = data.normalization.normalize(
        torch.tensor([10, 20, 30], dtype=torch.uint8)[:, None, None].expand(3, 8, 8)
    )
    assert torch.equal(pictures[0], expected)


@pytest.mark.parametrize("source", ["data", "streamed"])
def test_real_pictures_have_a_view_each_whatever_per_sample_says(request, source, runtime):
    data = request.getfixturevalue(source)
    alike = Split(
        torch.zeros(40, dtype=torch.long),
        images=None if data.train.images is None else data.train.images[:1].expand(40, 3, 8, 8),
        paths=None if data.train.paths is None else data.train.paths[:1] * 40,
    )
    views = replace(RESIZED, per_sample=False)
    batches = epoch(replace(data, train=alike), views, 5, runtime)
    each = epoch(replace(data, train=alike), RESIZED, 5, runtime)
    assert not any(bool((pictures == pictures[:1]).all()) for pictures, _ in batches)
    assert torch.equal(joined(batches), joined(each))


def test_gathered_images_are_the_chosen_ones(data, streamed):
    index = torch.randperm(40, generator=torch.Generator().manual_seed(0))[:12]
    chosen = gather_images(data, index)
    assert chosen.dtype == torch.uint8
    for picture, position in zip(chosen, index.tolist(), strict=True):
        assert torch.equal(picture, data.train.images[position])
    assert torch.equal(gather_images(streamed, index), chosen)


def test_no_gathered_images_have_their_shape(data, streamed):
    for pictures in (data, streamed):
        none = gather_images(pictures, torch.empty(0, dtype=torch.int64))
        assert (none.shape, none.dtype) == ((0, 3, 8, 8), torch.uint8)


def test_parts_of_pictures_are_all_of_them_a_few_at_a_time(data, monkeypatch):
    index = torch.randperm(40, generator=torch.Generator().manual_seed(0))[:12]
    monkeypatch.setattr(loading, "PART_BYTES", 5 * 3 * 8 * 8 + 1)
    parts = list(picture_parts(data, index))
    assert [len(places) for places, _ in parts] == [5, 5, 2]
    assert torch.cat([places for places, _ in parts]).tolist() == list(range(12))
    assert torch.equal(torch.cat([part for _, part in parts]), gather_images(data, index))
    monkeypatch.setattr(loading, "PART_BYTES", 1)  # one at least
    assert len(list(picture_parts(data, index))) == 12


def test_packed_paths__are_the_paths_and_small_in_another_process():
    paths = [Path(f"/somewhere/class {n % 7}/Ünïcode_{n}.JPEG") for n in range(2000)]
    packed = PackedPaths(paths)
    sent = pickle.dumps(packed)
    found = pickle.loads(sent)  # noqa: S301  # our own bytes, as multiprocessing hands them over
    assert len(found) == 2000
    assert [found[index] for index in range(2000)] == paths
    assert len(sent) < sum(len(os.fsencode(path)) + 9 for path in paths)
    assert len(PackedPaths([])) == 0
