"""Views: what they do to pixels, against loops and torchvision, and the laws they follow."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.transforms import InterpolationMode, RandomResizedCrop
from torchvision.transforms import functional as tv

from gvbsm.config import ViewConfig
from gvbsm.data.views import Views, apply_views, resize, sample_views
from support import reference
from support.draws import generator, noise, within

bounded = settings(derandomize=True, max_examples=25)

PAPER = ViewConfig(crop="resized", scale=(0.08, 1.0), ratio=(3 / 4, 4 / 3), flip=True, roll=0)


def views_of(boxes, flips=None, rolls=None):
    """Views from lists; no flip and no roll unless given."""
    count = len(boxes)
    flips = [False] * count if flips is None else flips
    rolls = [[0, 0]] * count if rolls is None else rolls
    return Views(torch.tensor(boxes), torch.tensor(flips), torch.tensor(rolls))


def random_views(count, height, width, seed=0):
    """A resized crop inside of each picture, mirrored or not, after a roll of any length."""
    g = generator(seed)
    boxes = []
    for _ in range(count):
        h = int(torch.randint(1, height + 1, (), generator=g))
        w = int(torch.randint(1, width + 1, (), generator=g))
        top = int(torch.randint(height - h + 1, (), generator=g))
        boxes.append([top, int(torch.randint(width - w + 1, (), generator=g)), h, w])
    flips = torch.rand(count, generator=g) < 0.5
    return Views(torch.tensor(boxes), flips, torch.randint(0, 2 * width, (count, 2), generator=g))


def viewed_by_reference(images, views):
    """Roll, resized crop, mirror: each picture through the loops."""
    out = []
    for image, box, flip, shift in zip(images, *(part.tolist() for part in views), strict=True):
        image = reference.resized_crop(reference.roll(image, *shift), *box)
        out.append(reference.mirror(image) if flip else image)
    return torch.stack(out)


# Applying views


@pytest.mark.parametrize("size", [(7, 10), (32, 32), (1, 1), (33, 47)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_apply_views__the_identity_returns_the_picture(size, dtype):
    images = noise(2, 3, *size, dtype=dtype)
    views = views_of([[0, 0, *size]] * 2)
    tolerance = {torch.float32: 1e-5, torch.float64: 1e-13}[dtype]
    seen = apply_views(images, views)
    assert seen.dtype == dtype
    torch.testing.assert_close(seen, images, rtol=0, atol=tolerance)


@pytest.mark.parametrize("flip", [False, True])
def test_apply_views__a_padded_crop_equals_padding_and_slicing(flip):
    shifts = [[top, left] for top in range(-4, 5, 2) for left in range(-4, 5)]
    images = noise(len(shifts))
    views = views_of([[*shift, 7, 10] for shift in shifts], [flip] * len(shifts))
    seen = apply_views(images, views)
    for image, shift, ours in zip(images, shifts, seen, strict=True):
        expected = reference.pad_and_slice(image, *shift, padding=4)
        expected = reference.mirror(expected) if flip else expected
        torch.testing.assert_close(ours, expected, rtol=0, atol=1e-12)


def test_apply_views__pixels_outside_of_the_picture_are_zero():
    seen = apply_views(torch.ones(1, 1, 4, 4, dtype=torch.float64), views_of([[2, -1, 4, 4]]))
    expected = torch.tensor([[0.0, 1, 1, 1], [0, 1, 1, 1], [0, 0, 0, 0], [0, 0, 0, 0]])
    torch.testing.assert_close(seen[0, 0], expected.double(), rtol=0, atol=1e-12)


@pytest.mark.parametrize("flip", [False, True])
def test_apply_views__outside_of_the_picture_is_what_is_asked_for(flip):
    """As if a picture had been padded with that color, a channel each, and then sliced."""
    images, color = noise(1), torch.tensor([-3.0, 2.5], dtype=torch.float64)
    wide = color[:, None, None].expand(2, 11, 14).clone()
    wide[:, 2:9, 2:12] = images[0]
    seen = apply_views(images, views_of([[2, -1, 7, 10]], [flip]), color.view(1, 2, 1, 1))
    expected = wide[:, 4:11, 1:11]
    expected = reference.mirror(expected) if flip else expected
    torch.testing.assert_close(seen[0], expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("antialias", [False, True])
@bounded
@given(data=st.data(), height=st.integers(1, 12), width=st.integers(1, 12), flip=st.booleans())
def test_apply_views__a_resized_crop_equals_torchvision(antialias, data, height, width, flip):
    # A crop is never larger than the picture, so it is scaled up and antialiasing changes nothing.
    width += antialias  # torch's antialiased resize is wrong where the width is 1 and stays 1
    h = data.draw(st.integers(1, height))
    w = data.draw(st.integers(1, width))
    top = data.draw(st.integers(0, height - h))
    left = data.draw(st.integers(0, width - w))
    images = noise(1, 2, height, width)
    expected = tv.resized_crop(
        images, top, left, h, w, [height, width], InterpolationMode.BILINEAR, antialias=antialias
    )
    expected = tv.hflip(expected) if flip else expected
    seen = apply_views(images, views_of([[top, left, h, w]], [flip]))
    torch.testing.assert_close(seen, expected, rtol=0, atol=1e-11)


def test_apply_views__a_resized_crop_equals_torchvision_in_float32():
    images = noise(6, 3, 32, 32, dtype=torch.float32)
    views = random_views(6, 32, 32)._replace(rolls=torch.zeros(6, 2, dtype=torch.long))
    seen = apply_views(images, views)
    for image, box, flip, ours in zip(
        images, views.boxes.tolist(), views.flips.tolist(), seen, strict=True
    ):
        expected = tv.resized_crop(image[None], *box, [32, 32], antialias=False)[0]
        expected = tv.hflip(expected) if flip else expected
        torch.testing.assert_close(ours, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("size", [(7, 10), (9, 4)])
def test_apply_views__roll_crop_and_mirror_equal_the_reference(size):
    images, views = noise(5, 2, *size), random_views(5, *size, seed=3)
    assert 0 < views.flips.sum() < 5
    assert views.rolls.any(dim=1).all()
    expected = viewed_by_reference(images, views)
    torch.testing.assert_close(apply_views(images, views), expected, rtol=0, atol=1e-12)


def test_apply_views__a_resized_crop_does_not_look_beyond_its_edge():
    images = torch.full((1, 1, 8, 8), 100.0, dtype=torch.float64)
    images[:, :, 2:5, 3:5] = 1.0
    seen = apply_views(images, views_of([[2, 3, 3, 2]]))
    torch.testing.assert_close(seen, torch.ones_like(seen), rtol=0, atol=1e-11)


@pytest.mark.parametrize("side", [3, 7, 20])
def test_resize__equals_torchvision_and_keeps_what_has_the_side(side):
    images = noise(2, height=7, width=7)
    expected = tv.resize(images, [side, side], InterpolationMode.BILINEAR, antialias=True)
    torch.testing.assert_close(resize(images, side), expected, rtol=0, atol=1e-12)
    assert (resize(images, side) is images) == (side == 7)


def test_apply_views__rolls_shift_each_picture_like_torch_roll():
    shifts = [[0, 0], [1, 0], [0, 3], [6, 9], [7, 10], [15, 32], [2, 5]]
    images = noise(len(shifts))
    seen = apply_views(images, views_of([[0, 0, 7, 10]] * len(shifts), rolls=shifts))
    for image, shift, ours in zip(images, shifts, seen, strict=True):
        torch.testing.assert_close(ours, image.roll(shift, dims=(1, 2)), rtol=0, atol=1e-12)


def test_apply_views__the_roll_comes_before_the_crop():
    images = noise(1)
    views = views_of([[1, -2, 7, 10]], rolls=[[3, 4]])
    expected = reference.pad_and_slice(images[0].roll((3, 4), dims=(1, 2)), 1, -2, padding=2)
    torch.testing.assert_close(apply_views(images, views)[0], expected, rtol=0, atol=1e-12)


@bounded
@given(seed=st.integers(0, 1000))
def test_apply_views__mirroring_twice_is_the_identity(seed):
    images = noise(2, 1, 5, 6, seed=seed)
    mirrored = views_of([[0, 0, 5, 6]] * 2, [True, False])
    torch.testing.assert_close(apply_views(images, mirrored)[0], images[0].flip(2))
    torch.testing.assert_close(apply_views(apply_views(images, mirrored), mirrored), images)


def test_apply_views__gradcheck():
    views = random_views(3, 4, 5, seed=1)
    padded = views_of([[-1, 2, 4, 5], [0, 0, 4, 5], [1, -1, 4, 5]], [False, True, True])
    for chosen in (views, padded):
        images = noise(3, 2, 4, 5).requires_grad_()
        assert torch.autograd.gradcheck(lambda x, v=chosen: apply_views(x, v), images)


def test_apply_views__gradient_is_the_transpose_of_the_reference():
    images, views = noise(4), random_views(4, 7, 10, seed=5)
    images.requires_grad_()
    twin = images.detach().clone().requires_grad_()
    weights = noise(4, seed=9)
    (gradient,) = torch.autograd.grad(apply_views(images, views), images, weights)
    (expected,) = torch.autograd.grad(viewed_by_reference(twin, views), twin, weights)
    torch.testing.assert_close(gradient, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("crop", ["resized", "pad"])
@pytest.mark.parametrize(("height", "width"), [(13, 13), (28, 28), (7, 11), (32, 32)])
def test_apply_views__pixels_outside_of_the_crop_have_no_gradient(crop, height, width):
    generator = torch.Generator().manual_seed(3)
    views = sample_views(64, height, width, generator, replace(PAPER, crop=crop, padding=3))
    images = torch.randn(64, 2, height, width, generator=generator).requires_grad_()
    weights = torch.rand(64, 2, height, width, generator=generator) + 0.5
    (gradient,) = torch.autograd.grad((apply_views(images, views) * weights).sum(), images)
    for number, (top, left, tall, wide) in enumerate(views.boxes.tolist()):
        rows, columns = slice(max(top, 0), top + tall), slice(max(left, 0), left + wide)
        assert (gradient[number, :, rows, columns] > 0).all()
        gradient[number, :, rows, columns] = 0
    assert gradient.count_nonzero() == 0


@pytest.mark.parametrize("rolled", [False, True])
def test_apply_views__leaves_its_inputs_alone_and_returns_new_memory(rolled):
    images = noise(2)
    views = views_of([[0, 0, 7, 10]] * 2, rolls=[[0, 3 * rolled]] * 2)
    before, kept = images.clone(), [part.clone() for part in views]
    apply_views(images, views).zero_()
    assert torch.equal(images, before)
    assert all(torch.equal(a, b) for a, b in zip(views, kept, strict=True))


def test_views_select__applies_the_same_view_to_the_same_picture():
    images, views = noise(6), random_views(6, 7, 10)
    index = torch.tensor([4, 0, 4])
    together = apply_views(images, views)[index]
    assert torch.equal(apply_views(images[index], views.select(index)), together)


# Drawing views


def test_sample_views__none_of_everything_is_the_identity():
    views = sample_views(5, 7, 10, generator(), ViewConfig(crop="none", flip=False))
    assert views.boxes.tolist() == [[0, 0, 7, 10]] * 5
    assert not views.flips.any()
    assert views.rolls.tolist() == [[0, 0]] * 5
    assert [part.dtype for part in views] == [torch.int64, torch.bool, torch.int64]


def test_sample_views__pad_shifts_uniformly_by_up_to_the_padding():
    padded = ViewConfig(crop="pad", padding=4, flip=False)
    views = sample_views(9000, 32, 24, generator(), padded)
    assert (views.boxes[:, 2:] == torch.tensor([32, 24])).all()
    for axis in range(2):
        values, counts = views.boxes[:, axis].unique(return_counts=True)
        assert values.tolist() == list(range(-4, 5))
        assert all(within(c / 9000, 1 / 9, math.sqrt(8) / 9, 9000) for c in counts.tolist())
    agree = (views.boxes[:, 0] == views.boxes[:, 1]).double().mean().item()
    assert within(agree, 1 / 9, math.sqrt(8) / 9, 9000)  # the axes are drawn apart


def test_sample_views__rolls_reach_both_ends_of_their_range():
    views = sample_views(4000, 8, 8, generator(), ViewConfig(crop="none", roll=5))
    for axis in range(2):
        assert views.rolls[:, axis].unique().tolist() == list(range(6))
    assert within(views.rolls.double().mean().item(), 2.5, 1.71, 8000)


@pytest.mark.parametrize(("flip", "share"), [(True, 0.5), (False, 0.0)])
def test_sample_views__flips_half_of_the_pictures_or_none(flip, share):
    views = sample_views(4000, 8, 8, generator(), ViewConfig(crop="none", flip=flip))
    assert within(views.flips.double().mean().item(), share, 0.5 * flip, 4000)


@bounded
@given(
    height=st.integers(8, 64),
    width=st.integers(8, 64),
    low=st.floats(0.05, 0.5),
    span=st.floats(0.0, 0.5),
    narrow=st.floats(0.5, 1.0),
    wide=st.floats(1.0, 2.0),
)
def test_sample_views__resized_boxes_keep_area_and_ratio(height, width, low, span, narrow, wide):
    scale, ratio = (low, low + span), (narrow, wide)
    config = replace(PAPER, scale=scale, ratio=ratio)
    boxes = sample_views(200, height, width, generator(), config).boxes
    top, left, h, w = boxes.unbind(dim=1)
    assert (h >= 1).all()
    assert (w >= 1).all()
    assert (top >= 0).all()
    assert (left >= 0).all()
    assert (top + h <= height).all()
    assert (left + w <= width).all()
    # Each side is rounded once, so the area and the ratio hold for sides up to 1/2 px apart.
    slack = 0.5 + 1e-3
    fallback = (h == min(height, round(width / narrow))) & (w == min(width, round(height * wide)))
    pixels = height * width
    fits = (h + slack) * (w + slack) >= scale[0] * pixels
    fits &= (h - slack) * (w - slack) <= scale[1] * pixels
    fits &= (w + slack) / (h - slack) >= ratio[0]
    fits &= (w - slack) / (h + slack) <= ratio[1]
    assert (fits | fallback).all()


@pytest.mark.parametrize(
    ("height", "width", "scale", "ratio"),
    [
        (32, 32, (0.08, 1.0), (3 / 4, 4 / 3)),  # tables 7-9
        (64, 48, (0.3, 0.9), (1 / 2, 4 / 3)),
        (24, 60, (0.5, 1.0), (3 / 4, 4 / 3)),  # most tries do not fit, many boxes are the fallback
    ],
)
def test_sample_views__resized_boxes_follow_torchvisions_law(height, width, scale, ratio):
    count = 4000
    config = replace(PAPER, scale=scale, ratio=ratio)
    ours = sample_views(count, height, width, generator(), config).boxes.double()
    canvas = torch.empty(1, height, width)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        drawn = [
            RandomResizedCrop.get_params(canvas, list(scale), list(ratio)) for _ in range(count)
        ]
    theirs = torch.tensor(drawn, dtype=torch.float64)

    def features(boxes):
        top, left, h, w = boxes.unbind(dim=1)
        area = h * w / (height * width)
        margin = (height - h, width - w)
        places = [top / margin[0].clamp(min=1), left / margin[1].clamp(min=1)]
        aspect = (w / h).log()
        whole = ((h == height) | (w == width)).double()
        return torch.stack([area, area**2, aspect, aspect**2, *places, places[0] ** 2, whole])

    a, b = features(ours), features(theirs)
    error = (a.var(dim=1) / count + b.var(dim=1) / count).sqrt()
    assert ((a.mean(dim=1) - b.mean(dim=1)).abs() <= 4 * error + 1e-12).all()


@pytest.mark.parametrize("per_sample", [True, False])
def test_sample_views__a_crop_lies_in_one_tile(per_sample):
    """All tiles are as likely, and within a tile the law is that of a picture of its size."""
    config = ViewConfig(scale=(0.2, 0.9), tiles=3, per_sample=per_sample)
    count = 4000
    views = sample_views(count, 24, 12, generator(4), config)
    top, left, height, width = views.boxes.T
    row, column = top // 8, left // 4
    assert bool(((top + height - 1) // 8 == row).all())
    assert bool(((left + width - 1) // 4 == column).all())
    if not per_sample:
        assert len(views.boxes.unique(dim=0)) == 1
        return
    shares = torch.bincount(3 * row + column, minlength=9) / count
    assert bool((shares - 1 / 9).abs().max() < 5 * (1 / 9 / count) ** 0.5)
    alone = sample_views(count, 8, 4, generator(4), replace(config, tiles=1))
    inside = views.boxes - torch.stack([8 * row, 4 * column, 0 * row, 0 * row], dim=1)
    assert torch.equal(inside, alone.boxes)


@pytest.mark.parametrize(
    ("height", "width", "ratio"),
    [(40, 10, (3 / 4, 4 / 3)), (10, 41, (3 / 4, 4 / 3)), (30, 31, (0.2, 0.25)), (31, 30, (1, 1.2))],
)
def test_sample_views__where_no_try_fits_the_fallback_is_torchvisions(height, width, ratio):
    scale = (1.5, 1.6)  # larger than the picture: all tries fail
    config = replace(PAPER, scale=scale, ratio=ratio)
    boxes = sample_views(3, height, width, generator(), config).boxes
    canvas = torch.empty(1, height, width)
    with torch.random.fork_rng(devices=[]):
        expected = RandomResizedCrop.get_params(canvas, list(scale), list(ratio))
    assert boxes.tolist() == [list(expected)] * 3


@pytest.mark.parametrize("crop", ["none", "pad", "resized"])
@pytest.mark.parametrize("per_sample", [True, False])
def test_sample_views__are_a_pure_function_of_the_generator(crop, per_sample):
    config = replace(PAPER, padding=4, roll=9, crop=crop, per_sample=per_sample)
    state = torch.get_rng_state()
    first = sample_views(40, 16, 16, generator(7), config)
    torch.manual_seed(0)
    again = sample_views(40, 16, 16, generator(7), config)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    other = sample_views(40, 16, 16, generator(8), config)
    assert not all(torch.equal(a, b) for a, b in zip(first, other, strict=True))
    torch.set_rng_state(state)
    sample_views(40, 16, 16, generator(7), config)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("crop", ["pad", "resized"])
def test_sample_views__per_sample_false_gives_one_draw(crop):
    config = replace(PAPER, padding=4, roll=9, crop=crop)
    once = replace(config, per_sample=False)
    shared = sample_views(30, 16, 16, generator(), once)
    apart = sample_views(30, 16, 16, generator(), config)
    for one, many in zip(shared, apart, strict=True):
        assert one.shape == many.shape
        assert len(one.unique(dim=0)) == 1
        assert len(many.unique(dim=0)) > 1
    draws = {
        tuple(sample_views(2, 16, 16, generator(i), once).boxes[0].tolist()) for i in range(20)
    }
    assert len(draws) > 5
