"""Moments against two-pass loops in float64, their sums over parts, gradients, and the EMA."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import reference
from gvbsm.moments import (
    Moments,
    Sums,
    add,
    batch_sums,
    channel_moments,
    channel_sums,
    conv_moments,
    ema,
    ema_moments,
    finalize,
    patch_moments,
    patch_sums,
)

bounded = settings(deadline=None, derandomize=True, max_examples=40)

# (batch, channels, height, width), n_p: partial patches, maps below a patch, exact fits, batch 1.
SHAPES = [
    ((3, 4, 7, 9), 4),
    ((5, 3, 2, 2), 4),
    ((4, 6, 1, 1), 16),
    ((2, 3, 14, 14), 16),
    ((1, 2, 8, 8), 4),
    ((1, 3, 1, 1), 4),
    ((2, 1, 5, 12), 4),
    ((2, 2, 32, 16), 16),
    ((2, 3, 3, 4), 1),
]
DTYPES = [torch.float64, torch.float32, torch.bfloat16]
# Largest error of a variance over its second moment. float32 and bfloat16 both sum in float32.
ROUNDING = {torch.float64: 2**-50, torch.float32: 2**-23, torch.bfloat16: 2**-23}


def feature_map(shape, seed=0, dtype=torch.float64):
    """Noise whose mean and scale differ from channel to channel and from pixel to pixel."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(shape, generator=generator, dtype=torch.float64)
    scale = 0.5 + torch.rand(shape[1:], generator=generator, dtype=torch.float64)
    return (noise * scale + torch.randn(shape[1:], generator=generator)).to(dtype)


def assert_moments(actual, expected, dtype):
    """Equal within the rounding of the sums: a share of the second moment, or of its root."""
    mean, variance = expected
    second = mean.square() + variance
    assert actual.mean.dtype == actual.variance.dtype == torch.float64
    assert actual.mean.shape == mean.shape
    assert actual.variance.shape == variance.shape
    assert ((actual.mean - mean).abs() <= ROUNDING[dtype] * second.sqrt()).all()
    assert ((actual.variance - variance).abs() <= 4 * ROUNDING[dtype] * second).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("shape", "n_p"), SHAPES)
def test_channel_moments__equal_the_reference(shape, n_p, dtype):
    x = feature_map(shape, dtype=dtype)
    assert_moments(channel_moments(x), reference.channel_moments(x), dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("shape", "n_p"), SHAPES)
def test_patch_moments__equal_the_reference(shape, n_p, dtype):
    x = feature_map(shape, dtype=dtype)
    assert_moments(patch_moments(x, n_p), reference.patch_moments(x, n_p), dtype)


@bounded
@given(
    batch=st.integers(1, 3),
    channels=st.integers(1, 3),
    height=st.integers(1, 9),
    width=st.integers(1, 9),
    n_p=st.integers(1, 10),
)
def test_conv_moments__equal_the_reference_for_any_size(batch, channels, height, width, n_p):
    x = feature_map((batch, channels, height, width), seed=height * width)
    channel, patch = conv_moments(x, n_p)
    assert_moments(channel, reference.channel_moments(x), torch.float64)
    assert_moments(patch, reference.patch_moments(x, n_p), torch.float64)


def test_moments__known_answers():
    x = torch.tensor([[[[1.0, 2.0, 6.0]], [[0.0, 0.0, 3.0]]]])  # (1, 2, 1, 3)
    channel, patch = conv_moments(x, n_p=2)
    assert channel.mean.tolist() == [3.0, 1.0]
    assert channel.variance.tolist() == pytest.approx([14 / 3, 2.0], rel=1e-12)
    assert patch.mean.tolist() == [[0.75, 4.5]]  # {1, 2, 0, 0} and the partial {6, 3}
    assert patch.variance[0].tolist() == pytest.approx([0.6875, 2.25], rel=1e-12)


def test_patch_sums__count_only_the_pixels_that_exist():
    x = feature_map((2, 3, 7, 9))
    sums = patch_sums(*batch_sums(x), batch=2, n_p=4)
    assert sums.n.tolist() == [[6 * 16, 6 * 16, 6 * 4], [6 * 12, 6 * 12, 6 * 3]]


def test_moments__variance_is_the_biased_one():
    x = feature_map((3, 4, 4, 4))
    expected = x.var(dim=(0, 2, 3), unbiased=False)
    torch.testing.assert_close(channel_moments(x).variance, expected, rtol=1e-12, atol=0)


def test_patch_moments__a_map_smaller_than_a_patch_is_one_patch():
    x = feature_map((4, 6, 1, 1))
    mean, variance = patch_moments(x, 16)
    assert mean.shape == variance.shape == (1, 1)
    torch.testing.assert_close(mean.squeeze(), x.mean(), rtol=1e-12, atol=0)
    torch.testing.assert_close(variance.squeeze(), x.var(unbiased=False), rtol=1e-12, atol=0)


def test_patch_moments__keep_the_variance_that_resizing_up_smooths_away():
    # Departure: the authors resize a map to a multiple of n_p (bilinear) and pool without counts.
    def resized(x):
        size = [-(-side // 4) * 4 for side in x.shape[2:]]
        return torch.nn.functional.interpolate(x, size, mode="bilinear", align_corners=False)

    fitting, small = feature_map((4, 3, 8, 8)), feature_map((4, 3, 2, 2))
    torch.testing.assert_close(patch_moments(fitting, 4), patch_moments(resized(fitting), 4))
    ours, theirs = patch_moments(small, 4), patch_moments(resized(small), 4)
    torch.testing.assert_close(ours.mean, theirs.mean)
    assert (theirs.variance < 0.9 * ours.variance).all()


@pytest.mark.parametrize("ratio", [3, 30, 300, 3000])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_moments__survive_a_mean_far_above_the_deviation(ratio, dtype):
    # E[x^2] - E[x]^2 cancels: the variance's error is a share of E[x^2], 2^-23 where the sums over
    # the batch are float32, 2^-50 in float64. Relative to the variance: 2^-23 ratio^2, 1e-4 for 30.
    x = (feature_map((16, 4, 8, 8)) + ratio).to(dtype)
    for actual, (mean, variance) in zip(
        conv_moments(x, 4),
        (reference.channel_moments(x), reference.patch_moments(x, 4)),
        strict=True,
    ):
        error = (actual.variance - variance).abs()
        assert (error <= ROUNDING[dtype] * (mean.square() + variance)).all()
        assert ((actual.mean - mean).abs() <= ROUNDING[dtype] * mean.abs()).all()


@pytest.mark.parametrize("value", [0.0, 0.1, 1 / 3, -1000.1, 1e-20])
@pytest.mark.parametrize("dtype", DTYPES)
def test_moments__a_constant_map_has_variance_zero_and_a_finite_gradient(value, dtype):
    x = torch.full((7, 3, 5, 6), value, dtype=torch.float64).to(dtype).requires_grad_()
    channel, patch = conv_moments(x, 4)
    for moments in (channel, patch):
        assert (moments.variance >= 0).all()
        assert (moments.variance <= ROUNDING[dtype] * moments.mean.square()).all()
    (channel.variance.sum() + patch.variance.sum()).backward()
    assert x.grad.isfinite().all()


def test_finalize__holds_a_variance_that_rounding_left_negative_at_zero():
    below = Sums(*(torch.tensor([v], dtype=torch.float64) for v in (4.0, 2.0, 1.0 - 1e-15)))
    assert finalize(below).variance.tolist() == [0.0]
    exact = Sums(*(torch.tensor([v], dtype=torch.float64) for v in (4.0, 2.0, 3.0)))
    assert finalize(exact).variance.tolist() == [0.5]


# Sums over a data set


@bounded
@given(sizes=st.lists(st.integers(1, 5), min_size=1, max_size=6), n_p=st.sampled_from([1, 3, 4]))
def test_add__sums_of_parts_are_the_sums_of_the_whole(sizes, n_p):
    x = feature_map((sum(sizes), 3, 7, 5), seed=len(sizes))
    channel = patch = None
    for part in x.split(sizes):
        pair = batch_sums(part)
        channel = add(channel, channel_sums(*pair, batch=len(part)))
        patch = add(patch, patch_sums(*pair, batch=len(part), n_p=n_p))
    assert channel.n.tolist() == [35.0 * len(x)] * 3
    assert patch.n.sum().item() == 105.0 * len(x)
    assert_moments(finalize(channel), reference.channel_moments(x), torch.float64)
    assert_moments(finalize(patch), reference.patch_moments(x, n_p), torch.float64)


def test_add__many_parts_do_not_drift():
    # Kept in float32 the running sum of squares would reach 1e9 and lose the variance of 1.
    x = feature_map((400, 1, 8, 8)) + 200
    sums = None
    for part in x.float().split(1):
        sums = add(sums, channel_sums(*batch_sums(part), batch=1))
    assert all(part.dtype == torch.float64 for part in sums)
    expected = reference.channel_moments(x.float())[1]
    torch.testing.assert_close(finalize(sums).variance, expected, rtol=1e-4, atol=0)


def test_add__none_is_the_empty_part():
    sums = channel_sums(*batch_sums(feature_map((2, 3, 4, 4))), batch=2)
    assert add(None, sums) is sums


# Layouts and gradients


def test_moments__channels_last_gives_the_same():
    x = feature_map((3, 4, 7, 9))
    strided = x.to(memory_format=torch.channels_last)
    assert strided.stride() != x.stride()
    weights = [feature_map(part.shape, seed=1) for part in [torch.ones(1, 4), torch.ones(2, 3)]]
    results = []
    for layout in (x, strided):
        layout = layout.detach().requires_grad_()
        channel, patch = conv_moments(layout, 4)
        loss = (channel.mean * channel.variance * weights[0][0]).sum()
        loss = loss + (patch.mean * patch.variance * weights[1]).sum()
        results.append((*channel, *patch, *torch.autograd.grad(loss, layout)))
    for contiguous, other in zip(*results, strict=True):
        torch.testing.assert_close(other, contiguous, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize(
    ("shape", "n_p"), [((2, 3, 5, 7), 4), ((1, 2, 2, 2), 4), ((3, 2, 1, 1), 16)]
)
def test_conv_moments__gradcheck(shape, n_p):
    def four(x):
        channel, patch = conv_moments(x, n_p)
        return (*channel, *patch)

    assert torch.autograd.gradcheck(four, feature_map(shape).requires_grad_())


@pytest.mark.parametrize("dtype", DTYPES)
def test_conv_moments__gradient_equals_the_reference(dtype):
    x = feature_map((3, 4, 7, 9), dtype=dtype).requires_grad_()
    twin = x.detach().double().requires_grad_()
    ours = [part for moments in conv_moments(x, 4) for part in moments]
    theirs = reference.conv_moments(twin, 4)
    weights = [feature_map((1, *part.shape), seed=2)[0] for part in theirs]
    (gradient,) = torch.autograd.grad(ours, x, weights)
    (expected,) = torch.autograd.grad(theirs, twin, weights)
    assert gradient.dtype == dtype
    tolerance = {torch.float64: 1e-13, torch.float32: 1e-6, torch.bfloat16: 2**-8}[dtype]
    assert (gradient.double() - expected).abs().max() <= tolerance * expected.abs().max()


@pytest.mark.parametrize("alpha", [0.0, 0.4, 0.8])
def test_ema_moments__gradcheck_of_the_current_statistic_alone(alpha):
    # The value moves by (1 - alpha) J and its gradient is J. Adding alpha x current, detached, lets
    # the value move by J as well, so gradcheck holds if and only if both are right.
    previous = [
        Moments(m + 1, v + 1) for m, v in conv_moments(feature_map((2, 2, 5, 3), seed=1), 4)
    ]

    def blended(x):
        parts = []
        for old, new in zip(previous, conv_moments(x, 4), strict=True):
            for blend, current in zip(ema_moments(old, new, alpha), new, strict=True):
                parts.append(blend + alpha * current.detach())
        return tuple(parts)

    assert torch.autograd.gradcheck(blended, feature_map((2, 2, 5, 3)).requires_grad_())


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


def test_ema__starts_with_the_first_value():
    current = torch.tensor([1.0, 2.0], requires_grad=True)
    assert ema(None, current, 0.8) is current
    first = ema_moments(None, Moments(current, current + 1), 0.8)
    assert torch.equal(first.mean, current)
    assert torch.equal(first.variance, current + 1)
    assert first.mean.requires_grad


def test_ema__zero_start_is_the_sequence_of_the_authors_code():
    state, seen = torch.zeros(()), []
    for _ in range(6):
        state = ema(state, torch.ones(()), 0.8).detach()
        seen.append(round(state.item(), 2))
    assert seen == [0.20, 0.36, 0.49, 0.59, 0.67, 0.74]


def test_ema_moments__blends_the_mean_and_the_variance():
    old = Moments(torch.tensor([0.0]), torch.tensor([10.0]))
    new = Moments(torch.tensor([1.0]), torch.tensor([20.0]))
    blend = ema_moments(old, new, 0.75)
    assert blend.mean.tolist() == [0.25]
    assert blend.variance.tolist() == [12.5]


@pytest.mark.parametrize("alpha", [-0.1, 1.0, 1.5, float("nan")])
@pytest.mark.parametrize("previous", [None, torch.ones(2)])
def test_ema__alpha_out_of_range_is_an_error(alpha, previous):
    with pytest.raises(ValueError, match=r"`alpha` must be in \[0, 1\), got"):
        ema(previous, torch.ones(2), alpha)
