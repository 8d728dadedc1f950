"""Schedules of the learning rate: known answers; and states that come back from files."""

import math
from dataclasses import replace

import pytest
import torch

from gvbsm.config import OptimizerConfig
from gvbsm.engine.optimizers import make_optimizer, pack_optimizer, schedule, unpack_optimizer


def test_schedule__known_answers():
    constant = OptimizerConfig(schedule="constant")
    assert [schedule(constant, step, 9) for step in (0, 3, 9)] == [1.0, 1.0, 1.0]
    known = {0: 1.0, 3: (2 + math.sqrt(2)) / 4, 4: 0.75, 6: 0.5, 8: 0.25, 12: 0.0}
    for step, expected in known.items():
        assert schedule(OptimizerConfig(), step, 12) == pytest.approx(expected, abs=1e-15)


def test_schedule__smoothed_ends_above_zero():
    smooth = OptimizerConfig(zeta=2.0)
    known = {0: 1.0, 6: (2 + math.sqrt(2)) / 4, 8: 0.75, 12: 0.5}
    for step, expected in known.items():
        assert schedule(smooth, step, 12) == pytest.approx(expected, abs=1e-15)


def test_schedule__early_smooth_late_steep_drops_to_a_sixth_and_falls_to_zero():
    for zeta in (1.0, 2.0):
        ssrs = OptimizerConfig(schedule="ssrs", zeta=zeta)
        smooth = replace(ssrs, schedule="cosine")
        assert all(schedule(ssrs, i, 60) == schedule(smooth, i, 60) for i in range(51))
        reached = schedule(smooth, 50, 60)  # at 5/6 of the steps
        for step in range(51, 61):
            expected = reached * (360 - 6 * step) / 360
            assert schedule(ssrs, step, 60) == pytest.approx(expected, rel=1e-12, abs=1e-15)


@pytest.mark.parametrize("kind", ["constant", "cosine", "ssrs"])
def test_schedule__warmup_rises_linearly_and_the_schedule_is_that_of_the_rest(kind):
    plain = OptimizerConfig(schedule=kind)
    warm = replace(plain, warmup=0.25)
    found = [schedule(warm, step, 12) for step in range(12)]
    assert found[:3] == [1 / 4, 2 / 4, 3 / 4]
    assert found[3:] == [schedule(plain, step, 9) for step in range(9)]


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw", "muon"])
def test_state_from_a_file__fits_kernels_with_channels_last(name):
    """Files hold contiguous tensors: moments must not go to the entries of other channels."""
    config = OptimizerConfig(name=name, lr=0.1, weight_decay=0.1)
    generator = torch.Generator().manual_seed(0)
    shapes = [(6, 4, 3, 3), (5, 6, 1, 1), (3, 5)]
    gradients = [[torch.randn(s, generator=generator) for s in shapes] for _ in range(4)]

    def parameters(values):
        layout = torch.channels_last
        return [
            value.clone(memory_format=layout if value.ndim == 4 else torch.preserve_format)
            for value in values
        ]

    def step(solver, weights, gradients):
        for weight, gradient in zip(weights, parameters(gradients), strict=True):
            weight.grad = gradient
        solver.step()

    whole = parameters(gradients[0])
    solver = make_optimizer(config, whole, 0.1)
    for drawn in gradients[:2]:
        step(solver, whole, drawn)
    stored = {key: value.contiguous().clone() for key, value in pack_optimizer(solver).items()}
    resumed = parameters(whole)
    twin = make_optimizer(config, resumed, 0.1)
    unpack_optimizer(twin, stored)
    for drawn in gradients[2:]:
        step(solver, whole, drawn)
        step(twin, resumed, drawn)
    for ours, theirs in zip(resumed, whole, strict=True):
        assert ours.stride() == theirs.stride()
        assert torch.equal(ours, theirs)
