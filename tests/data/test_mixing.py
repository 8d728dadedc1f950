"""Mixing: what it does to pixels, against loops and known answers, and the laws it follows."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gvbsm.data.mixing import (
    Mixes,
    apply_cells,
    apply_mixes,
    apply_shares,
    kept_share,
    sample_cells,
    sample_mixes,
    sample_shares,
)
from support import reference
from support.draws import generator, noise, within

bounded = settings(derandomize=True, max_examples=25)

# CutMix


def test_mixes_select__takes_partners_and_boxes():
    partners = torch.tensor([2, 0, 1])
    mixes = Mixes(partners, torch.arange(12).view(3, 4)).select(torch.tensor([2, 0]))
    assert mixes.partners.tolist() == [1, 2]
    assert mixes.boxes.tolist() == [[8, 9, 10, 11], [0, 1, 2, 3]]


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
    images = noise(5)
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
    images = noise(40)
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
    images, partners = noise(2).requires_grad_(), noise(2, seed=1).requires_grad_()
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
    images = noise(2, 2, 4, 6).requires_grad_()
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
    images, others = noise(4).requires_grad_(), noise(4, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(lambda x, y: apply_shares(x, y, shares), (images, others))
