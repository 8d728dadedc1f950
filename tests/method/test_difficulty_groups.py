"""Difficulty groups: distances and ranks in slow float64, groups, and what is matched."""

import math
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from gvbsm.config import SynthesisConfig
from gvbsm.method.beyond.class_matching import class_moments
from gvbsm.method.beyond.difficulty_groups import (
    DifficultyGroups,
    PictureDistances,
    difficulty,
    group_ends,
    group_numbers,
    layer_distance,
    ranks_in_class,
)
from gvbsm.method.matching import empty_averages, matching_loss
from gvbsm.method.moments import Moments
from gvbsm.method.statistics import Statistics
from support import reference
from support.matching import BATCH, KEPT, in_float64, pictures, seen_by
from support.toy import (
    CONVNET,
    IMAGE,
    N_P,
    WRN,
    captured,
    checked_gradient,
    class_statistics,
    of_classes,
    slow_part_matching,
)

CONFIG = SynthesisConfig()


def test_layer_distance__known_answers():
    layer = nn.BatchNorm2d(2, eps=0.5)
    layer.running_mean.copy_(torch.tensor([1.0, 2.0]))
    layer.running_var.copy_(torch.tensor([0.5, 1.5]))
    mean = torch.tensor([[1.0, 2.0], [4.0, 6.0], [1.0, 2.0]], dtype=torch.float64)
    variance = torch.tensor([[0.5, 1.5], [0.5, 1.5], [0.0, 1.5 * math.e + math.e / 2 - 0.5]])
    moments = Moments(mean, torch.cat([variance[:2], variance[2:]]).double())
    # the last one has a constant channel: log((0 + 1/2) / (1/2 + 1/2)) = -log 2, and log e = 1
    expected = [0.0, 5 / math.sqrt(2), math.hypot(math.log(2), 1) / math.sqrt(2)]
    assert layer_distance(moments, layer).tolist() == pytest.approx(expected)


def test_distances__are_those_of_each_picture_alone(teachers, data):
    """By a loop over pictures, layers and channels; the rest of the batch does not matter."""
    model = teachers[WRN].double()
    shown = data.normalization.normalize(data.train.images[:7]).double()
    expected = []
    for picture in shown:
        layers = []
        for path, x in captured(model, picture[None])[1].items():
            layer = model.get_submodule(path)
            if isinstance(layer, nn.BatchNorm2d):
                mean, variance = reference.channel_moments(x)
                shift = reference.norm(mean - layer.running_mean)
                ratio = (variance + layer.eps) / (layer.running_var + layer.eps)
                layers.append((shift + reference.norm(ratio.log())) / math.sqrt(len(mean)))
        expected.append(sum(layers) / len(layers))
    assert len(layers) == 7
    measure = PictureDistances(model, IMAGE)
    torch.testing.assert_close(measure(shown), torch.stack(expected), rtol=1e-9, atol=0)
    torch.testing.assert_close(measure(shown[3:5]), torch.stack(expected[3:5]), rtol=1e-9, atol=0)
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_difficulty__is_the_mean_rank_in_the_class():
    labels = torch.tensor([1, 0, 1, 1, 0])
    ones, others = torch.tensor([5.0, 2.0, 1.0, 3.0, 9.0]), torch.tensor([1.0, 7.0, 1.0, 1.0, 6.0])
    assert ranks_in_class(ones, labels).tolist() == [2, 0, 0, 1, 1]
    assert ranks_in_class(others, labels).tolist() == [0, 1, 1, 2, 0]  # equal ones in their order
    assert difficulty([ones, others], labels).tolist() == [1.0, 0.5, 0.5, 1.5, 0.5]
    scaled = difficulty([ones, 1000 * others], labels)
    assert torch.equal(scaled, difficulty([ones, others], labels))


def test_groups__known_answers():
    values = torch.tensor([3.0, 1.0, 2.0, 0.0, 4.0, 9.0, 8.0])
    labels = torch.tensor([0, 0, 0, 0, 0, 1, 1])
    assert group_numbers(values, labels, (2, 2)).tolist() == [1, 0, 0, 0, 1, 1, 0]
    assert group_ends(values, labels, (2, 2), "front").tolist() == [3, 0, 6, 5]
    assert group_ends(values, labels, (2, 2), "back").tolist() == [2, 4, 6, 5]
    assert group_ends(values, labels, (1, 1), "back").tolist() == [4, 5]
    # a class with fewer pictures than groups: the first and the middle one of five
    assert group_numbers(values, labels, (5, 5)).tolist() == [3, 1, 2, 0, 4, 2, 0]
    # other numbers of images in the classes, of which one has no pictures
    assert group_numbers(values, labels, (5, 1, 3)).tolist() == [3, 1, 2, 0, 4, 0, 0]


@settings(max_examples=60, derandomize=True)
@given(st.lists(st.tuples(st.integers(1, 6), st.integers(0, 9)), min_size=1, max_size=4))
def test_groups__are_equal_parts_in_order_with_their_ends(classes):
    counts = [count for count, _ in classes]
    sizes = torch.tensor([count + more for count, more in classes])
    labels = torch.arange(len(classes)).repeat_interleave(sizes)
    generator = torch.Generator().manual_seed(len(labels))
    labels = labels[torch.randperm(len(labels), generator=generator)]
    values = torch.randperm(len(labels), generator=generator).double()
    numbers = group_numbers(values, labels, counts)
    ends = {end: group_ends(values, labels, counts, end).tolist() for end in ("front", "back")}
    for label, count in enumerate(counts):
        groups = [values[(labels == label) & (numbers == group)] for group in range(count)]
        lengths = [len(group) for group in groups]
        assert max(lengths) - min(lengths) <= 1
        assert min(lengths) >= 1
        assert torch.equal(
            torch.cat([g.sort().values for g in groups]), torch.cat(groups).sort()[0]
        )
        for group in groups:
            front, back = (values[ends[end].pop(0)] for end in ("front", "back"))
            assert (front, back) == (group.min(), group.max())


@pytest.mark.parametrize("name", [CONVNET, WRN])
def test_matching_loss__compares_with_the_own_group(name, targets_for, teachers, data):
    """Values and gradients are the slow twin's, of two batches of other groups than their own."""
    numbers = torch.arange(40) % 3
    real = data.normalization.normalize(data.train.images)
    by_group = class_statistics(teachers[name], real, numbers, N_P)
    (target,) = targets_for(CONFIG, [name])
    channel, patch = of_classes(teachers[name], data, N_P, numbers)
    recorded = Statistics({}, {}, group_channel=channel, group_patch=patch)
    in_float64(target)
    moments = {name: class_moments(target, recorded, "group")}
    own = torch.tensor([2, 0])
    extra = DifficultyGroups(own, moments)
    state = SimpleNamespace(averages={name: empty_averages(target, 2, CONFIG.ema_start)})
    (matched,) = extra.before(state, [target])
    pictures_of, histories = pictures(2), [{}, {}]
    for part in KEPT:
        kept = target.conv[part]
        images = pictures_of.detach().requires_grad_()
        twin = images.detach().clone().requires_grad_()
        batchnorm, conv, changed = matching_loss(
            seen_by(matched, images, 2, kept), matched, state.averages[name], BATCH, CONFIG.alpha
        )
        _, inputs = captured(target.model, twin)
        terms = [
            slow_part_matching(
                target,
                {path: x[batch * BATCH : (batch + 1) * BATCH] for path, x in inputs.items()},
                by_group[int(own[batch])],
                kept,
                histories[batch],
                CONFIG,
            )
            for batch in range(2)
        ]
        ours = torch.stack([batchnorm.expand(2), conv.expand(2)], dim=1)
        slow = torch.stack([torch.stack(pair) for pair in terms])
        torch.testing.assert_close(ours, slow, rtol=1e-9, atol=1e-12)
        if slow.requires_grad:
            pictures_of = images - 0.1 * checked_gradient(ours, images, slow, twin)
        state.averages[name] |= changed


def test_targets__layers_that_are_not_matched_need_none(targets_for, teachers, data):
    """Without convolutions there are no patches."""
    numbers = torch.arange(40) % 2
    channel, patch = of_classes(teachers[WRN], data, N_P, numbers)
    recorded = Statistics({}, {}, group_channel=channel, group_patch=patch)
    config = SynthesisConfig(weight_conv=0.0)
    (target,) = targets_for(config, [WRN])
    moments = {WRN: class_moments(target, recorded, "group")}
    (matched,) = DifficultyGroups(torch.tensor([1]), moments).before(None, [target])
    expected = torch.cat([channel[path].mean[1:] for path in target.batchnorm], dim=1)
    assert torch.equal(matched.levels["channel"].target.mean, expected)
    assert matched.levels["patch"].target.mean.numel() == 0
