"""A step of synthesis: every term and its gradient against the paper's equations in float64."""

import itertools
import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from gvbsm.config import SynthesisConfig, ViewConfig
from gvbsm.data.views import sample_views
from gvbsm.method.beyond.flatness import Flatness
from gvbsm.method.groups import make_stack
from gvbsm.method.layers import matched_layers
from gvbsm.method.matching import empty_averages
from gvbsm.method.synthesis import (
    DivergedError,
    State,
    choose_teacher,
    descend,
    step_draws,
    step_terms,
    synthesize,
)
from support import reference
from support.matching import in_float64
from support.toy import CONVNET, IMAGE, WRN, captured, slow_matching

CONFIG = SynthesisConfig(
    views=ViewConfig(crop="resized", scale=(0.3, 1.0), roll=3), densification="scaled"
)
CPU = torch.device("cpu")
LABELS = torch.tensor([0, 0, 0, 1, 1, 2])
OTHER = torch.tensor([1, 3, 1, 3, 3, 3])
TERMS = ("cross_entropy", "batchnorm", "conv", "densification")


def stack_of(*numbers, labels=None):
    """Groups of six images, of the same classes unless told otherwise."""
    labels = torch.cat([LABELS] * len(numbers) if labels is None else labels)
    return make_stack(numbers, labels, CPU)


def noise(runtime, groups=1):
    shape = (6 * groups, *IMAGE)
    return torch.randn(shape, generator=runtime.generator("x"), requires_grad=True)


def state_of(images, stack, teachers, config):
    """The state before the first iteration, with pixels of any size allowed."""
    averages = {t.name: empty_averages(t, stack.groups, config.ema_start) for t in teachers}
    bounds = torch.tensor(-math.inf), torch.tensor(math.inf)
    return State(images, bounds, torch.optim.SGD([images], lr=2.0), averages)


def one_step(images, stack, teachers, config, step, runtime, state=None, extras=()):
    """The terms of one step, and the paths of all layers that were matched in it."""
    state = state or state_of(images, stack, teachers, config)
    state.images, state.step = images, step
    asked = []

    def listening(observe):
        def call(x, wanted, groups):
            asked.extend(wanted)
            return observe(x, wanted, groups)

        return call

    watched = [replace(teacher, observe=listening(teacher.observe)) for teacher in teachers]
    return step_terms(state, stack, watched, config, runtime, extras), set(asked)


def slow_views(images, config, generator):
    """The views of a group's step, whose parameters are what its generator gives first."""
    drawn = sample_views(len(images), 8, 8, generator, config.views)
    seen = []
    for image, box, flip, roll in zip(images, *drawn, strict=True):
        view = reference.resized_crop(reference.roll(image, *roll.tolist()), *box.tolist())
        seen.append(reference.mirror(view) if flip else view)
    return torch.stack(seen)


def slow_densification(images, labels, config):
    """Eq. 4 and 5 with gradient; its value is that of the twin's complex eigenvalues."""
    total = 0
    for label in set(labels.tolist()):
        rows = images[label == labels].flatten(1)
        gram = rows @ rows.T
        if config.densification == "scaled":
            gram = gram / (gram.trace() / len(rows))
        values = torch.linalg.eigvalsh(gram)
        target = (values.detach() / config.tau).softmax(0)
        total = total + (target * (target.log() - values.log_softmax(0))).sum()
    scaled = config.densification == "scaled"
    expected = reference.densification(images.detach(), labels, config.tau, scaled)
    assert float(total.detach()) == pytest.approx(expected, rel=1e-9, abs=1e-12)
    return total


# Teachers and stacks


def test_choose_teacher__uniform_draws_and_turns(runtime):
    generators = [runtime.generator("choice", step) for step in range(600)]
    drawn = [choose_teacher(3, step, "uniform", g) for step, g in enumerate(generators)]
    assert set(drawn) == {0, 1, 2}
    assert all(160 < drawn.count(index) < 240 for index in range(3))  # 3.5 deviations
    repeats = sum(a == b for a, b in itertools.pairwise(drawn))
    assert 150 < repeats < 250  # a draw does not look at the one before
    turns = [choose_teacher(3, step, "round_robin", g) for step, g in enumerate(generators)]
    assert turns == [0, 1, 2] * 200


def test_choose_teacher__takes_as_much_from_the_generator_in_either_order(runtime):
    """So that the dropped layers, which are drawn next, are the same ones."""
    following = []
    for order in ("uniform", "round_robin"):
        generator = runtime.generator("choice")
        choose_teacher(3, 1, order, generator)
        following.append(torch.rand(4, generator=generator).tolist())
    assert following[0] == following[1]


@pytest.mark.parametrize("numbers", [(0,), (0, 5)])
def test_descend__known_answer(numbers, targets_for, runtime):
    """Plain gradient descent, clamped to the valid range of each channel; the average moves on.

    Each group goes down its own loss: the step of its pixels is not divided among the groups.
    """
    config, images = replace(CONFIG, beta_dr=0.0), noise(runtime, len(numbers))
    targets, stack = targets_for(config, [WRN]), stack_of(*numbers)
    state = state_of(images, stack, targets, config)
    terms, _ = one_step(images, stack, targets, config, 0, runtime, state)
    loss = terms.loss(config)
    (gradient,) = torch.autograd.grad(loss.sum(), images, retain_graph=True)
    before, low = images.detach().clone(), torch.tensor([-1.0, -0.5, -2.0])[:, None, None]
    high = torch.tensor([1.0, 0.5, 0.1])[:, None, None]
    state.bounds = low, high
    images.grad = torch.ones_like(images)  # what an earlier step has left counts no more
    descend(loss, terms, state)
    expected = (before - 2.0 * gradient).maximum(low).minimum(high)
    torch.testing.assert_close(images.detach(), expected)
    assert (expected == high).any()
    assert (expected == low).any()
    assert ((expected > low) & (expected < high)).any()
    assert terms.averages
    assert all(state.averages[WRN][key] is average for key, average in terms.averages.items())


# Terms


@pytest.mark.parametrize(
    "changed",
    [
        {},
        {"alpha": 0.0, "beta_dr": 0.0},
        {"ema_start": "zero", "first_layer_multiplier": 1.0},
        {"densification": "exact", "tau": 2.0, "beta_dr": 0.7, "backbone_order": "round_robin"},
    ],
    ids=["default", "no-ema", "from-zero", "drop-more"],
)
def test_terms__equal_the_equations_over_three_steps(changed, targets_for, statistics, runtime):
    """In each of two groups, of which each has its views, its classes and its history."""
    config, labels = replace(CONFIG, **changed), (LABELS, OTHER)
    targets, stack = [*map(in_float64, targets_for(config))], stack_of(3, 8, labels=labels)
    images = 0.3 * torch.randn(12, *IMAGE, generator=runtime.generator("x"), dtype=torch.float64)
    if config.densification == "exact":
        images = images * 0.2  # else the softmax of the eigenvalues is one-hot
    state = state_of(images.requires_grad_(), stack, targets, config)
    histories = [{CONVNET: {}, WRN: {}} for _ in range(2)]
    dropped, names = 0, set()
    for step in range(3):
        images = (images.detach() + 0.05 * step).requires_grad_()
        terms, matched = one_step(images, stack, targets, config, step, runtime, state)
        name = terms.teacher
        names.add(name)
        kept = [path for path in statistics[name] if path in matched]
        dropped += len(statistics[name]) - len(kept)
        target = next(target for target in targets if target.name == name)
        twins = images.detach().clone().requires_grad_()
        slow = []
        for group, twin in enumerate(twins.split(6)):
            number = stack.numbers[group]
            seen = slow_views(twin, config, runtime.generator("synthesis", step, number))
            logits, inputs = captured(target.model, seen)
            batchnorm, conv = slow_matching(
                target, inputs, statistics[name], kept, histories[group][name], config
            )
            entropy = F.cross_entropy(logits, labels[group])
            slow.append([entropy, batchnorm, conv, slow_densification(seen, labels[group], config)])
        weights, total = torch.tensor([1.0, 3.0], dtype=torch.float64), 0
        for term, values in zip(TERMS, zip(*slow, strict=True), strict=True):
            ours, theirs = getattr(terms, term), torch.stack(values)
            rtol = 1e-6 if term == "cross_entropy" else 1e-9  # that one of ours is float32
            found = ours.detach().expand(2).tolist()
            assert found == pytest.approx(theirs.tolist(), rel=rtol, abs=1e-12), term
            total = total + getattr(config, f"weight_{term}") * theirs
            if theirs.requires_grad and rtol < 1e-8:
                (gradient,) = torch.autograd.grad((weights * ours).sum(), images, retain_graph=True)
                (wanted,) = torch.autograd.grad((weights * theirs).sum(), twins, retain_graph=True)
                scale = float(wanted.abs().max())
                torch.testing.assert_close(gradient, wanted, rtol=1e-7, atol=1e-9 * scale + 1e-14)
        (gradient,) = torch.autograd.grad((weights * terms.loss(config)).sum(), images)
        (wanted,) = torch.autograd.grad((weights * total).sum(), twins)
        largest = float(wanted.abs().max())
        torch.testing.assert_close(gradient, wanted, rtol=1e-5, atol=1e-6 * largest)
        assert terms.averages.keys() == {"channel", "patch"}
        state.averages[name] |= terms.averages
    assert (dropped > 0) == (config.beta_dr > 0)
    assert len(names) == 2  # both teachers have had a turn


def test_draws__of_a_group_are_its_own_and_those_of_all_are_shared(runtime):
    alone, among = step_draws(runtime, (4,), 7), step_draws(runtime, (2, 4, 5), 7)
    other = step_draws(runtime, (4,), 8)
    draw = [
        torch.rand(4, generator=generator).tolist()
        for draws in (alone, among, other)
        for generator in (draws[0], *draws[1])
    ]
    (shared, own), (shared_among, second, own_among, fifth), (next_shared, next_own) = (
        draw[:2],
        draw[2:6],
        draw[6:],
    )
    assert shared == shared_among
    assert own == own_among
    distinct = [shared, own, second, fifth, next_shared, next_own]
    assert len(set(map(tuple, distinct))) == len(distinct)


def test_terms__of_a_group_do_not_depend_on_what_it_is_stacked_with(targets_for, runtime):
    config = replace(CONFIG, beta_dr=0.5)
    targets = [*map(in_float64, targets_for(config))]
    images = noise(runtime, 3).detach().double()
    labels = (LABELS, OTHER, OTHER.flip(0))
    for step in range(3):
        together, matched = one_step(
            images, stack_of(2, 6, 4, labels=labels), targets, config, step, runtime
        )
        for place, number in enumerate((2, 6, 4)):
            part = images[6 * place : 6 * place + 6]
            alone, kept = one_step(
                part, stack_of(number, labels=[labels[place]]), targets, config, step, runtime
            )
            assert (alone.teacher, kept) == (together.teacher, matched)
            for term in TERMS:
                ours = getattr(together, term).expand(3)[place]
                assert float(ours) == pytest.approx(getattr(alone, term).item(), rel=1e-6), term


@pytest.mark.parametrize("name", [CONVNET, WRN])
def test_terms__in_bf16_are_near_those_in_float32(name, targets_for, runtime):
    """Losses and averages are as wide as ever: the networks alone compute in bf16."""
    config, found = replace(CONFIG, beta_dr=0.0), []
    for precision in ("fp32", "bf16"):
        images, targets = noise(runtime, 2), targets_for(config, [name])
        narrow = replace(runtime, precision=precision)
        terms, _ = one_step(images, stack_of(2, 6), targets, config, 0, narrow)
        assert terms.cross_entropy.dtype == terms.densification.dtype == torch.float32
        assert terms.averages["channel"].variance.dtype == terms.conv.dtype == torch.float64
        (gradient,) = torch.autograd.grad(terms.loss(config).sum(), images)
        found.append((terms, gradient.flatten()))
    (wide, expected), (ours, gradient) = found
    for term in TERMS:
        values = [getattr(part, term).detach().expand(2).tolist() for part in (ours, wide)]
        assert values[0] == pytest.approx(values[1], rel=0.02), term
    assert torch.cosine_similarity(gradient, expected, dim=0) > 0.99
    assert not torch.equal(gradient, expected)


def test_flatness__compares_with_the_copy_under_the_same_view(targets_for, teachers, runtime):
    """By slow views; of each group as if alone; and the copy gets no gradient."""
    config = replace(CONFIG, weight_flatness=0.25, flatness_tau=2.0)
    images, targets = noise(runtime, 2), targets_for(config)
    copies = (0.5 * images.detach() + 0.3).requires_grad_()
    state = state_of(images, stack_of(2, 6), targets, config)
    state.copies["flatness"] = copies
    extras = [Flatness(config, runtime)]
    terms, _ = one_step(images, stack_of(2, 6), targets, config, 1, runtime, state, extras)
    expected, model = [], teachers[terms.teacher]
    for number, own in ((2, slice(0, 6)), (6, slice(6, 12))):
        both = [
            model(
                slow_views(
                    part[own].double(), config, runtime.generator("synthesis", 1, number)
                ).float()
            )
            for part in (images.detach(), copies.detach())
        ]
        p, q = (torch.softmax(logits / config.flatness_tau, dim=1) for logits in both)
        expected.append((p * (p / q).log()).sum(dim=1).mean())
    term = terms.extra["flatness"]
    assert term.tolist() == pytest.approx([e.item() for e in expected], rel=1e-4)
    plain, _ = one_step(images, stack_of(2, 6), targets, CONFIG, 1, runtime)
    assert torch.allclose(terms.loss(config), plain.loss(CONFIG) + 0.25 * term)
    term.sum().backward(retain_graph=True)
    assert copies.grad is None
    assert images.grad.abs().max() > 0
    assert terms.values()["flatness"] == term.tolist()
    assert "flatness" not in plain.values()


def test_synthesize__yields_the_terms_of_each_group(targets_for, runtime):
    """With the norm of the densification's gradient, which is that of the group's own images."""
    config, images = replace(CONFIG, beta_dr=0.5, iterations=2), noise(runtime, 3)
    stack = stack_of(1, 2, 3, labels=(LABELS, torch.arange(6) % 4, OTHER))
    targets = targets_for(config)
    terms, _ = one_step(images, stack, targets, config, 0, runtime)
    (gradient,) = torch.autograd.grad(terms.densification.sum(), images, retain_graph=True)
    state = state_of(images, stack, targets, config)
    first, second = synthesize(state, stack, targets, config, runtime, measured={0})
    assert (first.number, second.number, state.step) == (0, 1, 2)
    assert first.teacher == terms.teacher
    torch.testing.assert_close(first.loss, terms.loss(config).detach())
    for group, own in enumerate(gradient.split(6)):
        for term in TERMS:
            value = getattr(terms, term).detach().expand(3)[group].item()
            assert first.terms[term][group] == value
        norm = first.densification_gradient[group]
        assert norm == pytest.approx(own.norm().item(), rel=1e-5)
        assert own.norm() > 1e-4
    assert (second.terms, second.densification_gradient) == ({}, [])  # it is not measured


def test_synthesize__goes_on_from_its_state(targets_for, runtime):
    """Stopped after any iteration, with the state alone kept, it ends at the same pixels."""
    config = replace(CONFIG, beta_dr=0.5, iterations=5)
    targets, stack = targets_for(config), stack_of(3)
    whole = state_of(noise(runtime), stack, targets, config)
    assert len([*synthesize(whole, stack, targets, config, runtime)]) == 5
    halves = state_of(noise(runtime), stack, targets, config)
    for wanted in (2, 1, 2):
        steps = synthesize(halves, stack, targets, config, runtime)
        assert len([*itertools.islice(steps, wanted)]) == wanted
    assert torch.equal(halves.images, whole.images)


def test_synthesize__stops_before_a_step_that_diverges(targets_for, teachers, runtime):
    teachers[WRN].get_parameter("classifier.bias").data[0] = math.nan
    targets, stack, images = targets_for(CONFIG, [WRN]), stack_of(3), noise(runtime)
    state, before = state_of(images, stack, targets, CONFIG), images.detach().clone()
    with pytest.raises(DivergedError, match="not finite at iteration 0") as error:
        next(synthesize(state, stack, targets, CONFIG, runtime, measured={0}))
    assert (error.value.step, error.value.teacher) == (0, WRN)
    assert torch.equal(state.images, before)
    assert state.step == 0


def test_terms__of_classes_of_one_image_have_no_densification(targets_for, runtime):
    images = noise(runtime)[:4].detach().requires_grad_()
    labels = torch.tensor([1, 0, 1, 0])  # two groups of one image of either class
    stack, targets = make_stack((0, 1), labels, CPU), targets_for(CONFIG)
    terms, _ = one_step(images, stack, targets, CONFIG, 0, runtime)
    assert terms.densification.tolist() == [0.0, 0.0]
    state = state_of(images, stack, targets, CONFIG)
    step = next(synthesize(state, stack, targets, CONFIG, runtime, measured={0}))
    assert step.densification_gradient == [0.0, 0.0]
    together = make_stack((0,), labels, CPU)
    terms, _ = one_step(images, together, targets, CONFIG, 0, runtime)
    assert terms.densification.item() > 0


def test_dropped_layers_are_drawn_each_by_itself(targets_for, runtime):
    config = replace(CONFIG, beta_dr=0.5)
    (target,), images = targets_for(config, [WRN]), noise(runtime)
    drawn, counts = set(), dict.fromkeys(target.conv, 0)
    for step in range(12):
        terms, matched = one_step(images, stack_of(0), [target], config, step, runtime)
        assert matched >= set(target.batchnorm)  # these are never dropped
        kept = matched - set(target.batchnorm)
        drawn.add(frozenset(kept))
        for path in kept:
            counts[path] += 1
        for name, level in target.levels.items():  # a layer is dropped as a whole
            begun = terms.averages[name].started.tolist()
            assert {path for path, has in zip(level.layers, begun, strict=True) if has} == (
                matched if name == "channel" else kept
            )
    assert all(0 < count < 12 for count in counts.values())
    assert 0.3 < sum(counts.values()) / (12 * len(counts)) < 0.7
    assert len(drawn) > 6


@pytest.mark.parametrize(("beta_dr", "share"), [(0.0, 1.0), (0.2, 0.8), (1.0, 0.0)])
def test_beta_dr_is_the_share_that_is_dropped(beta_dr, share, targets_for, runtime):
    config = replace(CONFIG, beta_dr=beta_dr)
    (target,), images = targets_for(config, [WRN]), noise(runtime)
    kept = 0
    for step in range(20):
        terms, matched = one_step(images, stack_of(0), [target], config, step, runtime)
        kept += len(matched & set(target.conv))
        if beta_dr == 1.0:
            assert terms.conv.item() == 0
            assert matched == set(target.batchnorm)
    assert kept / (20 * len(target.conv)) == pytest.approx(share, abs=0.08 * (0 < share < 1))


@pytest.mark.parametrize("off", TERMS)
def test_weight_zero_switches_a_term_off(off, targets_for, runtime):
    config = replace(CONFIG, beta_dr=0.0, **{f"weight_{off}": 0.0})
    images = noise(runtime)
    (target,) = targets_for(config, [WRN])
    terms, matched = one_step(images, stack_of(0), [target], config, 0, runtime)
    others = sum(
        getattr(config, f"weight_{term}") * getattr(terms, term) for term in TERMS if term != off
    )
    (gradient,) = torch.autograd.grad(terms.loss(config).sum(), images, retain_graph=True)
    assert torch.equal(gradient, torch.autograd.grad(others.sum(), images)[0])
    if off != "cross_entropy":
        assert getattr(terms, off).sum().item() == 0
        for term in set(TERMS) - {off}:
            assert getattr(terms, term).item() > 0
    layers = matched_layers(target.model)
    assert matched & set(layers.batchnorm) == (set() if off == "batchnorm" else {*layers.batchnorm})
    assert matched & set(layers.conv) == (set() if off == "conv" else {*layers.conv})
