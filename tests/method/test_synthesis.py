"""A step of synthesis: every term and its gradient against the paper's equations in float64."""

import itertools
from contextlib import ExitStack
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from gvbsm.backbones import matched_layers
from gvbsm.config import SynthesisConfig, ViewConfig
from gvbsm.data.views import sample_views
from gvbsm.method.capture import observing
from gvbsm.method.matching import empty_state
from gvbsm.method.synthesis import choose_teacher, descend, make_stack, step_draws, step_terms
from support import reference
from support.toy import CONVNET, IMAGE, N_P, WRN, captured, slow_matching

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


def one_step(images, stack, targets, config, step, runtime, state=None, average=None):
    """The terms of one step, and the paths of all layers that were matched in it."""
    if state is None:
        state = empty_state(targets, len(stack.numbers), config.ema_start)
    asked = []

    def listening(observer):
        def call(x, wanted, groups):
            asked.extend(wanted)
            return observer(x, wanted, groups)

        return call

    with ExitStack() as contexts:
        observers = {
            target.name: listening(
                contexts.enter_context(
                    observing(target.model, {*target.batchnorm, *target.conv}, N_P)
                )
            )
            for target in targets
        }
        draws = step_draws(runtime, stack.numbers, step)
        terms = step_terms(
            images, stack, targets, observers, state, config, step, draws, runtime, average
        )
    return terms, set(asked)


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


def in_float64(targets):
    """So that rounding is out of the way; pictures in float32 are taken, too."""
    for target in targets:
        target.model.double()
        target.model.register_forward_pre_hook(lambda _module, arguments: arguments[0].double())
    return targets


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


def test_make_stack__known_answer():
    """Two groups of four: classes 5, 5, 2, 2 and 2, 2, 2, 9; class 2 is in both, each by itself."""
    stack = make_stack([4, 7], torch.tensor([5, 5, 2, 2, 2, 2, 2, 9]), CPU)
    assert stack.numbers == (4, 7)
    assert stack.batch == 4
    assert stack.labels.tolist() == [5, 5, 2, 2, 2, 2, 2, 9]
    twos, threes = stack.blocks
    assert sorted(twos.members.tolist()) == [[0, 1], [2, 3]]
    assert twos.group.tolist() == [0, 0]
    assert threes.members.tolist() == [[4, 5, 6]]
    assert threes.group.tolist() == [1]


def test_make_stack__all_of_it_is_on_the_device():
    stack = make_stack((0,), LABELS, torch.device("meta"))
    tensors = [stack.labels, *(part for block in stack.blocks for part in block)]
    assert len(tensors) == 5
    assert all(tensor.is_meta for tensor in tensors)


def test_descend__known_answer(targets_for, runtime):
    """Plain gradient descent, clamped to the valid range of each channel; the average moves on."""
    config, images = replace(CONFIG, beta_dr=0.0), noise(runtime)
    targets = targets_for(config, [WRN])
    state = empty_state(targets, 1, config.ema_start)
    terms, _ = one_step(images, stack_of(0), targets, config, 0, runtime, state)
    (gradient,) = torch.autograd.grad(terms.loss(config).sum(), images, retain_graph=True)
    before, low = images.detach().clone(), torch.tensor([-1.0, -0.5, -2.0])[:, None, None]
    high = torch.tensor([1.0, 0.5, 0.1])[:, None, None]
    images.grad = torch.ones_like(images)  # what an earlier step has left counts no more
    descend(terms, images, torch.optim.SGD([images], lr=2.0), (low, high), state, config)
    expected = (before - 2.0 * gradient).maximum(low).minimum(high)
    torch.testing.assert_close(images.detach(), expected)
    assert (expected == high).any()
    assert (expected == low).any()
    assert ((expected > low) & (expected < high)).any()
    assert terms.changed
    assert all(state[key] is changed for key, changed in terms.changed.items())


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
    targets, stack = in_float64(targets_for(config)), stack_of(3, 8, labels=labels)
    images = 0.3 * torch.randn(12, *IMAGE, generator=runtime.generator("x"), dtype=torch.float64)
    if config.densification == "exact":
        images = images * 0.2  # else the softmax of the eigenvalues is one-hot
    state = empty_state(targets, 2, config.ema_start)
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
        assert {key.split("|")[0] for key in terms.changed} == {name}
        state |= terms.changed
    assert (dropped > 0) == (config.beta_dr > 0)
    assert len(names) == 2  # both teachers have had a turn


def test_draws__of_a_group_are_its_own_and_those_of_all_are_shared(runtime):
    alone, among = step_draws(runtime, (4,), 7), step_draws(runtime, (2, 4, 5), 7)
    other = step_draws(runtime, (4,), 8)
    draw = [
        torch.rand(4, generator=generator).tolist()
        for draws in (alone, among, other)
        for generator in (draws.shared, *draws.groups)
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
    targets, images = in_float64(targets_for(config)), noise(runtime, 3).detach().double()
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


def test_flatness__compares_with_the_copy_under_the_same_view(targets_for, teachers, runtime):
    """By slow views; of each group as if alone; and the copy gets no gradient."""
    config = replace(CONFIG, weight_flatness=0.25)
    images, targets = noise(runtime, 2), targets_for(config)
    copies = (0.5 * images.detach() + 0.3).requires_grad_()
    terms, _ = one_step(
        images, stack_of(2, 6), targets, config, 1, runtime, average=copies
    )  # fmt: skip
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
    assert terms.flatness.tolist() == pytest.approx([e.item() for e in expected], rel=1e-4)
    plain, _ = one_step(images, stack_of(2, 6), targets, CONFIG, 1, runtime)
    assert torch.allclose(terms.loss(config), plain.loss(CONFIG) + 0.25 * terms.flatness)
    terms.flatness.sum().backward(retain_graph=True)
    assert copies.grad is None
    assert images.grad.abs().max() > 0
    rows = terms.read(images)
    assert [row["flatness"] for row in rows] == terms.flatness.tolist()
    assert "flatness" not in plain.read(images)[0]


def test_terms__are_read_for_each_group(targets_for, runtime):
    """With the norm of the densification's gradient, which is that of the group's own images."""
    config, images = replace(CONFIG, beta_dr=0.5), noise(runtime, 3)
    stack = stack_of(1, 2, 3, labels=(LABELS, torch.arange(6) % 4, OTHER))
    terms, _ = one_step(images, stack, targets_for(config), config, 0, runtime)
    rows = terms.read(images)
    assert len(rows) == 3
    (gradient,) = torch.autograd.grad(terms.densification.sum(), images, retain_graph=True)
    for row, group, own in zip(rows, range(3), gradient.split(6), strict=True):
        assert row["teacher"] == terms.teacher
        for term in TERMS:
            assert row[term] == getattr(terms, term).detach().expand(3)[group].item()
        assert row["densification_gradient"] == pytest.approx(own.norm().item(), rel=1e-5)
        assert own.norm() > 1e-4


def test_terms__of_classes_of_one_image_have_no_densification(targets_for, runtime):
    images = noise(runtime)[:4].detach().requires_grad_()
    labels = torch.tensor([1, 0, 1, 0])  # two groups of one image of either class
    stack = make_stack((0, 1), labels, CPU)
    terms, _ = one_step(images, stack, targets_for(CONFIG), CONFIG, 0, runtime)
    assert terms.densification.tolist() == [0.0, 0.0]
    assert [row["densification_gradient"] for row in terms.read(images)] == [0.0, 0.0]
    together = make_stack((0,), labels, CPU)
    terms, _ = one_step(images, together, targets_for(CONFIG), CONFIG, 0, runtime)
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
            begun = terms.changed[f"{WRN}|{name}"].started.tolist()
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
