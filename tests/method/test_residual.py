"""Stages of changing sides: when they begin, and what is matched in them."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from gvbsm.config import OptimizerConfig, SynthesisConfig
from gvbsm.engine.optimizers import make_optimizer, pack_optimizer
from gvbsm.method.beyond.residual import Residual, levels_at_side, side_at, stage_begins
from gvbsm.method.matching import empty_averages, matching_loss
from gvbsm.method.synthesis import State
from support import reference
from support.matching import BATCH, in_float64, pictures, seen_by
from support.toy import CONVNET, FIRST, WRN, captured

CONFIG = SynthesisConfig()


def test_side_at__is_that_of_the_stage():
    staged = SynthesisConfig(iterations=8, stages=3, stage_sizes=(6, 10, 8))
    assert [side_at(staged, step, 8) for step in range(8)] == [6, 6, 10, 10, 10, 8, 8, 8]
    assert side_at(SynthesisConfig(stages=3), 5, 8) == 8


def test_stage_begins__cut_the_iterations_evenly():
    def begins(iterations, stages):
        return stage_begins(SynthesisConfig(iterations=iterations, stages=stages))

    assert begins(4000, 1) == []
    assert begins(2000, 4) == [500, 1000, 1500]
    assert begins(8, 3) == [2, 5]


@pytest.mark.parametrize(("begin", "mixed"), [(0, [2, 4, 6]), (4, [6]), (5, [6])])
def test_residual__images_that_begin_with_a_stage_are_not_mixed_then(begin, mixed):
    """Late starts: where the source is the nearest picture, they would not begin as their start."""
    config = SynthesisConfig(iterations=8, stages=4, residual=0.5)
    asked, images = [], torch.zeros(1, 3, 8, 8)
    state = SimpleNamespace(
        images=images,
        change_images=lambda change: asked.append((state.step, float(change(images).mean()))),
    )
    extra = Residual(config, images, 8, lambda shown: shown + 1, begin)
    for state.step in range(begin, 8):
        assert extra.before(state, []) == []
    assert asked == [(step, 0.5) for step in mixed]


def test_residual__patches_are_matched_at_the_side_of_the_pictures_alone(targets_for):
    (target,) = targets_for(CONFIG, [WRN])
    config = SynthesisConfig(iterations=8, stages=2, residual=0.5)
    state = SimpleNamespace(images=torch.zeros(1, 3, 8, 8), step=1)
    extra = Residual(config, state.images, 8)
    (same,) = extra.before(state, [target])
    assert same.levels["patch"].layers == target.conv != ()
    state.images = torch.zeros(1, 3, 6, 6)
    (smaller,) = extra.before(state, [target])
    assert smaller.levels.keys() == {"channel"}


def test_new_pixels_begin_without_moments_and_can_be_saved():
    """Without the moments of the old pixels, the next step of Adam is as long as a first one."""
    old = torch.zeros(1, 1, 2, 2, requires_grad=True)
    solver = make_optimizer(OptimizerConfig(name="adam", betas=(0.5, 0.9)), [old], 0.1)
    state = State(old, (old, old), solver, {}, {"kept": torch.ones(1, 1, 2, 2)})
    state.images.sum().backward()
    solver.step()
    state.change_images(lambda pixels: torch.cat([pixels, pixels], dim=2))
    assert state.images.shape == state.copies["kept"].shape == (1, 1, 4, 2)
    assert pack_optimizer(solver) == {}
    before = state.images.detach().clone()
    (state.images * -2).sum().backward()
    solver.step()
    torch.testing.assert_close(state.images.detach(), before + 0.1)


def test_levels_at_side__channels_are_compared_and_patches_are_not(targets_for, statistics):
    """Of two groups of other pictures than 8 x 8, by the slow twin in float64."""
    (target,) = map(in_float64, targets_for(CONFIG, [WRN]))
    images = torch.nn.functional.interpolate(pictures(2), (6, 6))
    smaller = replace(target, levels=levels_at_side(target, images.shape[1:]))
    averages = empty_averages(target, 2, "first")
    seen = seen_by(target, images, 2, target.conv)
    batchnorm, conv, changed = matching_loss(seen, smaller, averages, BATCH, 0.8)
    assert changed.keys() == {"channel"}
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
        levels_at_side(
            targets_for(CONFIG, [CONVNET])[0], (3, 6, 6)
        )  # its classifier takes 8 x 8 alone
