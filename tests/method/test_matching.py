"""What a teacher's layers are to see, and the distance from it: Eq. 6 and 10 in slow float64."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from gvbsm.config import SynthesisConfig
from gvbsm.method.matching import (
    empty_averages,
    make_teacher,
    matching_loss,
)
from gvbsm.method.moments import Moments, counts
from gvbsm.method.statistics import Statistics
from support import reference
from support.matching import BATCH, KEPT, in_float64, pictures, seen_by
from support.toy import (
    CONVNET,
    FIRST,
    IMAGE,
    N_P,
    WRN,
    captured,
    slow_matching,
)

CONFIG = SynthesisConfig()


def numbers_of(state, target, path, group):
    """One layer's four averages in one group (two, if only channels are matched)."""
    found = []
    for name, level in target.levels.items():
        if path in level.layers:
            average = state[name]
            mine = level.layer_index == level.layers.index(path)
            found += [average.mean[group, mine], average.variance[group, mine]]
    return found


def started(state, target):
    """Layers that have begun an average, by level."""
    return {
        name: {
            path
            for path, begun in zip(level.layers, state[name].started.tolist(), strict=True)
            if begun
        }
        for name, level in target.levels.items()
    }


# Targets


def test_make_teacher__lays_the_layers_end_to_end(targets_for, teachers, statistics):
    (target,) = targets_for(CONFIG, [WRN])
    assert (target.name, target.model) == (WRN, teachers[WRN])
    norms = [p for p, m in teachers[WRN].named_modules() if isinstance(m, nn.BatchNorm2d)]
    assert target.batchnorm == tuple(norms)
    assert target.conv == tuple(statistics[WRN])
    channel, patch = target.levels["channel"], target.levels["patch"]
    assert channel.layers == (*target.batchnorm, *target.conv)
    assert patch.layers == target.conv
    _, inputs = captured(teachers[WRN], torch.zeros(1, *IMAGE))
    for level, row in ((channel, 0), (patch, 1)):
        for moments in level.target:
            assert moments.dtype == torch.float64
            assert moments.shape == level.layer_index.shape == (sum(level.sizes),)
        for index, path in enumerate(level.layers):
            mine = level.layer_index == index
            assert int(mine.sum()) == level.sizes[index]
            each = counts(inputs[path].shape[1:], N_P)[row].flatten()
            assert torch.equal(level.per_picture[mine], each)
            if path in target.batchnorm:
                layer = teachers[WRN].get_submodule(path)
                wanted = layer.running_mean, layer.running_var
            else:
                wanted = statistics[WRN][path][2 * row : 2 * row + 2]
            for ours, theirs in zip(level.target, wanted, strict=True):
                assert torch.equal(ours[mine], theirs.double().flatten())


@pytest.mark.parametrize(("name", "first"), FIRST.items())
def test_make_teacher__weighs_the_layer_that_sees_the_image(name, first, targets_for):
    (target,) = targets_for(replace(CONFIG, first_layer_multiplier=7.0), [name])
    layers = target.levels["channel"].layers
    expected = [7.0 if path == first else 1.0 for path in layers]
    assert target.factors.tolist() == expected
    assert expected.count(7.0) == 1


def test_make_teacher__leaves_out_what_is_not_matched(targets_for):
    (without,) = targets_for(replace(CONFIG, weight_conv=0.0, first_layer_multiplier=3.0), [WRN])
    assert without.conv == ()
    assert without.levels["channel"].layers == without.batchnorm != ()
    assert without.levels["patch"].layers == ()
    assert without.factors.tolist() == [3.0] + [1.0] * (len(without.batchnorm) - 1)
    (conv,) = targets_for(replace(CONFIG, weight_batchnorm=0.0), [WRN])
    assert conv.batchnorm == ()
    assert conv.levels["channel"].layers == conv.levels["patch"].layers == conv.conv != ()
    (plain,) = targets_for(CONFIG, [CONVNET])
    assert plain.batchnorm == ()


@pytest.mark.parametrize(("start", "begun"), [("zero", True), ("first", False)])
def test_empty_averages__are_zero_and_say_whether_they_count(start, begun, targets_for):
    for target in targets_for(CONFIG):
        averages = empty_averages(target, 3, start)
        assert averages.keys() == {"channel", "patch"}
        for name, level in target.levels.items():
            average = averages[name]
            for part in (average.mean, average.variance):
                assert torch.equal(part, torch.zeros(3, sum(level.sizes), dtype=torch.float64))
            assert average.started.tolist() == [begun] * len(level.layers)


# Distances


@pytest.mark.parametrize("groups", [1, 3])
@pytest.mark.parametrize("name", [CONVNET, WRN])
@pytest.mark.parametrize(
    "changed",
    [
        {},
        {"alpha": 0.0, "first_layer_multiplier": 1.0},
        {"ema_start": "zero", "alpha": 0.4},
        {"weight_batchnorm": 0.0},
        {"weight_conv": 0.0},
    ],
    ids=["default", "no-ema", "from-zero", "conv-alone", "batchnorm-alone"],
)
def test_matching_loss__equals_eq_6_and_10_over_a_descent(
    changed, name, groups, targets_for, teachers, statistics
):
    """Values, gradients and averages of each group, while convolutions come and go."""
    config = replace(CONFIG, **changed)
    if not config.weight_conv and name == WRN:
        first = next(p for p, m in teachers[WRN].named_modules() if isinstance(m, nn.BatchNorm2d))
    else:
        first = FIRST[name]
    (target,) = targets_for(config, [name])
    in_float64(target)
    state = empty_averages(target, groups, config.ema_start)
    histories = [{} for _ in range(groups)]
    images = pictures(groups)
    weights = torch.linspace(1.0, 2.0, groups, dtype=torch.float64)
    for share in KEPT:
        kept = target.conv[share]
        images = images.detach().requires_grad_()
        twin = images.detach().clone().requires_grad_()
        batchnorm, conv, changed = matching_loss(
            seen_by(target, images, groups, kept), target, state, BATCH, config.alpha
        )
        assert changed.keys() <= state.keys()
        _, inputs = captured(target.model, twin)
        expected = []
        for group in range(groups):
            own = {path: x[group * BATCH : (group + 1) * BATCH] for path, x in inputs.items()}
            expected.append(
                slow_matching(target, own, statistics[name], kept, histories[group], config, first)
            )
        slow = [torch.stack(parts) for parts in zip(*expected, strict=True)]
        total = slow_total = 0
        for scale, ours, theirs in zip((1.0, 3.0), (batchnorm, conv), slow, strict=True):
            torch.testing.assert_close(ours.expand(groups), theirs, rtol=1e-9, atol=1e-12)
            total = total + scale * (weights * ours).sum()
            slow_total = slow_total + scale * (weights * theirs).sum()
        if slow_total.requires_grad:
            (gradient,) = torch.autograd.grad(total, images)
            (wanted,) = torch.autograd.grad(slow_total, twin)
            largest = float(wanted.abs().max())
            torch.testing.assert_close(gradient, wanted, rtol=1e-7, atol=1e-9 * largest)
            images = images - 0.1 * gradient
        else:
            assert not kept
            assert not target.batchnorm
            assert total == 0
        state |= changed
        for group, history in enumerate(histories):
            for key, totals in history.items():
                path, kind = key.split(" ")
                found = numbers_of(state, target, path, group)
                assert len(found) == len(totals) == (2 if kind == "bn" else 4)
                for ours, theirs in zip(found, totals, strict=True):
                    torch.testing.assert_close(ours, theirs.flatten(), rtol=1e-9, atol=1e-12)
    if target.conv or target.batchnorm:
        assert (images - pictures(groups)).abs().max() > 0.01


def test_matching_loss__each_group_is_as_if_alone(targets_for):
    targets = targets_for(CONFIG)
    for target in targets:
        in_float64(target)
        together = empty_averages(target, 3, "first")
        alone = [empty_averages(target, 1, "first") for _ in range(3)]
        for step, share in enumerate(KEPT):
            images, kept = pictures(3, seed=step), target.conv[share]
            found = matching_loss(seen_by(target, images, 3, kept), target, together, BATCH, 0.8)
            together |= found[2]
            for group, part in enumerate(images.chunk(3)):
                own = matching_loss(
                    seen_by(target, part, 1, kept), target, alone[group], BATCH, 0.8
                )
                alone[group] |= own[2]
                for ours, theirs in zip(found[:2], own[:2], strict=True):
                    torch.testing.assert_close(
                        ours.expand(3)[group], theirs.squeeze(), rtol=1e-10, atol=0
                    )
                for key, average in alone[group].items():
                    torch.testing.assert_close(together[key].mean[group], average.mean[0])
                    torch.testing.assert_close(together[key].variance[group], average.variance[0])
                    assert torch.equal(together[key].started, average.started)


@pytest.mark.parametrize("start", ["first", "zero"])
def test_matching_loss__leaves_the_average_of_dropped_layers_alone(start, targets_for):
    (target,) = targets_for(CONFIG, [WRN])
    state = empty_averages(target, 2, start)
    seen = set(target.conv) if start == "zero" else set()
    for step, share in enumerate(KEPT):
        kept = set(target.conv[share])
        before = {key: type(part)(*(v.clone() for v in part)) for key, part in state.items()}
        sums = seen_by(target, pictures(2, seed=step).float(), 2, kept)
        _, conv, changed = matching_loss(sums, target, state, BATCH, 0.8)
        for key, part in before.items():  # a new state is made, and the old one kept
            assert all(torch.equal(*pair) for pair in zip(part, state[key], strict=True))
        state |= changed
        seen |= kept
        assert started(state, target) == {"channel": {*target.batchnorm, *seen}, "patch": seen}
        for path in target.levels["channel"].layers:
            for group in range(2):
                pairs = [numbers_of(each, target, path, group) for each in (before, state)]
                for old, new in zip(*pairs, strict=True):
                    if path in kept or path in target.batchnorm:
                        assert (old != new).any(), path
                    else:
                        assert torch.equal(old, new), path
        assert (conv > 0).all() == bool(kept)
        assert all(not value.requires_grad for part in changed.values() for value in part)


def test_matching_loss__dropped_layers_add_nothing_to_value_and_gradient(targets_for):
    """What would be matched anyway is the sum over single layers."""
    (target,) = targets_for(CONFIG, [WRN])
    in_float64(target)
    images = pictures(2).requires_grad_()
    state = empty_averages(target, 2, "first")

    def conv(kept):
        return matching_loss(seen_by(target, images, 2, kept), target, state, BATCH, 0.8)[1]

    chosen = target.conv[::4]
    whole, parts = conv(chosen), [conv([path]) for path in chosen]
    torch.testing.assert_close(whole, sum(parts), rtol=1e-12, atol=0)
    (gradient,) = torch.autograd.grad(whole.sum(), images)
    (expected,) = torch.autograd.grad(sum(parts).sum(), images)
    torch.testing.assert_close(gradient, expected, rtol=1e-10, atol=1e-14)


def test_matching_loss__nothing_to_pull_where_it_is_as_wanted(targets_for):
    """Loss and gradient are exactly 0, and not NaN; a layer that differs still pulls."""
    (target,) = targets_for(CONFIG, [WRN])
    in_float64(target)
    images = pictures(1).requires_grad_()
    sums = seen_by(target, images, 1, target.conv)
    state = empty_averages(target, 1, "first")
    _, _, own = matching_loss(sums, target, state, BATCH, 0.8)  # the first step's are the batch's
    levels = {
        name: level._replace(target=Moments(own[name].mean[0], own[name].variance[0]))
        for name, level in target.levels.items()
    }
    met = replace(target, levels=levels)
    losses = matching_loss(sums, met, state, BATCH, 0.8)[:2]
    assert [loss.tolist() for loss in losses] == [[0.0], [0.0]]
    (gradient,) = torch.autograd.grad(sum(losses).sum(), images, retain_graph=True)
    assert torch.equal(gradient, torch.zeros_like(gradient))

    level = levels["channel"]
    other = level.target.mean + 2.0 * (level.layer_index == 0)  # the first BatchNorm alone
    levels["channel"] = level._replace(target=Moments(other, level.target.variance))
    batchnorm, conv, _ = matching_loss(sums, met, state, BATCH, 0.8)
    assert batchnorm.tolist() == pytest.approx([2.0 * level.sizes[0] ** 0.5])
    assert conv.tolist() == [0.0]
    (gradient,) = torch.autograd.grad(batchnorm.sum(), images)
    assert gradient.isfinite().all()
    assert gradient.abs().max() > 0


@pytest.mark.parametrize("groups", [1, 2])
def test_matching_loss__a_teacher_without_matched_layers(groups):
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 4)).eval()
    target = make_teacher("plain", model, Statistics({}, {}), CONFIG, N_P, IMAGE)
    assert target.batchnorm == target.conv == ()
    state = empty_averages(target, groups, "first")
    batchnorm, conv, changed = matching_loss({}, target, state, BATCH, 0.8)
    assert batchnorm.expand(groups).tolist() == conv.expand(groups).tolist() == [0.0] * groups
    assert not changed


def test_first_layer__without_conv_matching_it_is_the_first_batchnorm(targets_for):
    config = replace(CONFIG, weight_conv=0.0)

    def batchnorm(multiplier):
        (target,) = targets_for(replace(config, first_layer_multiplier=multiplier), [WRN])
        sums = seen_by(target, images, 1, ())
        state = empty_averages(target, 1, "first")
        return matching_loss(sums, target, state, BATCH, 0.0)[0].item()

    images = pictures(1).float()
    (target,) = targets_for(config, [WRN])
    path = target.batchnorm[0]
    assert path == "group1.0.norm1"
    module = target.model.get_submodule(path)
    found = reference.channel_moments(captured(target.model, images)[1][path])
    wanted = [module.running_mean.double(), module.running_var.double()]
    alone = reference.plain_matching(found, wanted).item()
    assert batchnorm(5.0) - batchnorm(1.0) == pytest.approx(4 * alone, rel=1e-5)
