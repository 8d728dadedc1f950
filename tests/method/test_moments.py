"""Patches and counts, moments from sums, sums of parts, EMA; test_capture.py has the sums."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gvbsm.method.fast.sweeps import spread_patches
from gvbsm.method.moments import Sums, add, counts, ema, finalize, pool_patches
from support import reference

bounded = settings(derandomize=True, max_examples=40)
sizes = st.integers(1, 9)


def noise(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def sums_of(x, n_p):
    """Channel and patch `Sums` of a feature map in float64, by torch's own sums."""
    parts = []
    for level, each in zip(("channel", "patch"), counts(x.shape[1:], n_p), strict=True):
        powers = (x, x.square())
        if level == "channel":
            total, squares = (power.sum(dim=(0, 2, 3)) for power in powers)
        else:
            total, squares = (pool_patches(power.sum(dim=(0, 1)), n_p) for power in powers)
        parts.append(Sums(each * len(x), total, squares))
    return parts


# Patches and counts


def test_patches__known_answers():
    plane = torch.tensor([[1.0, 2.0, 6.0], [0.0, 0.0, 3.0], [5.0, 7.0, 11.0]])
    assert pool_patches(plane, 2).tolist() == [[3.0, 9.0], [12.0, 11.0]]
    assert pool_patches(plane, 3).tolist() == pool_patches(plane, 16).tolist() == [[35.0]]
    assert torch.equal(pool_patches(plane, 1), plane)
    numbers = torch.tensor([[1.0, 2.0]])
    assert spread_patches(numbers, 2, 1, 3).tolist() == [[1.0, 1.0, 2.0]]
    assert spread_patches(numbers, 2, 2, 4).tolist() == [[1.0, 1.0, 2.0, 2.0]] * 2


@bounded
@given(height=sizes, width=sizes, n_p=st.integers(1, 10), turned=st.booleans())
def test_patches__pool_slices_and_spread_to_their_pixels(height, width, n_p, turned):
    planes = noise(2, 3, width, height, seed=n_p).mT if turned else noise(2, 3, height, width)
    found = pool_patches(planes, n_p)
    assert found.shape == (2, 3, -(-height // n_p), -(-width // n_p))
    spread = spread_patches(found, n_p, height, width)
    assert spread.shape == planes.shape
    for i in range(height):
        for j in range(width):
            top, left = i // n_p * n_p, j // n_p * n_p
            patch = planes[..., top : top + n_p, left : left + n_p]
            own = found[..., i // n_p, j // n_p]
            torch.testing.assert_close(own, patch.sum(dim=(2, 3)))
            assert torch.equal(spread[..., i, j], own)


def test_patches__keep_the_variance_that_resizing_up_smooths_away():
    # Departure: the authors resize a map to a multiple of n_p (bilinear) and pool without counts.
    def resized(x):
        size = [-(-side // 4) * 4 for side in x.shape[2:]]
        return torch.nn.functional.interpolate(x, size, mode="bilinear", align_corners=False)

    def patch_moments(x):
        return finalize(sums_of(x, 4)[1])

    fitting, small = noise(4, 3, 8, 8), noise(4, 3, 2, 2)
    torch.testing.assert_close(patch_moments(fitting), patch_moments(resized(fitting)))
    ours, theirs = patch_moments(small), patch_moments(resized(small))
    torch.testing.assert_close(ours.mean, theirs.mean)
    assert (theirs.variance < 0.9 * ours.variance).all()


def test_counts__only_the_pixels_that_exist():
    channel, patch = counts((3, 7, 9), n_p=4)
    assert channel.tolist() == [63.0] * 3
    assert patch.tolist() == [[3 * 16, 3 * 16, 3 * 4], [3 * 12, 3 * 12, 3 * 3]]
    assert channel.dtype == patch.dtype == torch.float64


@bounded
@given(channels=sizes, height=sizes, width=sizes, n_p=st.integers(1, 10))
def test_counts__both_levels_count_every_number_once(channels, height, width, n_p):
    shape = (channels, height, width)
    channel, patch = counts(shape, n_p)
    assert channel.sum() == patch.sum() == torch.Size(shape).numel()
    assert patch.max() == channels * min(n_p, height) * min(n_p, width)


# Moments from sums


def test_finalize__known_answers():
    x = torch.tensor([[[[1.0, 2.0, 6.0]], [[0.0, 0.0, 3.0]]]], dtype=torch.float64)  # (1, 2, 1, 3)
    channel, patch = (finalize(sums) for sums in sums_of(x, n_p=2))
    assert channel.mean.tolist() == [3.0, 1.0]
    assert channel.variance.tolist() == pytest.approx([14 / 3, 2.0], rel=1e-12)
    assert patch.mean.tolist() == [[0.75, 4.5]]  # {1, 2, 0, 0} and the partial {6, 3}
    assert patch.variance[0].tolist() == pytest.approx([0.6875, 2.25], rel=1e-12)


def test_finalize__variance_is_the_biased_one():
    x = noise(3, 4, 4, 4)
    variance = finalize(sums_of(x, 4)[0]).variance
    expected = x.var(dim=(0, 2, 3), unbiased=False)
    torch.testing.assert_close(variance, expected, rtol=1e-12, atol=0)


def test_finalize__holds_a_variance_that_rounding_left_negative_at_zero():
    below = Sums(*(torch.tensor([v], dtype=torch.float64) for v in (4.0, 2.0, 1.0 - 1e-15)))
    assert finalize(below).variance.tolist() == [0.0]
    exact = Sums(*(torch.tensor([v], dtype=torch.float64) for v in (4.0, 2.0, 3.0)))
    assert finalize(exact).variance.tolist() == [0.5]


def test_finalize__takes_sums_of_several_groups_with_one_count():
    x = noise(2, 3, 4, 7, 5)  # (groups, batch, channels, height, width)
    each = [sums_of(part, 4)[0] for part in x]
    together = finalize(
        Sums(each[0].n, *(torch.stack(s) for s in list(zip(*each, strict=True))[1:]))
    )
    for row, part in enumerate(x):
        mean, variance = reference.channel_moments(part)
        torch.testing.assert_close(together.mean[row], mean, rtol=1e-12, atol=1e-14)
        torch.testing.assert_close(together.variance[row], variance, rtol=1e-12, atol=0)


# Sums over a data set


@bounded
@given(batches=st.lists(st.integers(1, 5), min_size=1, max_size=6), n_p=st.sampled_from([1, 3, 4]))
def test_add__sums_of_parts_are_the_sums_of_the_whole(batches, n_p):
    x = noise(sum(batches), 3, 7, 5, seed=len(batches))
    channel = patch = None
    for part in x.split(batches):
        found = sums_of(part, n_p)
        channel, patch = add(channel, found[0]), add(patch, found[1])
    assert channel.n.tolist() == [35.0 * len(x)] * 3
    assert patch.n.sum().item() == 105.0 * len(x)
    moments = [*finalize(channel), *finalize(patch)]
    for ours, theirs in zip(moments, reference.conv_moments(x, n_p), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-13)


def test_add__none_is_the_empty_part():
    sums, _ = sums_of(noise(2, 3, 4, 4), 4)
    assert add(None, sums) is sums


# EMA


@pytest.mark.parametrize("alpha", [0.0, 0.4, 0.8, 0.99])
def test_ema__value_is_the_blend_and_gradient_is_that_of_current(alpha):
    current = torch.tensor([1.0, -2.0, 7.0], dtype=torch.float64, requires_grad=True)
    previous = torch.tensor([3.0, 5.0, -1.0], dtype=torch.float64, requires_grad=True)
    blend = ema(previous, current, alpha)
    (expected,) = reference.update_totals([previous.detach()], [current], alpha)
    torch.testing.assert_close(blend, expected, rtol=1e-15, atol=1e-15)
    weights = torch.tensor([1.0, 10.0, 100.0], dtype=torch.float64)
    blend.backward(weights)
    assert torch.equal(current.grad, weights)  # not (1 - alpha) x weights
    assert previous.grad is None


@pytest.mark.parametrize("alpha", [0.0, 0.4, 0.8])
def test_ema__gradcheck_of_the_current_statistic_alone(alpha):
    # The value moves by (1 - alpha) J and its gradient is J. Adding alpha x current, detached, lets
    # the value move by J as well, so gradcheck holds if and only if both are right.
    previous = [part + 1 for part in reference.conv_moments(noise(2, 2, 5, 3, seed=1), 4)]

    def blended(x):
        found = [part for sums in sums_of(x, 4) for part in finalize(sums)]
        return tuple(
            ema(old, new, alpha) + alpha * new.detach()
            for old, new in zip(previous, found, strict=True)
        )

    assert torch.autograd.gradcheck(blended, noise(2, 2, 5, 3).requires_grad_())


def test_ema__zero_start_is_the_sequence_of_the_authors_code():
    state, seen = torch.zeros(()), []
    for _ in range(6):
        state = ema(state, torch.ones(()), 0.8).detach()
        seen.append(round(state.item(), 2))
    assert seen == [0.20, 0.36, 0.49, 0.59, 0.67, 0.74]


def test_ema__alpha_zero_is_the_batch_on_its_own_to_the_last_bit():
    current = noise(50)
    assert torch.equal(ema(noise(50, seed=1), current, 0.0), current)


@pytest.mark.parametrize("alpha", [-0.1, 1.0, 1.5, float("nan")])
def test_ema__alpha_out_of_range_is_an_error(alpha):
    with pytest.raises(ValueError, match=r"`alpha` must be in \[0, 1\), got"):
        ema(torch.ones(2), torch.ones(2), alpha)
