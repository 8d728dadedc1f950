"""Every loss against the paper's equations: values, gradients, limits and degenerate inputs."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from gvbsm.method.groups import class_rows
from gvbsm.method.losses import (
    densify,
    ensemble_logits,
    hard_loss,
    kd_loss,
    match,
    mse_gt_loss,
)
from gvbsm.method.moments import Moments, ema
from support import reference
from support.strategies import labeled_batches

bounded = settings(derandomize=True, max_examples=25)


def noise(*shape, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)


def smooth_images(count, size=32, seed=0):
    """Normalized pictures, as alike as a class's real ones: a shared scene, smooth variations."""
    coarse = noise(count, 3, 4, 4, seed=seed, dtype=torch.float32)
    shared = noise(1, 3, 4, 4, seed=seed + 1, dtype=torch.float32)
    return F.interpolate(coarse + shared, size, mode="bilinear", align_corners=False)


# Matching: Eq. 1, 6, 10, 14, 15


def end_to_end(layers):
    """Moments of several layers in one vector each, and the position of each number's layer."""
    sizes = torch.tensor([len(moments.mean) for moments in layers])
    joined = Moments(*(torch.cat(parts, dim=-1) for parts in zip(*layers, strict=True)))
    return joined, torch.arange(len(layers)).repeat_interleave(sizes)


def pairs(statistics):
    """[CM, CV, PM, PV] as two flat layers."""
    flat = [part.flatten() for part in statistics]
    return [Moments(*flat[:2]), Moments(*flat[2:])]


def test_match__known_answer():
    current = Moments(torch.tensor([3.0, 0.0, 1.0]), torch.tensor([5.0, 5.0, 0.0]))
    target = Moments(torch.tensor([0.0, 4.0, 1.0]), torch.tensor([5.0, 7.0, 9.0]))
    found = match(current, target, torch.tensor([0, 0, 1]), 2)
    assert found.tolist() == [7.0, 9.0]  # 5 + 2 and 0 + 9, neither squared nor averaged
    mixed = match(current, target, torch.tensor([1, 3, 1]), 4)  # also out of order, or with nothing
    assert mixed.tolist() == [0.0, 12.0, 0.0, 6.0]


def test_match__equals_eq_1_and_its_gradient_is_eq_12():
    x = noise(3, 4, 5, 7).requires_grad_()
    twin = x.detach().clone().requires_grad_()
    target = Moments(noise(4, seed=1), noise(4, seed=2).square())
    owner = torch.zeros(4, dtype=torch.long)
    loss = match(Moments(*reference.channel_moments(x)), target, owner, 1)
    statistics = list(reference.channel_moments(twin))
    expected = reference.plain_matching(statistics, target)
    torch.testing.assert_close(loss, expected[None], rtol=1e-12, atol=0)
    (gradient,) = torch.autograd.grad(loss.sum(), x)
    unit_vectors = reference.sds_gradient(twin, statistics, target, statistics)
    torch.testing.assert_close(gradient, unit_vectors, rtol=1e-11, atol=1e-14)


@bounded
@given(sizes=st.lists(st.integers(1, 6), min_size=1, max_size=5), groups=st.integers(1, 3))
def test_match__layers_and_groups_stay_apart(sizes, groups):
    values = [
        [Moments(noise(n, seed=9 * g + i), noise(n, seed=i + 50)) for i, n in enumerate(sizes)]
        for g in range(groups)
    ]
    wanted = [Moments(noise(n, seed=i + 70), noise(n, seed=i + 90)) for i, n in enumerate(sizes)]
    target, owner = end_to_end(wanted)
    rows = [end_to_end(layers)[0] for layers in values]
    current = Moments(*(torch.stack(parts) for parts in zip(*rows, strict=True)))
    expected = torch.tensor(
        [
            [
                reference.plain_matching(ours, theirs)
                for ours, theirs in zip(row, wanted, strict=True)
            ]
            for row in values
        ],
        dtype=torch.float64,
    )
    found = match(current, target, owner, len(sizes))
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("alpha", [0.0, 0.4, 0.8])
@pytest.mark.parametrize(("height", "width", "n_p"), [(7, 9, 4), (1, 1, 16)])
def test_match__sds_form_equals_eq_10_and_its_gradient_is_eq_15(height, width, n_p, alpha):
    first, second = noise(3, 4, height, width), noise(2, 4, height, width, seed=1) + 0.3
    x, twin = second.clone().requires_grad_(), second.clone().requires_grad_()
    targets = [
        part + 0.5 * (-1) ** i
        for i, part in enumerate(reference.conv_moments(noise(4, 4, height, width, seed=2), n_p))
    ]
    wanted, owner = end_to_end(pairs(targets))

    past, _ = end_to_end(pairs(reference.conv_moments(first, n_p)))
    now, _ = end_to_end(pairs(reference.conv_moments(x, n_p)))
    blend = Moments(*(ema(old, new, alpha) for old, new in zip(past, now, strict=True)))
    loss = match(blend, wanted, owner, 2).sum()

    statistics = reference.conv_moments(twin, n_p)
    totals = reference.update_totals(reference.conv_moments(first, n_p), statistics, alpha)
    expected = reference.sds_matching(statistics, targets, totals)
    torch.testing.assert_close(loss, expected, rtol=1e-11, atol=0)
    (gradient,) = torch.autograd.grad(loss, x)
    (derived,) = torch.autograd.grad(expected, twin, retain_graph=True)
    torch.testing.assert_close(gradient, derived, rtol=1e-10, atol=1e-13)
    unit_vectors = reference.sds_gradient(twin, statistics, targets, totals)
    torch.testing.assert_close(gradient, unit_vectors, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("zero", ["mean", "variance", "both"])
def test_match__no_difference_gives_gradient_zero_not_nan(zero):
    """In the first layer; the second one differs, and has its gradient whatever the first has."""
    mean, variance = torch.tensor([1.0, 2.0, 6.0]), torch.tensor([3.0, 4.0, 6.0])
    current = Moments(mean.clone().requires_grad_(), variance.clone().requires_grad_())
    moved = torch.tensor([1.0, 1.0, 0.0])
    target = Moments(
        mean + moved * (zero == "variance") + torch.tensor([0.0, 0.0, 5.0]),
        variance + moved * (zero == "mean"),
    )
    loss = match(current, target, torch.tensor([0, 0, 1]), 2)
    loss.sum().backward()
    assert loss.tolist() == pytest.approx([0.0 if zero == "both" else math.sqrt(2), 5.0], abs=1e-6)
    half = -math.sqrt(0.5)
    assert current.mean.grad.tolist() == pytest.approx(
        [half * (zero == "variance")] * 2 + [-1.0], abs=1e-6
    )
    assert current.variance.grad.tolist() == pytest.approx(
        [half * (zero == "mean")] * 2 + [0.0], abs=1e-6
    )


# Densification: Eq. 4 and 5

SMALL_LABELS = torch.tensor([2, 0, 2, 2, 0, 1])  # classes of three, two and one image


def densified(images, labels, tau, form="exact", groups=1):
    return densify(images, class_rows(labels, groups), groups, tau, form)


def small_images(seed=0):
    """So small that no softmax saturates: the eigenvalues lie within about 1 of each other."""
    return 0.3 * noise(6, 2, 3, 2, seed=seed)


@pytest.mark.parametrize("form", ["exact", "scaled"])
@pytest.mark.parametrize("tau", [0.5, 4.0])
def test_densify__equals_eq_5(tau, form):
    images = small_images()
    expected = reference.densification(images, SMALL_LABELS, tau, scaled=form == "scaled")
    assert expected > 1e-3
    assert densified(images, SMALL_LABELS, tau, form).item() == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("form", ["exact", "scaled"])
@pytest.mark.parametrize("tau", [0.5, 4.0])
def test_densify__gradient_equals_finite_differences_with_a_held_target(tau, form):
    images = small_images().requires_grad_()
    (gradient,) = torch.autograd.grad(densified(images, SMALL_LABELS, tau, form), images)
    held = images.detach()

    def loss(x):
        return reference.densification(x, SMALL_LABELS, tau, form == "scaled", frozen=held)

    expected = reference.finite_differences(loss, held)
    assert expected.abs().max() > 1e-2
    torch.testing.assert_close(gradient, expected, rtol=1e-5, atol=1e-8)


def test_densify__known_answer_of_orthogonal_images():
    # Gram diag(1, 4): eigenvalues 1 and 4; at tau 3 their softmax has odds e^1, at tau 1 odds e^3.
    images = torch.zeros(2, 1, 1, 2, dtype=torch.float64)
    images[0, 0, 0, 0], images[1, 0, 0, 1] = 1.0, 2.0
    p, q = 1 / (1 + math.e), 1 / (1 + math.e**3)
    expected = p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q))
    loss = densified(images, torch.zeros(2, dtype=torch.long), 3.0)
    assert loss.item() == pytest.approx(expected, rel=1e-12)


def test_densify__tau_one_has_nothing_to_pull():
    images = small_images().requires_grad_()
    loss = densified(images, SMALL_LABELS, 1.0)
    assert abs(loss.item()) < 1e-14
    assert torch.autograd.grad(loss, images)[0].abs().max() < 1e-14


@pytest.mark.parametrize("form", ["exact", "scaled"])
def test_densify__descent_shrinks_the_spread_of_the_eigenvalues(form):
    # Section 3.1: minimizing L_DD is minimizing the variance of each class's eigenvalues.
    labels = torch.zeros(4, dtype=torch.long)
    images = (0.3 * noise(4, 2, 3, 3, seed=3)).requires_grad_()
    (gradient,) = torch.autograd.grad(densified(images, labels, 4.0, form), images)

    def spread(x):
        scaled = form == "scaled"
        return torch.tensor(reference.spectra(x, labels, scaled)[0]).var().item()

    assert spread((images - 1e-2 * gradient).detach()) < spread(images.detach())


@pytest.mark.parametrize("count", [5, 10, 50])
def test_densify__exact_form_is_exactly_zero_for_real_like_images(count):
    images = smooth_images(count).requires_grad_()
    gram = images.detach().double().flatten(1)
    top = torch.linalg.eigvalsh(gram @ gram.T)[-2:]
    assert top[1] - top[0] > 500  # the gap that saturates both softmaxes
    loss = densified(images, torch.zeros(count, dtype=torch.long), 4.0)
    assert loss.item() == 0.0
    (gradient,) = torch.autograd.grad(loss, images)
    assert torch.equal(gradient, torch.zeros_like(gradient))


@pytest.mark.parametrize("count", [5, 10, 50])
def test_densify__scaled_form_acts_on_real_like_images(count):
    images = smooth_images(count).requires_grad_()
    labels = torch.zeros(count, dtype=torch.long)
    loss = densified(images, labels, 4.0, form="scaled")
    expected = reference.densification(images.detach(), labels, 4.0, scaled=True)
    assert expected > 0.1
    assert loss.item() == pytest.approx(expected, rel=1e-3)
    (gradient,) = torch.autograd.grad(loss, images)
    assert gradient.isfinite().all()
    assert torch.linalg.vector_norm(gradient) > 1e-4


def test_densify__scaled_form_ignores_the_contrast():
    images = small_images()
    small = densified(images, SMALL_LABELS, 4.0, "scaled")
    large = densified(100 * images, SMALL_LABELS, 4.0, "scaled")
    torch.testing.assert_close(large, small, rtol=1e-10, atol=0)


@pytest.mark.parametrize("form", ["exact", "scaled"])
def test_densify__classes_of_one_image_add_nothing(form):
    images = small_images().requires_grad_()
    loss = densified(images, torch.arange(6), 4.0, form)
    assert loss.item() == 0.0
    pair = torch.tensor([7, 1, 7, 2, 3, 4])
    gradient = torch.autograd.grad(densified(images, pair, 4.0, form), images)[0]
    assert gradient[[0, 2]].abs().max() > 1e-3
    assert torch.equal(gradient[[1, 3, 4, 5]], torch.zeros(4, 2, 3, 2, dtype=torch.float64))


def test_densify__classes_add_up():
    images = small_images()
    parts = [
        densified(images[label == SMALL_LABELS], SMALL_LABELS[label == SMALL_LABELS], 4.0)
        for label in range(3)
    ]
    whole = densified(images, SMALL_LABELS, 4.0)
    torch.testing.assert_close(whole, sum(parts), rtol=1e-12, atol=0)
    assert parts[0] > 1e-3
    assert parts[2] > 1e-3


@pytest.mark.parametrize("form", ["exact", "scaled"])
def test_densify__each_group_has_the_loss_and_the_gradient_of_its_own_classes(form):
    """Of groups whose classes are the same, others, of other sizes, or of one image each."""
    labels = torch.cat([SMALL_LABELS, SMALL_LABELS.flip(0), torch.tensor([0, 0, 0, 0, 0, 0])])
    labels = torch.cat([labels, torch.arange(6), torch.tensor([5, 5, 4, 4, 2, 2])])
    images = torch.cat([small_images(seed) for seed in range(5)]).requires_grad_()
    found = densified(images, labels, 4.0, form, groups=5)
    scaled = form == "scaled"
    weights = torch.tensor([1.0, 10.0, -3.0, 100.0, 0.5], dtype=torch.float64)
    (gradient,) = torch.autograd.grad((weights * found).sum(), images)
    for group, part in enumerate(images.detach().split(6)):
        own = labels[6 * group : 6 * group + 6]
        expected = reference.densification(part, own, 4.0, scaled)
        assert found[group].item() == pytest.approx(expected, rel=1e-10, abs=1e-15)
        assert (expected > 1e-3) == (group != 3)
        slow = reference.finite_differences(
            lambda x, own=own, held=part: reference.densification(x, own, 4.0, scaled, held), part
        )
        torch.testing.assert_close(
            gradient[6 * group : 6 * group + 6], weights[group] * slow, rtol=1e-5, atol=1e-7
        )


@bounded
@given(drawn=labeled_batches(), form=st.sampled_from(["exact", "scaled"]))
def test_densify__equals_eq_5_for_any_labels_of_any_groups(drawn, form):
    labels, groups = drawn
    images = 0.3 * noise(len(labels), 1, 3, 2, seed=len(labels))
    expected = [
        reference.densification(part, own, 4.0, form == "scaled")
        for part, own in zip(images.chunk(groups), labels.chunk(groups), strict=True)
    ]
    found = densified(images, labels, 4.0, form, groups)
    assert found.tolist() == pytest.approx(expected, rel=1e-8, abs=1e-10)


@pytest.mark.parametrize(("height", "width"), [(33, 33), (48, 48), (64, 64), (64, 20)])
@pytest.mark.parametrize("form", ["exact", "scaled"])
def test_densify__large_images_are_pooled_to_32(height, width, form):
    images, labels = 0.02 * noise(3, 1, height, width), torch.tensor([0, 0, 0])
    pooled = reference.average_pool(images, 32)
    expected = reference.densification(pooled, labels, 4.0, form == "scaled")
    unpooled = reference.densification(images, labels, 4.0, form == "scaled")
    assert abs(expected - unpooled) > 0.01 * expected
    assert densified(images, labels, 4.0, form).item() == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("size", [8, 32])
def test_densify__images_of_32_pixels_or_less_are_taken_as_they_are(size):
    images, labels = noise(3, 1, size, size) / size, torch.tensor([0, 0, 0])
    expected = reference.densification(images, labels, 4.0)
    assert densified(images, labels, 4.0).item() == pytest.approx(expected, rel=1e-9)


@bounded
@given(order=st.permutations(range(6)), form=st.sampled_from(["exact", "scaled"]))
def test_densify__the_order_of_images_does_not_matter(order, form):
    images, order = small_images().requires_grad_(), torch.tensor(order)
    plain = densified(images, SMALL_LABELS, 4.0, form)
    mixed = densified(images[order], SMALL_LABELS[order], 4.0, form)
    torch.testing.assert_close(mixed, plain, rtol=1e-10, atol=0)
    (gradient,) = torch.autograd.grad(plain, images)
    torch.testing.assert_close(
        torch.autograd.grad(mixed, images)[0], gradient, rtol=1e-9, atol=1e-12
    )


def test_densify__equal_images_have_a_finite_gradient():
    # Equal images have repeated eigenvalues (0), where a general solver's gradient is undefined.
    # Images of the mean color are 0: their eigenvalues have no mean to be divided by.
    for scale in (1.0, 0.0):
        images = (scale * small_images()[:1]).repeat(4, 1, 1, 1).requires_grad_()
        for form in ("exact", "scaled"):
            loss = densified(images, torch.zeros(4, dtype=torch.long), 4.0, form)
            assert loss.isfinite().all()
            assert torch.autograd.grad(loss, images)[0].isfinite().all()


@pytest.mark.parametrize("tau", [0.0, -4.0])
def test_densify__tau_that_is_not_positive_is_an_error(tau):
    with pytest.raises(ValueError, match="`tau` must be positive, got"):
        densified(small_images(), SMALL_LABELS, tau)


# Soft labels: Eq. 8


def teachers(scales=(1.0, 10.0, 0.1)):
    return [scale * noise(4, 5, seed=i) for i, scale in enumerate(scales)]


@pytest.mark.parametrize("normalize", [True, False])
def test_ensemble_logits__equal_eq_8(normalize):
    logits = teachers()
    expected = reference.ensemble_logits(logits, normalize).float()
    torch.testing.assert_close(ensemble_logits(logits, normalize), expected, rtol=1e-6, atol=1e-6)


def test_ensemble_logits__known_answer():
    logits = [torch.tensor([[3.0, 0.0], [0.0, 4.0]]), torch.tensor([[0.0, 1.0], [0.0, 0.0]])]
    # Norms 5 and 1, their mean 3: factors 3/5 and 3/1, then the mean of the two.
    expected = torch.tensor([[0.9, 1.5], [0.0, 1.2]])
    torch.testing.assert_close(ensemble_logits(logits, normalize=True), expected)
    expected = torch.tensor([[1.5, 0.5], [0.0, 2.0]])
    torch.testing.assert_close(ensemble_logits(logits, normalize=False), expected)


def test_ensemble_logits__normalized_teachers_contribute_equal_norms():
    # Teachers that speak of different classes: their shares of the ensemble can be told apart.
    logits = [torch.zeros(4, 6) for _ in range(3)]
    for i, scale in enumerate((1.0, 30.0, 0.2)):
        logits[i][:, 2 * i : 2 * i + 2] = scale * noise(4, 2, seed=i, dtype=torch.float32)
    norms = ensemble_logits(logits, normalize=True).view(4, 3, 2).pow(2).sum(dim=(0, 2)).sqrt()
    mean = sum(z.norm() for z in logits) / 3
    torch.testing.assert_close(norms, (mean / 3).expand(3), rtol=1e-5, atol=0)
    plain = ensemble_logits(logits, normalize=False).view(4, 3, 2).pow(2).sum(dim=(0, 2)).sqrt()
    assert plain.max() > 50 * plain.min()


@pytest.mark.parametrize("normalize", [True, False])
def test_ensemble_logits__one_teacher_is_itself(normalize):
    (logits,) = teachers((7.0,))
    torch.testing.assert_close(ensemble_logits([logits], normalize), logits.float())


@bounded
@given(scale=st.floats(0.01, 100), which=st.integers(0, 2))
def test_ensemble_logits__scale_of_a_normalized_teacher_does_not_turn_the_ensemble(scale, which):
    logits = teachers()
    before = ensemble_logits(logits, normalize=True)
    logits[which] = scale * logits[which]
    after = ensemble_logits(logits, normalize=True)
    torch.testing.assert_close(after / after.norm(), before / before.norm(), rtol=1e-4, atol=1e-5)


def test_ensemble_logits__scale_of_all_teachers_scales_the_ensemble():
    logits = teachers()
    once = ensemble_logits(logits, normalize=True)
    thrice = ensemble_logits([3 * z for z in logits], normalize=True)
    torch.testing.assert_close(thrice, 3 * once)


def test_ensemble_logits__half_precision_teachers_are_averaged_in_float32():
    logits = [torch.full((1, 2), value, dtype=torch.float16) for value in (2049.0, 4095.0, 1.0)]
    for normalize in (False, True):
        ensemble = ensemble_logits(logits, normalize)
        assert ensemble.dtype == torch.float32
        torch.testing.assert_close(
            ensemble, ensemble_logits([z.float() for z in logits], normalize)
        )


def test_ensemble_logits__a_silent_teacher_gives_no_nan():
    ensemble = ensemble_logits([torch.ones(2, 2), torch.zeros(2, 2)], normalize=True)
    torch.testing.assert_close(ensemble, torch.full((2, 2), 0.25))


@bounded
@given(
    counts=st.lists(st.integers(0, 3), min_size=3, max_size=3).filter(any),
    scale=st.sampled_from([1e-300, 0.7, 1e307]),
    normalize=st.booleans(),
)
def test_ensemble_logits__a_weight_is_how_often_a_teacher_is_there(counts, scale, normalize):
    logits = teachers()
    repeated = [z for z, count in zip(logits, counts, strict=True) for _ in range(count)]
    expected = reference.ensemble_logits(repeated, normalize).float()
    weights = [scale * count for count in counts]
    found = ensemble_logits(logits, normalize, weights)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_ensemble_logits__weights_must_be_one_for_each():
    with pytest.raises(ValueError, match="one for each of 3 teachers, got 2"):
        ensemble_logits(teachers(), normalize=False, weights=[1.0, 2.0])


def test_ensemble_logits__no_teacher_is_an_error():
    with pytest.raises(ValueError, match="at least one teacher"):
        ensemble_logits([], normalize=False)


# The student's loss: Eq. 11 and SRe2L's


def test_hard_loss__known_answer():
    student = torch.tensor(
        [[0.0, math.log(3.0)], [0.0, 0.0]]
    )  # probabilities 1/4, 3/4 and 1/2, 1/2
    labels, partners = torch.tensor([0, 1]), torch.tensor([1, 0])
    loss = hard_loss(student, labels, partners, torch.tensor([0.25, 0.7]))
    first = 0.25 * math.log(4) + 0.75 * math.log(4 / 3)
    assert loss.item() == pytest.approx((first + math.log(2)) / 2, rel=1e-6)


def test_hard_loss__a_picture_that_keeps_all_ignores_its_partner():
    student, labels = noise(5, 3), torch.tensor([0, 1, 2, 0, 1])
    expected = F.cross_entropy(student, labels)
    for partner in range(3):
        loss = hard_loss(student, labels, torch.full((5,), partner), torch.ones(5))
        torch.testing.assert_close(loss, expected, rtol=1e-12, atol=0)


def test_hard_loss__gradient_is_softmax_minus_the_mixed_label():
    student = noise(4, 3).requires_grad_()
    labels, partners = torch.tensor([0, 1, 2, 2]), torch.tensor([1, 1, 0, 2])
    kept = torch.tensor([0.1, 0.5, 0.9, 0.3], dtype=torch.float64)
    hard_loss(student, labels, partners, kept).backward()
    mixed = kept[:, None] * F.one_hot(labels, 3) + (1 - kept[:, None]) * F.one_hot(partners, 3)
    expected = (student.detach().softmax(dim=1) - mixed) / 4
    torch.testing.assert_close(student.grad, expected, rtol=1e-12, atol=1e-15)


def test_mse_gt_loss__known_answer():
    student, teacher = (
        torch.tensor([[1.0, 2.0], [3.0, 4.0]]),
        torch.tensor([[0.0, 2.0], [3.0, 2.0]]),
    )
    loss = mse_gt_loss(student, teacher, torch.tensor(2.0), gamma=0.1)
    assert loss.item() == pytest.approx(5 / 4 + 0.2)  # squares 1, 0, 0, 4, averaged over all four


def test_mse_gt_loss__hard_labels_reach_the_student_with_weight_gamma():
    student, teacher = noise(4, 3).requires_grad_(), noise(4, 3, seed=1)
    labels, kept = torch.tensor([0, 1, 2, 0]), torch.ones(4)
    hard = hard_loss(student, labels, labels, kept)
    (gradient,) = torch.autograd.grad(mse_gt_loss(student, teacher, hard, 0.15), student)
    one_hot = F.one_hot(labels, 3)
    x = student.detach()
    expected = 2 * (x - teacher) / 12 + 0.15 * (x.softmax(dim=1) - one_hot) / 4
    torch.testing.assert_close(gradient, expected, rtol=1e-12, atol=1e-15)


def test_kd_loss__known_answer():
    teacher = torch.tensor([[0.0, 2 * math.log(3.0)]])  # at T = 2: 1/4 and 3/4
    student = torch.zeros(1, 2)
    # T^2 KL(teacher || student), not its reverse
    expected = 2**2 * (0.25 * math.log(0.5) + 0.75 * math.log(1.5))
    assert kd_loss(student, teacher, 2.0).item() == pytest.approx(expected, rel=1e-6)
    doubled = kd_loss(student.repeat(2, 1), teacher.repeat(2, 1), 2.0)
    assert doubled.item() == pytest.approx(expected, rel=1e-6)  # mean over the batch


def test_kd_loss__equals_the_sum_over_classes():
    student, teacher = noise(3, 5), noise(3, 5, seed=1)
    expected = 0.0
    for z, s in zip(teacher.tolist(), student.tolist(), strict=True):
        p = reference.softmax([v / 4 for v in z])
        q = reference.softmax([v / 4 for v in s])
        expected += 4**2 * reference.kl_divergence(p, q) / 3
    assert kd_loss(student, teacher, 4.0).item() == pytest.approx(expected, rel=1e-12)


def test_kd_loss__gradient_pulls_the_student_to_the_teacher():
    student, teacher = noise(3, 5).requires_grad_(), noise(3, 5, seed=1)
    (gradient,) = torch.autograd.grad(kd_loss(student, teacher, 4.0), student)
    expected = 4 * ((student.detach() / 4).softmax(dim=1) - (teacher / 4).softmax(dim=1)) / 3
    torch.testing.assert_close(gradient, expected, rtol=1e-11, atol=1e-15)


def test_kd_loss__tends_to_mse_as_the_temperature_grows():
    # Section 3.3: T^2 KL(T) -> ||p - q||^2 / 2C for logits of zero mean; the error falls as 1 / T.
    student, teacher = noise(6, 10), 3 * noise(6, 10, seed=1)
    student, teacher = (z - z.mean(dim=1, keepdim=True) for z in (student, teacher))
    limit = (student - teacher).square().sum(dim=1).mean() / (2 * 10)
    errors = [
        (kd_loss(student, teacher, T) / limit - 1).abs().item() for T in (10.0, 100.0, 1000.0)
    ]
    assert errors[2] < 1e-3
    assert errors[1] < 0.2 * errors[0]
    assert errors[2] < 0.2 * errors[1]
    torch.testing.assert_close(limit, mse_gt_loss(student, teacher, torch.zeros(()), 0.0) / 2)
