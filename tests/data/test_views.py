"""Views and mixes: what they do to pixels, against loops and torchvision; the laws they follow."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.transforms import InterpolationMode, RandomResizedCrop
from torchvision.transforms import functional as tv

from gvbsm.data.views import (
    Mixes,
    Views,
    apply_cells,
    apply_mixes,
    apply_shares,
    apply_views,
    kept_share,
    resize,
    sample_cells,
    sample_mixes,
    sample_shares,
    sample_views,
)
from support import reference

bounded = settings(deadline=None, derandomize=True, max_examples=25)

PAPER = {"padding": 0, "scale": (0.08, 1.0), "ratio": (3 / 4, 4 / 3), "flip": True, "roll": 0}


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def pictures(count=3, channels=2, height=7, width=10, seed=0, dtype=torch.float64):
    shape = (count, channels, height, width)
    return torch.randn(shape, generator=generator(seed), dtype=torch.float64).to(dtype)


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
    images = pictures(2, 3, *size, dtype=dtype)
    views = views_of([[0, 0, *size]] * 2)
    tolerance = {torch.float32: 1e-5, torch.float64: 1e-13}[dtype]
    seen = apply_views(images, views)
    assert seen.dtype == dtype
    torch.testing.assert_close(seen, images, rtol=0, atol=tolerance)


@pytest.mark.parametrize("flip", [False, True])
def test_apply_views__a_padded_crop_equals_padding_and_slicing(flip):
    shifts = [[top, left] for top in range(-4, 5, 2) for left in range(-4, 5)]
    images = pictures(len(shifts))
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
    images, color = pictures(1), torch.tensor([-3.0, 2.5], dtype=torch.float64)
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
    h = data.draw(st.integers(1, height))
    w = data.draw(st.integers(1, width))
    top = data.draw(st.integers(0, height - h))
    left = data.draw(st.integers(0, width - w))
    images = pictures(1, 2, height, width)
    expected = tv.resized_crop(
        images, top, left, h, w, [height, width], InterpolationMode.BILINEAR, antialias=antialias
    )
    expected = tv.hflip(expected) if flip else expected
    seen = apply_views(images, views_of([[top, left, h, w]], [flip]))
    torch.testing.assert_close(seen, expected, rtol=0, atol=1e-11)


def test_apply_views__a_resized_crop_equals_torchvision_in_float32():
    images = pictures(6, 3, 32, 32, dtype=torch.float32)
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
    images, views = pictures(5, 2, *size), random_views(5, *size, seed=3)
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
    images = pictures(2, height=7, width=7)
    expected = tv.resize(images, [side, side], InterpolationMode.BILINEAR, antialias=True)
    torch.testing.assert_close(resize(images, side), expected, rtol=0, atol=1e-12)
    assert (resize(images, side) is images) == (side == 7)


def test_apply_views__rolls_shift_each_picture_like_torch_roll():
    shifts = [[0, 0], [1, 0], [0, 3], [6, 9], [7, 10], [15, 32], [2, 5]]
    images = pictures(len(shifts))
    seen = apply_views(images, views_of([[0, 0, 7, 10]] * len(shifts), rolls=shifts))
    for image, shift, ours in zip(images, shifts, seen, strict=True):
        torch.testing.assert_close(ours, image.roll(shift, dims=(1, 2)), rtol=0, atol=1e-12)


def test_apply_views__the_roll_comes_before_the_crop():
    images = pictures(1)
    views = views_of([[1, -2, 7, 10]], rolls=[[3, 4]])
    expected = reference.pad_and_slice(images[0].roll((3, 4), dims=(1, 2)), 1, -2, padding=2)
    torch.testing.assert_close(apply_views(images, views)[0], expected, rtol=0, atol=1e-12)


@bounded
@given(seed=st.integers(0, 1000))
def test_apply_views__mirroring_twice_is_the_identity(seed):
    images = pictures(2, 1, 5, 6, seed=seed)
    mirrored = views_of([[0, 0, 5, 6]] * 2, [True, False])
    torch.testing.assert_close(apply_views(images, mirrored)[0], images[0].flip(2))
    torch.testing.assert_close(apply_views(apply_views(images, mirrored), mirrored), images)


def test_apply_views__gradcheck():
    views = random_views(3, 4, 5, seed=1)
    padded = views_of([[-1, 2, 4, 5], [0, 0, 4, 5], [1, -1, 4, 5]], [False, True, True])
    for chosen in (views, padded):
        images = pictures(3, 2, 4, 5).requires_grad_()
        assert torch.autograd.gradcheck(lambda x, v=chosen: apply_views(x, v), images)


def test_apply_views__gradient_is_the_transpose_of_the_reference():
    images, views = pictures(4), random_views(4, 7, 10, seed=5)
    images.requires_grad_()
    twin = images.detach().clone().requires_grad_()
    weights = pictures(4, seed=9)
    (gradient,) = torch.autograd.grad(apply_views(images, views), images, weights)
    (expected,) = torch.autograd.grad(viewed_by_reference(twin, views), twin, weights)
    torch.testing.assert_close(gradient, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("crop", ["resized", "pad"])
@pytest.mark.parametrize(("height", "width"), [(13, 13), (28, 28), (7, 11), (32, 32)])
def test_apply_views__pixels_outside_of_the_crop_have_no_gradient(crop, height, width):
    generator = torch.Generator().manual_seed(3)
    arguments = {"scale": (0.08, 1.0), "ratio": (0.75, 4 / 3), "roll": 0, "per_sample": True}
    views = sample_views(64, height, width, generator, crop=crop, padding=3, flip=True, **arguments)
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
    images = pictures(2)
    views = views_of([[0, 0, 7, 10]] * 2, rolls=[[0, 3 * rolled]] * 2)
    before, kept = images.clone(), [part.clone() for part in views]
    apply_views(images, views).zero_()
    assert torch.equal(images, before)
    assert all(torch.equal(a, b) for a, b in zip(views, kept, strict=True))


def test_views_select__applies_the_same_view_to_the_same_picture():
    images, views = pictures(6), random_views(6, 7, 10)
    index = torch.tensor([4, 0, 4])
    together = apply_views(images, views)[index]
    assert torch.equal(apply_views(images[index], views.select(index)), together)
    partners = torch.tensor([2, 0, 1])
    mixes = Mixes(partners, torch.arange(12).view(3, 4)).select(torch.tensor([2, 0]))
    assert mixes.partners.tolist() == [1, 2]
    assert mixes.boxes.tolist() == [[8, 9, 10, 11], [0, 1, 2, 3]]


# Drawing views


def within(mean, expected, deviation, count):
    """A sample mean within four standard errors."""
    return abs(mean - expected) <= 4 * deviation / math.sqrt(count)


def test_sample_views__none_of_everything_is_the_identity():
    views = sample_views(
        5,
        7,
        10,
        generator(),
        crop="none",
        padding=4,
        scale=(1, 1),
        ratio=(1, 1),
        flip=False,
        roll=0,
    )
    assert views.boxes.tolist() == [[0, 0, 7, 10]] * 5
    assert not views.flips.any()
    assert views.rolls.tolist() == [[0, 0]] * 5
    assert [part.dtype for part in views] == [torch.int64, torch.bool, torch.int64]


def test_sample_views__pad_shifts_uniformly_by_up_to_the_padding():
    views = sample_views(
        9000, 32, 24, generator(), crop="pad", **{**PAPER, "padding": 4, "flip": False}
    )
    assert (views.boxes[:, 2:] == torch.tensor([32, 24])).all()
    for axis in range(2):
        values, counts = views.boxes[:, axis].unique(return_counts=True)
        assert values.tolist() == list(range(-4, 5))
        assert all(within(c / 9000, 1 / 9, math.sqrt(8) / 9, 9000) for c in counts.tolist())
    agree = (views.boxes[:, 0] == views.boxes[:, 1]).double().mean().item()
    assert within(agree, 1 / 9, math.sqrt(8) / 9, 9000)  # the axes are drawn apart


def test_sample_views__rolls_reach_both_ends_of_their_range():
    views = sample_views(4000, 8, 8, generator(), crop="none", **{**PAPER, "roll": 5})
    for axis in range(2):
        assert views.rolls[:, axis].unique().tolist() == list(range(6))
    assert within(views.rolls.double().mean().item(), 2.5, 1.71, 8000)


@pytest.mark.parametrize(("flip", "share"), [(True, 0.5), (False, 0.0)])
def test_sample_views__flips_half_of_the_pictures_or_none(flip, share):
    views = sample_views(4000, 8, 8, generator(), crop="none", **{**PAPER, "flip": flip})
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
    options = {**PAPER, "scale": scale, "ratio": ratio}
    boxes = sample_views(200, height, width, generator(), crop="resized", **options).boxes
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
    options = {**PAPER, "scale": scale, "ratio": ratio}
    ours = sample_views(count, height, width, generator(), crop="resized", **options).boxes.double()
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


@pytest.mark.parametrize(
    ("height", "width", "ratio"),
    [(40, 10, (3 / 4, 4 / 3)), (10, 41, (3 / 4, 4 / 3)), (30, 31, (0.2, 0.25)), (31, 30, (1, 1.2))],
)
def test_sample_views__where_no_try_fits_the_fallback_is_torchvisions(height, width, ratio):
    scale = (1.5, 1.6)  # larger than the picture: all tries fail
    options = {**PAPER, "scale": scale, "ratio": ratio}
    boxes = sample_views(3, height, width, generator(), crop="resized", **options).boxes
    canvas = torch.empty(1, height, width)
    with torch.random.fork_rng(devices=[]):
        expected = RandomResizedCrop.get_params(canvas, list(scale), list(ratio))
    assert boxes.tolist() == [list(expected)] * 3


@pytest.mark.parametrize("crop", ["none", "pad", "resized"])
@pytest.mark.parametrize("per_sample", [True, False])
def test_sample_views__are_a_pure_function_of_the_generator(crop, per_sample):
    options = {**PAPER, "padding": 4, "roll": 9, "crop": crop, "per_sample": per_sample}
    state = torch.get_rng_state()
    first = sample_views(40, 16, 16, generator(7), **options)
    torch.manual_seed(0)
    again = sample_views(40, 16, 16, generator(7), **options)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    other = sample_views(40, 16, 16, generator(8), **options)
    assert not all(torch.equal(a, b) for a, b in zip(first, other, strict=True))
    torch.set_rng_state(state)
    sample_views(40, 16, 16, generator(7), **options)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("crop", ["pad", "resized"])
def test_sample_views__per_sample_false_gives_one_draw(crop):
    options = {**PAPER, "padding": 4, "roll": 9, "crop": crop}
    shared = sample_views(30, 16, 16, generator(), **options, per_sample=False)
    apart = sample_views(30, 16, 16, generator(), **options, per_sample=True)
    for one, many in zip(shared, apart, strict=True):
        assert one.shape == many.shape
        assert len(one.unique(dim=0)) == 1
        assert len(many.unique(dim=0)) > 1
    draws = {
        tuple(sample_views(2, 16, 16, generator(i), **options, per_sample=False).boxes[0].tolist())
        for i in range(20)
    }
    assert len(draws) > 5


# Mixes


def test_sample_mixes__partners_are_a_permutation():
    mixes = sample_mixes(50, 32, 32, 1.0, generator(), per_sample=True)
    assert mixes.partners.sort().values.tolist() == list(range(50))
    assert mixes.partners.tolist() != list(range(50))
    other = sample_mixes(50, 32, 32, 1.0, generator(1), per_sample=True)
    assert not torch.equal(mixes.partners, other.partners)


def test_sample_mixes__cutmix_zero_mixes_nothing():
    mixes = sample_mixes(5, 7, 10, 0.0, generator(), per_sample=True)
    assert mixes.partners.sort().values.tolist() == list(range(5))
    assert mixes.boxes.shape == (5, 4)
    assert torch.equal(kept_share(mixes.boxes, 7, 10), torch.ones(5))
    images = pictures(5)
    assert torch.equal(apply_mixes(images, images[mixes.partners], mixes.boxes), images)


@bounded
@given(height=st.integers(1, 40), width=st.integers(1, 40), cutmix=st.sampled_from([0.2, 1.0, 5.0]))
def test_sample_mixes__boxes_lie_inside_of_the_picture(height, width, cutmix):
    boxes = sample_mixes(200, height, width, cutmix, generator(), per_sample=True).boxes
    top, left, h, w = boxes.unbind(dim=1)
    assert (boxes >= 0).all()
    assert (top + h <= height).all()
    assert (left + w <= width).all()
    share = kept_share(boxes, height, width)
    assert (share >= 0).all()
    assert (share <= 1).all()


@pytest.mark.parametrize("cutmix", [0.2, 1.0, 5.0])
def test_sample_mixes__boxes_follow_the_law_of_the_cut(cutmix):
    count, height, width = 20_000, 3000, 2000  # so large that whole pixels do not matter
    boxes = sample_mixes(count, height, width, cutmix, generator(), per_sample=True).boxes.double()
    h, w = boxes[:, 2] / height, boxes[:, 3] / width
    side, squared, area = reference.cut_moments(cutmix)
    for sample, expected in ((h, side), (w, side), (h**2, squared), (w**2, squared), (h * w, area)):
        assert within(sample.mean().item(), expected, sample.std().item() + 0.1, count)
    centres = (boxes[:, :2] + boxes[:, 2:] / 2) / torch.tensor([height, width])
    for axis in range(2):
        assert within(centres[:, axis].mean().item(), 0.5, 0.3, count)


def test_sample_mixes__the_uniform_cut_has_known_moments():
    # Beta(1, 1): sides 13/24, squared sides 1/3 and areas 77/240 of the picture on average.
    assert reference.cut_moments(1.0) == pytest.approx((13 / 24, 1 / 3, 77 / 240), rel=1e-12)


def test_sample_mixes__the_share_of_an_unclipped_cut_is_uniform():
    # A cut of side c stays unclipped with probability (1 - c)^2; weighted by its inverse, the share
    # c^2 of all cuts is uniform again.
    count, height, width = 40_000, 4000, 3000
    boxes = sample_mixes(count, height, width, 1.0, generator(3), per_sample=True).boxes.double()
    limits = torch.tensor([height, width])
    inside = ((boxes[:, :2] > 0) & (boxes[:, :2] + boxes[:, 2:] < limits)).all(dim=1)
    c = boxes[inside, 2] / height
    assert ((c - boxes[inside, 3] / width).abs() <= 2 / width).all()  # the picture's own aspect
    small = c < 0.7  # beyond it hardly any cut stays unclipped
    weights = (1 - c[small]).pow(-2) / count
    for power, expected in ((0, 0.7**2), (2, 0.7**4 / 2), (4, 0.7**6 / 3)):
        assert (weights * c[small] ** power).sum().item() == pytest.approx(expected, rel=0.04)


def test_sample_mixes__are_a_pure_function_of_the_generator():
    state = torch.get_rng_state()
    first = sample_mixes(40, 16, 16, 1.0, generator(7), per_sample=True)
    again = sample_mixes(40, 16, 16, 1.0, generator(7), per_sample=True)
    other = sample_mixes(40, 16, 16, 1.0, generator(8), per_sample=True)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first.boxes, other.boxes)
    assert torch.equal(torch.get_rng_state(), state)


def test_sample_mixes__per_sample_false_gives_one_box():
    shared = sample_mixes(30, 32, 32, 1.0, generator(), per_sample=False)
    apart = sample_mixes(30, 32, 32, 1.0, generator(), per_sample=True)
    assert shared.boxes.shape == apart.boxes.shape == (30, 4)
    assert len(shared.boxes.unique(dim=0)) == 1
    assert len(apart.boxes.unique(dim=0)) > 20
    assert len(shared.partners.unique()) == 30


def test_apply_mixes__equals_the_reference():
    images = pictures(40)
    mixes = sample_mixes(40, 7, 10, 1.0, generator(2), per_sample=True)
    mixed = apply_mixes(images, images[mixes.partners], mixes.boxes)
    expected = [
        reference.paste(image, images[partner], *box)
        for image, partner, box in zip(
            images, mixes.partners.tolist(), mixes.boxes.tolist(), strict=True
        )
    ]
    assert torch.equal(mixed, torch.stack(expected))
    assert not torch.equal(mixed, images)


def test_apply_mixes__known_answer_and_kept_share():
    box = torch.tensor([[1, 2, 2, 1], [0, 0, 3, 4], [1, 1, 0, 3]])
    views, partners = torch.zeros(3, 1, 3, 4), torch.ones(3, 1, 3, 4)
    mixed = apply_mixes(views, partners, box)
    assert mixed[0, 0].tolist() == [[0, 0, 0, 0], [0, 0, 1, 0], [0, 0, 1, 0]]
    assert mixed[1].min() == 1
    assert mixed[2].max() == 0
    torch.testing.assert_close(kept_share(box, 3, 4), torch.tensor([10 / 12, 0.0, 1.0]))


def test_kept_share__is_the_share_of_pixels_left_in_place():
    mixes = sample_mixes(60, 7, 10, 1.0, generator(4), per_sample=True)
    left = 1 - apply_mixes(torch.zeros(60, 1, 7, 10), torch.ones(60, 1, 7, 10), mixes.boxes)
    torch.testing.assert_close(kept_share(mixes.boxes, 7, 10), left.mean(dim=(1, 2, 3)))


def test_apply_mixes__leaves_its_inputs_alone_and_passes_gradients_to_both():
    images, partners = pictures(2).requires_grad_(), pictures(2, seed=1).requires_grad_()
    before = images.detach().clone(), partners.detach().clone()
    boxes = torch.tensor([[1, 2, 3, 4], [0, 0, 0, 0]])
    mixed = apply_mixes(images, partners, boxes)
    mixed.sum().backward()
    mixed.detach().zero_()
    assert torch.equal(images.detach(), before[0])
    assert torch.equal(partners.detach(), before[1])
    assert partners.grad.sum().item() == 2 * 12
    assert torch.equal(images.grad + partners.grad, torch.ones_like(images))


# Patch shuffle and Mixup


def test_sample_cells__are_uniform_permutations():
    cells = sample_cells(4000, 2, generator(), per_sample=True)
    assert (cells.sort(dim=1).values == torch.arange(4)).all()
    for place in range(4):
        for cell in range(4):
            share = (cells[:, place] == cell).double().mean().item()
            assert within(share, 0.25, 0.433, 4000)
    shared = sample_cells(30, 3, generator(), per_sample=False)
    assert shared.shape == (30, 9)
    assert len(shared.unique(dim=0)) == 1


def test_apply_cells__known_answer_and_gradients():
    views = torch.arange(16.0, dtype=torch.float64).view(1, 1, 4, 4).requires_grad_()
    moved = apply_cells(views, torch.tensor([[3, 0, 1, 2]]))
    assert moved[0, 0].tolist() == [[10, 11, 0, 1], [14, 15, 4, 5], [2, 3, 8, 9], [6, 7, 12, 13]]
    cells = sample_cells(2, 2, generator(4), per_sample=True)
    images = pictures(2, 2, 4, 6).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: apply_cells(x, cells), images)
    same = torch.arange(4).expand(2, 4)
    assert torch.equal(apply_cells(images, same), images)


@pytest.mark.parametrize("mixup", [0.2, 1.0, 5.0])
def test_sample_shares__follow_their_law(mixup):
    count = 8000
    shares = sample_shares(count, mixup, generator(), half=False, per_sample=True)
    assert 0 <= int(shares.min()) <= int(shares.max()) <= 255
    found = shares.double() / 255
    variance = 1 / (4 * (2 * mixup + 1))  # of Beta(a, a)
    assert within(found.mean().item(), 0.5, math.sqrt(variance), count)
    assert found.var().item() == pytest.approx(variance, rel=0.05)
    halved = sample_shares(count, mixup, generator(), half=True, per_sample=True)
    assert within((halved < 0).double().mean().item(), 0.5, 0.5, count)
    assert torch.equal(halved[halved >= 0], shares[halved >= 0])
    assert len(sample_shares(9, mixup, generator(), half=True, per_sample=False).unique()) == 1


def test_apply_shares__known_answer_and_gradients_to_both():
    views, partners = torch.zeros(4, 1, 2, 2), torch.full((4, 1, 2, 2), 255.0)
    shares = torch.tensor([-1, 0, 51, 255])
    assert apply_shares(views, partners, shares)[:, 0, 0, 0].tolist() == [0, 0, 51, 255]
    images, others = pictures(4).requires_grad_(), pictures(4, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(lambda x, y: apply_shares(x, y, shares), (images, others))
