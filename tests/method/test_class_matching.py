"""Class matching: the distance of each class's statistics, in slow float64."""

from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import pytest
import torch

from gvbsm.config import SynthesisConfig
from gvbsm.method.beyond.class_matching import ClassMatching, class_moments
from gvbsm.method.groups import class_rows
from gvbsm.method.matching import empty_averages, matching_loss
from gvbsm.method.statistics import Statistics
from support.matching import BATCH, KEPT, in_float64, pictures, seen_by
from support.toy import (
    CONVNET,
    N_P,
    WRN,
    captured,
    checked_gradient,
    class_statistics,
    of_classes,
    slow_matching,
    slow_part_matching,
)

CONFIG = SynthesisConfig()
LABELS = torch.tensor([2, 0, 0, 2, 2, 1, 1, 1, 3, 3])  # of two groups


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
    recorded = Statistics({}, {}, *of_classes(teachers[name], data, N_P))
    in_float64(target)
    pictures_of = pictures(2)
    state = SimpleNamespace(averages={name: empty_averages(target, 2, config.ema_start)})
    moments = {name: class_moments(target, recorded)}
    extra = ClassMatching(config, class_rows(LABELS, 2), moments)
    histories, class_histories = [{}, {}], {}
    for part in KEPT:
        kept = target.conv[part]
        images = pictures_of.detach().requires_grad_()
        twin = images.detach().clone().requires_grad_()
        batchnorm, conv, changed = matching_loss(
            seen_by(target, images, len(images), kept),
            target,
            state.averages[name],
            BATCH,
            config.alpha,
            partial(extra.adjust, state, target),
        )
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
                    slow_part_matching(target, of, by_class[label], kept, history, config)
                )
            expected.append((1 - share) * terms + share * classes / len(present))
        slow = torch.stack(expected, dim=1)
        ours = torch.stack([batchnorm.expand(2), conv.expand(2)])
        torch.testing.assert_close(ours, slow, rtol=1e-9, atol=1e-12)
        if slow.requires_grad:
            pictures_of = images - 0.1 * checked_gradient(ours, images, slow, twin)
        state.averages[name] |= changed
