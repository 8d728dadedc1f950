"""The loss of synthesis: every term and its gradient against the paper's equations in float64."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import reference
from conftest import CONVNET, N_P, WRN, captured
from gvbsm.config import SynthesisConfig, ViewConfig
from gvbsm.loading import view_arguments
from gvbsm.synthesis import step_terms
from gvbsm.views import sample_views

FIRST = {CONVNET: "block1.conv", WRN: "stem"}  # the layers that see the image
PLAIN = ViewConfig(crop="none", flip=False)
CONFIG = SynthesisConfig(
    views=ViewConfig(crop="resized", scale=(0.3, 1.0), roll=3), densification="scaled"
)
LABELS = torch.tensor([0, 0, 0, 1, 1, 2])
TERMS = ("cross_entropy", "batchnorm", "conv", "densification")


def noise(runtime):
    return torch.randn(6, 3, 8, 8, generator=runtime.generator("x"), requires_grad=True)


def slow_views(images, config, generator):
    """The views of a step, whose parameters are what its generator gives first."""
    drawn = sample_views(len(images), 8, 8, generator, **view_arguments(config.views))
    seen = []
    for image, box, flip, roll in zip(images, *drawn, strict=True):
        view = reference.resized_crop(reference.roll(image, *roll.tolist()), *box.tolist())
        seen.append(reference.mirror(view) if flip else view)
    return torch.stack(seen)


def slow_densification(images, config):
    """Eq. 4 and 5 with gradient; its value is that of the twin's complex eigenvalues."""
    total = 0
    for label in set(LABELS.tolist()):
        rows = images[label == LABELS].flatten(1)
        gram = rows @ rows.T
        if config.densification == "scaled":
            gram = gram / (gram.trace() / len(rows))
        values = torch.linalg.eigvalsh(gram)
        target = (values.detach() / config.tau).softmax(0)
        total = total + (target * (target.log() - values.log_softmax(0))).sum()
    scaled = config.densification == "scaled"
    expected = reference.densification(images.detach(), LABELS, config.tau, scaled)
    assert float(total.detach()) == pytest.approx(expected, rel=1e-9, abs=1e-12)
    return total


def slow_matching(target, inputs, real, kept, history, config):
    """L'_BN (Eq. 6) and L'_Conv (Eq. 10); `history` holds mu_total by layer and is updated."""

    def eq_6(key, found, wanted):
        if key not in history and config.ema_start == "zero":
            history[key] = [torch.zeros_like(part) for part in found]
        past = history.get(key, [part.detach() for part in found])  # the first batch is the start
        history[key] = reference.update_totals(past, found, config.alpha)
        return reference.sds_matching(found, wanted, history[key])

    def weight(path):
        return config.first_layer_multiplier if path == FIRST[target.name] else 1

    batchnorm = conv = torch.zeros((), dtype=torch.float64)
    for path, module in target.model.named_modules():
        if isinstance(module, nn.BatchNorm2d):
            wanted = [module.running_mean, module.running_var]
            found = reference.channel_moments(inputs[path])
            batchnorm = batchnorm + weight(path) * eq_6(f"{path} bn", found, wanted)
    for path in kept:
        found = reference.conv_moments(inputs[path], N_P)
        conv = conv + weight(path) * eq_6(f"{path} conv", found, real[path])
    return batchnorm, conv


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
def test_terms__equal_the_equations_over_three_steps(
    changed, teachers, targets_for, statistics, runtime
):
    config = replace(CONFIG, **changed)
    for model in teachers.values():
        model.double()
    targets = targets_for(config)
    images = 0.3 * torch.randn(6, 3, 8, 8, generator=runtime.generator("x"), dtype=torch.float64)
    if config.densification == "exact":
        images = images * 0.2  # else the softmax of the eigenvalues is one-hot
    state, history, dropped, names = {}, {CONVNET: {}, WRN: {}}, 0, set()
    for step in range(3):
        images = (images.detach() + 0.05 * step).requires_grad_()
        draws = [runtime.generator("step", step) for _ in range(2)]
        terms = step_terms(images, LABELS, targets, state, config, N_P, step, draws[0], runtime)
        name = terms.teacher
        names.add(name)
        kept = [path for path in statistics[name] if f"{name}|patch|{path}" in terms.changed]
        dropped += len(statistics[name]) - len(kept)
        twin = images.detach().clone().requires_grad_()
        seen = slow_views(twin, config, draws[1])
        logits, inputs = captured(teachers[name], seen)
        target = next(target for target in targets if target.name == name)
        batchnorm, conv = slow_matching(
            target, inputs, statistics[name], kept, history[name], config
        )
        expected = {
            "cross_entropy": (F.cross_entropy(logits, LABELS), 1e-6),  # ours is float32
            "batchnorm": (batchnorm, 1e-9),
            "conv": (conv, 1e-9),
            "densification": (slow_densification(seen, config), 1e-9),
        }
        total = 0
        for term, (value, rtol) in expected.items():
            ours = getattr(terms, term)
            assert float(ours.detach()) == pytest.approx(
                float(value.detach()), rel=rtol, abs=1e-12
            ), term
            total = total + getattr(config, f"weight_{term}") * value
            if value.requires_grad and rtol < 1e-8:
                (gradient,) = torch.autograd.grad(ours, images, retain_graph=True)
                (slow,) = torch.autograd.grad(value, twin, retain_graph=True)
                scale = float(slow.abs().max())
                torch.testing.assert_close(gradient, slow, rtol=1e-7, atol=1e-9 * scale + 1e-14)
        (gradient,) = torch.autograd.grad(terms.loss(config), images)
        (slow,) = torch.autograd.grad(total, twin)
        torch.testing.assert_close(gradient, slow, rtol=1e-5, atol=1e-6 * float(slow.abs().max()))
        state |= terms.changed
    for key, found in state.items():  # also of the layers that were dropped in later steps
        name, level, path = key.split("|")
        slow = history[name][f"{path} {'bn' if level == 'batchnorm' else 'conv'}"]
        for ours, theirs in zip(found, slow[2:] if level == "patch" else slow[:2], strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)
    assert (dropped > 0) == (config.beta_dr > 0)
    assert len(names) == 2  # both teachers have had a turn


def test_dropped_layers_keep_their_average(teachers, targets_for, runtime):
    config = replace(CONFIG, beta_dr=0.5)
    (target,), images = targets_for(config, [WRN]), noise(runtime)
    changed = [
        step_terms(images, LABELS, [target], {}, config, N_P, s, runtime.generator(s), runtime)
        for s in range(12)
    ]
    levels = [{key.split("|")[1] for key in terms.changed} for terms in changed]
    assert all(found == {"batchnorm", "channel", "patch"} for found in levels)
    counts = dict.fromkeys(target.channel, 0)
    for terms in changed:
        for path in target.channel:
            both = {f"{WRN}|{level}|{path}" in terms.changed for level in ("channel", "patch")}
            assert len(both) == 1  # a layer is dropped as a whole
            counts[path] += both.pop()
        assert all(f"{WRN}|batchnorm|{path}" in terms.changed for path in target.batchnorm)
    assert all(0 < count < 12 for count in counts.values())  # each layer by itself
    assert 0.3 < sum(counts.values()) / (12 * len(counts)) < 0.7
    assert len({tuple(sorted(terms.changed)) for terms in changed}) > 6


@pytest.mark.parametrize(("beta_dr", "share"), [(0.0, 1.0), (0.2, 0.8), (1.0, 0.0)])
def test_beta_dr_is_the_share_that_is_dropped(beta_dr, share, targets_for, runtime):
    config = replace(CONFIG, beta_dr=beta_dr)
    (target,), images = targets_for(config, [WRN]), noise(runtime)
    kept = 0
    for step in range(20):
        terms = step_terms(
            images, LABELS, [target], {}, config, N_P, step, runtime.generator(step), runtime
        )
        kept += sum("|channel|" in key for key in terms.changed)
        if beta_dr == 1.0:
            assert terms.conv.item() == 0
            assert {key.split("|")[1] for key in terms.changed} == {"batchnorm"}
    assert kept / (20 * len(target.channel)) == pytest.approx(share, abs=0.08 * (0 < share < 1))


@pytest.mark.parametrize("off", TERMS)
def test_weight_zero_switches_a_term_off(off, teachers, targets_for, runtime):
    config = replace(CONFIG, beta_dr=0.0, **{f"weight_{off}": 0.0})
    images = noise(runtime)
    terms = step_terms(
        images, LABELS, targets_for(config, [WRN]), {}, config, N_P, 0, runtime.generator(0),
        runtime,
    )  # fmt: skip
    others = sum(
        getattr(config, f"weight_{term}") * getattr(terms, term) for term in TERMS if term != off
    )
    (gradient,) = torch.autograd.grad(terms.loss(config), images, retain_graph=True)
    assert torch.equal(gradient, torch.autograd.grad(others, images)[0])
    if off != "cross_entropy":
        assert getattr(terms, off).item() == 0
        for term in set(TERMS) - {off}:
            assert getattr(terms, term).item() > 0
    levels = {key.split("|")[1] for key in terms.changed}
    gone = {"batchnorm": {"batchnorm"}, "conv": {"channel", "patch"}}.get(off, set())
    assert levels == {"batchnorm", "channel", "patch"} - gone


def test_first_layer__without_conv_matching_it_is_the_first_batchnorm(targets_for, runtime):
    config = replace(CONFIG, weight_conv=0.0, alpha=0.0, views=PLAIN)
    (target,) = targets_for(config, [WRN])
    images = noise(runtime)

    def batchnorm(multiplier):
        changed = replace(config, first_layer_multiplier=multiplier)
        return step_terms(
            images, LABELS, [target], {}, changed, N_P, 0, runtime.generator(0), runtime
        ).batchnorm.item()

    path = next(iter(target.batchnorm))
    assert path == "group1.0.norm1"
    module = target.model.get_submodule(path)
    found = reference.channel_moments(captured(target.model, images)[1][path])
    wanted = [module.running_mean.double(), module.running_var.double()]
    alone = reference.plain_matching(found, wanted).item()
    assert batchnorm(5.0) - batchnorm(1.0) == pytest.approx(4 * alone, rel=1e-5)
