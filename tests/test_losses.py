"""Every loss against the paper's equations: values, gradients, limits and degenerate inputs."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

import reference
from gvbsm.losses import densify, ensemble_logits, hard_loss, kd_loss, match, mse_gt_loss
from gvbsm.moments import Moments, channel_moments, conv_moments, ema_moments

bounded = settings(deadline=None, derandomize=True, max_examples=25)


def noise(*shape, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)


def smooth_images(count, size=32, seed=0):
    """Normalized pictures, as alike as a class's real ones: a shared scene, smooth variations."""
    coarse = noise(count, 3, 4, 4, seed=seed, dtype=torch.float32)
    shared = noise(1, 3, 4, 4, seed=seed + 1, dtype=torch.float32)
    return F.interpolate(coarse + shared, size, mode="bilinear", align_corners=False)


# Matching: Eq. 1, 6, 10, 14, 15


def matched_pair(x, n_p, previous, targets, alpha):
    """This library's Eq. 10 for one layer, and the new EMA."""
    loss, state = 0, []
    for old, new, target in zip(previous, conv_moments(x, n_p), targets, strict=True):
        blend = ema_moments(old, new, alpha)
        loss = loss + match(blend, target)
        state.append(Moments(*(part.detach() for part in blend)))
    return loss, state


def test_match__known_answer():
    current = Moments(torch.tensor([3.0, 0.0]), torch.tensor([[1.0, 2.0], [5.0, 5.0]]))
    target = Moments(torch.tensor([0.0, 4.0]), torch.tensor([[1.0, 2.0], [5.0, 7.0]]))
    assert match(current, target).item() == 7.0  # 5 + 2, neither squared nor averaged


def test_match__equals_eq_1_and_its_gradient_is_eq_12():
    x = noise(3, 4, 5, 7).requires_grad_()
    twin = x.detach().clone().requires_grad_()
    target = Moments(noise(4, seed=1), noise(4, seed=2).square())
    loss = match(channel_moments(x), target)
    statistics = list(reference.channel_moments(twin))
    expected = reference.plain_matching(statistics, target)
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=0)
    (gradient,) = torch.autograd.grad(loss, x)
    unit_vectors = reference.sds_gradient(twin, statistics, target, statistics)
    torch.testing.assert_close(gradient, unit_vectors, rtol=1e-11, atol=1e-14)


@pytest.mark.parametrize("alpha", [0.0, 0.4, 0.8])
@pytest.mark.parametrize(("height", "width", "n_p"), [(7, 9, 4), (1, 1, 16)])
def test_match__sds_form_equals_eq_10_and_its_gradient_is_eq_15(height, width, n_p, alpha):
    first, second = noise(3, 4, height, width), noise(2, 4, height, width, seed=1) + 0.3
    x, twin = second.clone().requires_grad_(), second.clone().requires_grad_()
    targets = [
        Moments(m - 0.5, 2 * v + 0.1)
        for m, v in conv_moments(noise(4, 4, height, width, seed=2), n_p)
    ]

    _, state = matched_pair(first, n_p, [None, None], targets, alpha)
    loss, _ = matched_pair(x, n_p, state, targets, alpha)

    flat = [part for moments in targets for part in moments]
    statistics = reference.conv_moments(twin, n_p)
    totals = reference.update_totals(reference.conv_moments(first, n_p), statistics, alpha)
    expected = reference.sds_matching(statistics, flat, totals)
    torch.testing.assert_close(loss, expected, rtol=1e-11, atol=0)
    (gradient,) = torch.autograd.grad(loss, x)
    (derived,) = torch.autograd.grad(expected, twin, retain_graph=True)
    torch.testing.assert_close(gradient, derived, rtol=1e-10, atol=1e-13)
    unit_vectors = reference.sds_gradient(twin, statistics, flat, totals)
    torch.testing.assert_close(gradient, unit_vectors, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("start", ["first", "zero"])
def test_match__a_descent_with_ema_follows_the_reference(start):
    # Three steps of gradient descent with views of the state after each: values, EMA and pixels.
    alpha, n_p, rate = 0.8, 4, 0.5
    x, twin = noise(3, 2, 5, 6), noise(3, 2, 5, 6)
    targets = conv_moments(2 * noise(4, 2, 5, 6, seed=1) + 1, n_p)
    flat = [part for moments in targets for part in moments]
    state, totals = [None, None], None
    if start == "zero":
        state = [Moments(*(torch.zeros_like(part) for part in target)) for target in targets]
        totals = [torch.zeros_like(part) for part in flat]
    for _ in range(3):
        x.requires_grad_()
        twin.requires_grad_()
        loss, state = matched_pair(x, n_p, state, targets, alpha)
        statistics = reference.conv_moments(twin, n_p)
        started = totals is not None
        totals = reference.update_totals(totals, statistics, alpha) if started else statistics
        totals = [total.detach() for total in totals]
        expected = reference.sds_matching(statistics, flat, totals)
        torch.testing.assert_close(loss, expected, rtol=1e-11, atol=0)
        for ours, theirs in zip([p for pair in state for p in pair], totals, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-11, atol=1e-13)
        x = (x - rate * torch.autograd.grad(loss, x)[0]).detach()
        twin = (twin - rate * torch.autograd.grad(expected, twin)[0]).detach()
        torch.testing.assert_close(x, twin, rtol=1e-11, atol=1e-13)
    assert (x - noise(3, 2, 5, 6)).abs().max() > 0.01


@pytest.mark.parametrize("zero", ["mean", "variance", "both"])
def test_match__no_difference_gives_gradient_zero_not_nan(zero):
    mean, variance = torch.tensor([1.0, 2.0]), torch.tensor([3.0, 4.0])
    current = Moments(mean.clone().requires_grad_(), variance.clone().requires_grad_())
    target = Moments(mean + (zero == "variance"), variance + (zero == "mean"))
    loss = match(current, target)
    loss.backward()
    assert loss.item() == pytest.approx(0.0 if zero == "both" else math.sqrt(2), abs=1e-6)
    expected = torch.tensor([-math.sqrt(0.5)] * 2)
    zeros = torch.zeros(2)
    torch.testing.assert_close(current.mean.grad, expected if zero == "variance" else zeros)
    torch.testing.assert_close(current.variance.grad, expected if zero == "mean" else zeros)


# Densification: Eq. 4 and 5

SMALL_LABELS = torch.tensor([2, 0, 2, 2, 0, 1])  # classes of three, two and one image


def small_images(seed=0):
    """So small that no softmax saturates: the eigenvalues lie within about 1 of each other."""
    return 0.3 * noise(6, 2, 3, 2, seed=seed)


@pytest.mark.parametrize("form", ["exact", "scaled"])
@pytest.mark.parametrize("tau", [0.5, 4.0])
def test_densify__equals_eq_5(tau, form):
    images = small_images()
    expected = reference.densification(images, SMALL_LABELS, tau, scaled=form == "scaled")
    assert expected > 1e-3
    assert densify(images, SMALL_LABELS, tau, form).item() == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("form", ["exact", "scaled"])
@pytest.mark.parametrize("tau", [0.5, 4.0])
def test_densify__gradient_equals_finite_differences_with_a_held_target(tau, form):
    images = small_images().requires_grad_()
    (gradient,) = torch.autograd.grad(densify(images, SMALL_LABELS, tau, form), images)
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
    loss = densify(images, torch.zeros(2, dtype=torch.long), 3.0)
    assert loss.item() == pytest.approx(expected, rel=1e-12)


def test_densify__tau_one_has_nothing_to_pull():
    images = small_images().requires_grad_()
    loss = densify(images, SMALL_LABELS, 1.0)
    assert abs(loss.item()) < 1e-14
    assert torch.autograd.grad(loss, images)[0].abs().max() < 1e-14


@pytest.mark.parametrize("form", ["exact", "scaled"])
def test_densify__descent_shrinks_the_spread_of_the_eigenvalues(form):
    # Section 3.1: minimizing L_DD is minimizing the variance of each class's eigenvalues.
    labels = torch.zeros(4, dtype=torch.long)
    images = (0.3 * noise(4, 2, 3, 3, seed=3)).requires_grad_()
    (gradient,) = torch.autograd.grad(densify(images, labels, 4.0, form), images)

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
    loss = densify(images, torch.zeros(count, dtype=torch.long), 4.0)
    assert loss.item() == 0.0
    (gradient,) = torch.autograd.grad(loss, images)
    assert torch.equal(gradient, torch.zeros_like(gradient))


@pytest.mark.parametrize("count", [5, 10, 50])
def test_densify__scaled_form_acts_on_real_like_images(count):
    images = smooth_images(count).requires_grad_()
    labels = torch.zeros(count, dtype=torch.long)
    loss = densify(images, labels, 4.0, form="scaled")
    expected = reference.densification(images.detach(), labels, 4.0, scaled=True)
    assert expected > 0.1
    assert loss.item() == pytest.approx(expected, rel=1e-3)
    (gradient,) = torch.autograd.grad(loss, images)
    assert gradient.isfinite().all()
    assert torch.linalg.vector_norm(gradient) > 1e-4


def test_densify__scaled_form_ignores_the_contrast():
    images = small_images()
    small = densify(images, SMALL_LABELS, 4.0, "scaled")
    large = densify(100 * images, SMALL_LABELS, 4.0, "scaled")
    torch.testing.assert_close(large, small, rtol=1e-10, atol=0)


@pytest.mark.parametrize("form", ["exact", "scaled"])
def test_densify__classes_of_one_image_add_nothing(form):
    images = small_images().requires_grad_()
    loss = densify(images, torch.arange(6), 4.0, form)
    assert loss.item() == 0.0
    pair = torch.tensor([7, 1, 7, 2, 3, 4])
    gradient = torch.autograd.grad(densify(images, pair, 4.0, form), images)[0]
    assert gradient[[0, 2]].abs().max() > 1e-3
    assert torch.equal(gradient[[1, 3, 4, 5]], torch.zeros(4, 2, 3, 2, dtype=torch.float64))


def test_densify__classes_add_up():
    images = small_images()
    parts = [
        densify(images[label == SMALL_LABELS], SMALL_LABELS[label == SMALL_LABELS], 4.0)
        for label in range(3)
    ]
    whole = densify(images, SMALL_LABELS, 4.0)
    torch.testing.assert_close(whole, sum(parts), rtol=1e-12, atol=0)
    assert parts[0] > 1e-3
    assert parts[2] > 1e-3


@pytest.mark.parametrize("size", [33, 48, 64])
@pytest.mark.parametrize("form", ["exact", "scaled"])
def test_densify__large_images_are_pooled_to_32(size, form):
    images, labels = 0.02 * noise(3, 1, size, size), torch.tensor([0, 0, 0])
    pooled = reference.average_pool(images, 32)
    expected = reference.densification(pooled, labels, 4.0, form == "scaled")
    unpooled = reference.densification(images, labels, 4.0, form == "scaled")
    assert abs(expected - unpooled) > 0.01 * expected
    assert densify(images, labels, 4.0, form).item() == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("size", [8, 32])
def test_densify__images_of_32_pixels_or_less_are_taken_as_they_are(size):
    images, labels = noise(3, 1, size, size) / size, torch.tensor([0, 0, 0])
    expected = reference.densification(images, labels, 4.0)
    assert densify(images, labels, 4.0).item() == pytest.approx(expected, rel=1e-9)


@bounded
@given(order=st.permutations(range(6)), form=st.sampled_from(["exact", "scaled"]))
def test_densify__the_order_of_images_does_not_matter(order, form):
    images, order = small_images().requires_grad_(), torch.tensor(order)
    plain = densify(images, SMALL_LABELS, 4.0, form)
    mixed = densify(images[order], SMALL_LABELS[order], 4.0, form)
    torch.testing.assert_close(mixed, plain, rtol=1e-10, atol=0)
    (gradient,) = torch.autograd.grad(plain, images)
    torch.testing.assert_close(
        torch.autograd.grad(mixed, images)[0], gradient, rtol=1e-9, atol=1e-12
    )


def test_densify__equal_images_have_a_finite_gradient():
    # Equal images have repeated eigenvalues (0), where a general solver's gradient is undefined.
    images = small_images()[:1].repeat(4, 1, 1, 1).requires_grad_()
    for form in ("exact", "scaled"):
        loss = densify(images, torch.zeros(4, dtype=torch.long), 4.0, form)
        assert torch.autograd.grad(loss, images)[0].isfinite().all()


@pytest.mark.parametrize("tau", [0.0, -4.0])
def test_densify__tau_that_is_not_positive_is_an_error(tau):
    with pytest.raises(ValueError, match="`tau` must be positive, got"):
        densify(small_images(), SMALL_LABELS, tau)


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
    expected = 0.25 * math.log(0.5) + 0.75 * math.log(
        1.5
    )  # KL(teacher || student), not its reverse
    assert kd_loss(student, teacher, 2.0).item() == pytest.approx(expected, rel=1e-6)
    doubled = kd_loss(student.repeat(2, 1), teacher.repeat(2, 1), 2.0)
    assert doubled.item() == pytest.approx(expected, rel=1e-6)  # mean over the batch


def test_kd_loss__equals_the_sum_over_classes():
    student, teacher = noise(3, 5), noise(3, 5, seed=1)
    expected = 0.0
    for z, s in zip(teacher.tolist(), student.tolist(), strict=True):
        p = reference.softmax([v / 4 for v in z])
        q = reference.softmax([v / 4 for v in s])
        expected += reference.kl_divergence(p, q) / 3
    assert kd_loss(student, teacher, 4.0).item() == pytest.approx(expected, rel=1e-12)


def test_kd_loss__gradient_pulls_the_student_to_the_teacher():
    student, teacher = noise(3, 5).requires_grad_(), noise(3, 5, seed=1)
    (gradient,) = torch.autograd.grad(kd_loss(student, teacher, 4.0), student)
    expected = ((student.detach() / 4).softmax(dim=1) - (teacher / 4).softmax(dim=1)) / (4 * 3)
    torch.testing.assert_close(gradient, expected, rtol=1e-11, atol=1e-15)


def test_kd_loss__tends_to_mse_as_the_temperature_grows():
    # Section 3.3: T^2 KL(T) -> ||p - q||^2 / 2C for logits of zero mean; the error falls as 1 / T.
    student, teacher = noise(6, 10), 3 * noise(6, 10, seed=1)
    student, teacher = (z - z.mean(dim=1, keepdim=True) for z in (student, teacher))
    limit = (student - teacher).square().sum(dim=1).mean() / (2 * 10)
    errors = [
        (T**2 * kd_loss(student, teacher, T) / limit - 1).abs().item()
        for T in (10.0, 100.0, 1000.0)
    ]
    assert errors[2] < 1e-3
    assert errors[1] < 0.2 * errors[0]
    assert errors[2] < 0.2 * errors[1]
    torch.testing.assert_close(limit, mse_gt_loss(student, teacher, torch.zeros(()), 0.0) / 2)
