"""What a teacher's layers are to see, and the distance from it: Eq. 6 and 10 in slow float64."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from gvbsm.config import SynthesisConfig
from gvbsm.files.artifacts import load_tensors, save
from gvbsm.method.capture import observing
from gvbsm.method.matching import (
    Statistics,
    at_side,
    empty_state,
    find_members,
    make_target,
    matching_loss,
)
from gvbsm.method.moments import Moments, counts
from support import reference
from support.toy import (
    CONVNET,
    FIRST,
    IMAGE,
    N_P,
    WRN,
    captured,
    class_statistics,
    of_classes,
    slow_matching,
)

CONFIG = SynthesisConfig()
BATCH = 5
# Which share of the convolutions is kept, by step; the first layer is missing at first.
KEPT = (slice(1, None, 2), slice(None), slice(0, None, 3), slice(0, 0))


def in_float64(target):
    """So that rounding is out of the way; pictures in float32 are taken, too."""
    target.model.double()
    target.model.register_forward_pre_hook(lambda _module, arguments: arguments[0].double())
    return target


def pictures(groups, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(groups * BATCH, *IMAGE, generator=generator, dtype=torch.float64)


def seen_by(target, images, groups, kept):
    """Sums of the matched layers without the convolutions that are dropped."""
    with observing(target.model, {*target.batchnorm, *target.conv}, N_P) as observer:
        return observer(images, {*target.batchnorm, *kept}, groups)[1]


def numbers_of(state, target, path, group):
    """One layer's four averages in one group (two, if only channels are matched)."""
    found = []
    for name, level in target.levels.items():
        if path in level.layers:
            average = state[f"{target.name}|{name}"]
            mine = level.owner == level.layers.index(path)
            found += [average.mean[group, mine], average.variance[group, mine]]
    return found


def started(state, target):
    """Layers that have begun an average, by level."""
    return {
        name: {
            path
            for path, begun in zip(
                level.layers, state[f"{target.name}|{name}"].started.tolist(), strict=True
            )
            if begun
        }
        for name, level in target.levels.items()
    }


# Targets


def test_make_target__lays_the_layers_end_to_end(targets_for, teachers, statistics):
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
        for moments in level.wanted:
            assert moments.dtype == torch.float64
            assert moments.shape == level.owner.shape == (sum(level.sizes),)
        for index, path in enumerate(level.layers):
            mine = level.owner == index
            assert int(mine.sum()) == level.sizes[index]
            each = counts(inputs[path].shape[1:], N_P)[row].flatten()
            assert torch.equal(level.per_picture[mine], each)
            if path in target.batchnorm:
                layer = teachers[WRN].get_submodule(path)
                wanted = layer.running_mean, layer.running_var
            else:
                wanted = statistics[WRN][path][2 * row : 2 * row + 2]
            for ours, theirs in zip(level.wanted, wanted, strict=True):
                assert torch.equal(ours[mine], theirs.double().flatten())


def test_at_side__channels_are_compared_and_patches_are_not(targets_for, statistics):
    """Of two groups of other pictures than 8 x 8, by the slow twin in float64."""
    (target,) = map(in_float64, targets_for(CONFIG, [WRN]))
    images = torch.nn.functional.interpolate(pictures(2), (6, 6))
    smaller = at_side(target, images.shape[1:])
    state = empty_state([target], 2, "first")
    seen = seen_by(target, images, 2, target.conv)
    batchnorm, conv, changed = matching_loss(seen, smaller, state, BATCH, 0.8)
    assert changed.keys() == {f"{WRN}|channel"}
    for group, own in enumerate(images.split(BATCH)):
        _, inputs = captured(target.model, own)
        expected = {"batchnorm": 0.0, "conv": 0.0}
        for path, x in inputs.items():
            layer = target.model.get_submodule(path)
            found = reference.channel_moments(x)
            norm = isinstance(layer, nn.BatchNorm2d)
            wanted = [layer.running_mean, layer.running_var] if norm else statistics[WRN][path][:2]
            weight = CONFIG.first_layer_multiplier if path == FIRST[WRN] else 1
            expected["batchnorm" if norm else "conv"] += weight * float(
                reference.sds_matching(found, wanted, [part.detach() for part in found])
            )
        assert float(batchnorm[group]) == pytest.approx(expected["batchnorm"], rel=1e-6)
        assert float(conv[group]) == pytest.approx(expected["conv"], rel=1e-6)
    with pytest.raises(RuntimeError):
        at_side(targets_for(CONFIG, [CONVNET])[0], (3, 6, 6))  # its classifier takes 8 x 8 alone


@pytest.mark.parametrize(("name", "first"), FIRST.items())
def test_make_target__weighs_the_layer_that_sees_the_image(name, first, targets_for):
    (target,) = targets_for(replace(CONFIG, first_layer_multiplier=7.0), [name])
    layers = target.levels["channel"].layers
    expected = [7.0 if path == first else 1.0 for path in layers]
    assert target.factors.tolist() == expected
    assert expected.count(7.0) == 1


def test_make_target__leaves_out_what_is_not_matched(targets_for):
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
def test_empty_state__is_zero_and_says_whether_it_counts(start, begun, targets_for):
    targets = targets_for(CONFIG)
    state = empty_state(targets, 3, start)
    assert state.keys() == {
        f"{n}|{level}" for n in (CONVNET, WRN) for level in ("channel", "patch")
    }
    for target in targets:
        for name, level in target.levels.items():
            average = state[f"{target.name}|{name}"]
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
    state = empty_state([target], groups, config.ema_start)
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
        together = empty_state([target], 3, "first")
        alone = [empty_state([target], 1, "first") for _ in range(3)]
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
    state = empty_state([target], 2, start)
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
    state = empty_state([target], 2, "first")

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
    state = empty_state([target], 1, "first")
    _, _, own = matching_loss(sums, target, state, BATCH, 0.8)  # the first step's are the batch's
    levels = {
        name: level._replace(
            wanted=Moments(own[f"{WRN}|{name}"].mean[0], own[f"{WRN}|{name}"].variance[0])
        )
        for name, level in target.levels.items()
    }
    met = replace(target, levels=levels)
    losses = matching_loss(sums, met, state, BATCH, 0.8)[:2]
    assert [loss.tolist() for loss in losses] == [[0.0], [0.0]]
    (gradient,) = torch.autograd.grad(sum(losses).sum(), images, retain_graph=True)
    assert torch.equal(gradient, torch.zeros_like(gradient))

    level = levels["channel"]
    other = level.wanted.mean + 2.0 * (level.owner == 0)  # the first BatchNorm alone
    levels["channel"] = level._replace(wanted=Moments(other, level.wanted.variance))
    batchnorm, conv, _ = matching_loss(sums, met, state, BATCH, 0.8)
    assert batchnorm.tolist() == pytest.approx([2.0 * level.sizes[0] ** 0.5])
    assert conv.tolist() == [0.0]
    (gradient,) = torch.autograd.grad(batchnorm.sum(), images)
    assert gradient.isfinite().all()
    assert gradient.abs().max() > 0


@pytest.mark.parametrize("groups", [1, 2])
def test_matching_loss__a_teacher_without_matched_layers(groups):
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 4)).eval()
    target = make_target("plain", model, Statistics({}, {}), CONFIG, N_P, IMAGE)
    assert target.batchnorm == target.conv == ()
    state = empty_state([target], groups, "first")
    batchnorm, conv, changed = matching_loss({}, target, state, BATCH, 0.8)
    assert batchnorm.expand(groups).tolist() == conv.expand(groups).tolist() == [0.0] * groups
    assert not changed


def test_first_layer__without_conv_matching_it_is_the_first_batchnorm(targets_for):
    config = replace(CONFIG, weight_conv=0.0)

    def batchnorm(multiplier):
        (target,) = targets_for(replace(config, first_layer_multiplier=multiplier), [WRN])
        sums = seen_by(target, images, 1, ())
        state = empty_state([target], 1, "first")
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


def test_statistics_round_trip(tmp_path):
    generator = torch.Generator().manual_seed(1)

    def moments(*shape):
        parts = (torch.rand(*shape, generator=generator, dtype=torch.float64) for _ in "mv")
        return Moments(*parts)

    paths = ("conv", "layer1.0.conv2", "features/odd.name")
    statistics = Statistics(
        {path: moments(3) for path in paths}, {path: moments(2, 4) for path in paths}
    )
    path = tmp_path / "s.safetensors"
    save(path, statistics.tensors(), {"kind": "statistics", "recipe": {}})
    found = Statistics.from_tensors(load_tensors(path, "statistics")[0])
    for table, expected in ((found.channel, statistics.channel), (found.patch, statistics.patch)):
        assert table.keys() == expected.keys()
        for name, pair in table.items():
            assert torch.equal(pair.mean, expected[name].mean)
            assert torch.equal(pair.variance, expected[name].variance)
            assert pair.mean.dtype == torch.float64


# Classes

LABELS = torch.tensor([2, 0, 0, 2, 2, 1, 1, 1, 3, 3])  # of two groups


def test_find_members__known_answer():
    found = find_members(LABELS, 2)
    assert found.group.tolist() == [0, 0, 1, 1]
    assert found.label.tolist() == [0, 2, 1, 3]
    assert found.size.tolist() == [2, 3, 3, 2]
    assert found.share.tolist() == [0.5] * 4
    assert found.row.tolist() == [1, 0, 0, 1, 1, 2, 2, 2, 3, 3]
    assert find_members(torch.tensor([4, 4, 1, 0]), 2).share.tolist() == [1, 0.5, 0.5]


def slow_class_term(target, inputs, wanted, kept, history, config):
    """Norms of a class's images in one group, with an EMA of their own: L'_BN and L'_Conv."""
    batchnorm = conv = torch.zeros((), dtype=torch.float64)
    for path, x in inputs.items():
        is_conv = isinstance(target.model.get_submodule(path), nn.Conv2d)
        if path not in (kept if is_conv else target.batchnorm):
            continue
        found = reference.conv_moments(x, N_P) if is_conv else reference.channel_moments(x)
        past = history.get(path, [part.detach() for part in found])
        history[path] = reference.update_totals(past, found, config.alpha)
        term = reference.sds_matching(found, wanted[path], history[path])
        if path == FIRST[target.name]:
            term = term * config.first_layer_multiplier
        batchnorm, conv = (batchnorm, conv + term) if is_conv else (batchnorm + term, conv)
    return batchnorm, conv


@pytest.mark.parametrize("share", [0.3, 1.0])
@pytest.mark.parametrize("name", [CONVNET, WRN])
def test_matching_loss__compares_each_class_by_itself(
    name, share, targets_for, teachers, statistics, data
):
    """Values and gradients are the slow twin's, while convolutions come and go."""
    config = replace(CONFIG, weight_class=share)
    real = data.normalization.normalize(data.train.images)
    by_class = class_statistics(teachers[name], real, data.train.labels, N_P)
    (target,) = targets_for(config, [name])
    in_float64(target)
    members, pictures_of = find_members(LABELS, 2), pictures(2)
    state = empty_state([target], 2, config.ema_start, members)
    histories, class_histories = [{}, {}], {}
    for part in KEPT:
        kept = target.conv[part]
        images = pictures_of.detach().requires_grad_()
        twin = images.detach().clone().requires_grad_()
        batchnorm, conv, changed = matching_loss(
            seen_by(target, images, len(images), kept), target, state, BATCH, config.alpha,
            members, share,
        )  # fmt: skip
        _, inputs = captured(target.model, twin)
        expected = []
        for group in range(2):
            own = slice(group * BATCH, (group + 1) * BATCH)
            mine = {path: x[own] for path, x in inputs.items()}
            terms = torch.stack(
                slow_matching(target, mine, statistics[name], kept, histories[group], config)
            )
            present = sorted(set(LABELS[own].tolist()))
            classes = torch.zeros(2, dtype=torch.float64)
            for label in present:
                of = {path: x[LABELS[own] == label] for path, x in mine.items()}
                history = class_histories.setdefault((group, label), {})
                classes = classes + torch.stack(
                    slow_class_term(target, of, by_class[label], kept, history, config)
                )
            expected.append((1 - share) * terms + share * classes / len(present))
        slow = torch.stack(expected, dim=1)
        ours = torch.stack([batchnorm.expand(2), conv.expand(2)])
        torch.testing.assert_close(ours, slow, rtol=1e-9, atol=1e-12)
        if slow.requires_grad:
            weights = torch.tensor([[1.0, 2.0], [3.0, 5.0]], dtype=torch.float64)
            (gradient,) = torch.autograd.grad((weights * ours).sum(), images)
            (wanted,) = torch.autograd.grad((weights * slow).sum(), twin)
            largest = float(wanted.abs().max())
            torch.testing.assert_close(gradient, wanted, rtol=1e-7, atol=1e-9 * largest)
            pictures_of = images - 0.1 * gradient
        state |= changed


def test_statistics__by_class_come_back_from_tensors(teachers, data):
    table = Statistics({}, {}, *of_classes(teachers[WRN], data, N_P))
    found = Statistics.from_tensors(table.tensors())
    assert found.class_channel.keys() == table.class_channel.keys()
    assert found.class_patch.keys() == table.class_patch.keys() < table.class_channel.keys()
    for path, moments in table.class_channel.items():
        assert all(map(torch.equal, found.class_channel[path], moments))
