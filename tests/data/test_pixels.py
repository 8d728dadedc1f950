"""Normalization: its inverse, its bounds, and the pixels that it refuses."""

import pytest
import torch

from gvbsm.data.pixels import Normalization

UNIT = Normalization((0.0,), (1.0,))


def test_normalize_round_trip_is_exact_for_every_gray_level():
    levels = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16).repeat(2, 3, 1, 1)
    for std in ((0.2, 0.3, 0.25), (1 / 255, 1.0, 0.5)):
        normalization = Normalization((0.0, 0.5, 1.0), std)
        normalized = normalization.normalize(levels)
        assert normalized.dtype == torch.float32
        assert torch.equal(normalization.denormalize(normalized), levels)
        assert torch.equal(normalization.denormalize(normalized[0]), levels[0])


def test_denormalize_rounds_and_clamps():
    values = torch.tensor([-0.5, 0.6 / 255, 1.4 / 255, 2.0]).view(1, 1, 2, 2)
    assert UNIT.denormalize(values).flatten().tolist() == [0, 1, 1, 255]


def test_denormalize_truncates_to_the_level_below():
    values = torch.tensor([-0.5, 0.6 / 255, 1.4 / 255, 254.9 / 255, 2.0]).view(1, 1, 5, 1)
    assert UNIT.denormalize(values, "truncate").flatten().tolist() == [0, 0, 1, 254, 255]
    uniform = torch.rand(1, 1, 100, 100, generator=torch.Generator().manual_seed(0))
    darker = (uniform * 255 - UNIT.denormalize(uniform, "truncate")).mean()
    assert float(darker) == pytest.approx(0.5, abs=0.02)


def test_bounds_are_black_and_white():
    normalization = Normalization((0.4, 0.5, 0.6), (0.2, 0.3, 0.4))
    low, high = normalization.bounds()
    assert low.shape == high.shape == (1, 3, 1, 1)
    black = torch.zeros(1, 3, 1, 1, dtype=torch.uint8)
    torch.testing.assert_close(low, normalization.normalize(black))
    torch.testing.assert_close(high, normalization.normalize(black + 255))


def test_normalize_refuses_floats():
    with pytest.raises(ValueError, match="uint8"):
        Normalization((0.5,), (0.5,)).normalize(torch.zeros(1, 1, 2, 2))
