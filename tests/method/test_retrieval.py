"""Retrieval: scores of real pictures against slow float64."""

import math

import pytest
import torch

from gvbsm.method.beyond.retrieval import complexity, scores


def slow_complexity(picture):
    """Pixel by pixel, in Python floats: the filter in two dimensions, then the gradient."""
    channels, height, width = picture.shape
    bell = [math.exp(-(d**2) / 2) for d in range(-3, 4)]
    total = sum(bell) ** 2

    def smooth(c, i, j):
        return (
            sum(
                bell[a + 3]
                * bell[b + 3]
                * float(picture[c, min(max(i + a, 0), height - 1), min(max(j + b, 0), width - 1)])
                for a in range(-3, 4)
                for b in range(-3, 4)
            )
            / total
        )

    def slope(values, k):
        below, above = max(k - 1, 0), min(k + 1, len(values) - 1)
        return (values[above] - values[below]) / (above - below)

    plane = [
        [[smooth(c, i, j) for j in range(width)] for i in range(height)] for c in range(channels)
    ]
    squares = []
    for i in range(height):
        for j in range(width):
            square = 0.0
            for c in range(channels):
                square += slope(plane[c][i], j) ** 2
                square += slope([plane[c][row][j] for row in range(height)], i) ** 2
            squares.append(square)
    mean = sum(squares) / len(squares)
    return sum((s - mean) ** 2 for s in squares) / len(squares)


def test_complexity__equals_the_slow_twin():
    generator = torch.Generator().manual_seed(3)
    pictures = torch.randn(3, 2, 6, 5, generator=generator, dtype=torch.float64)
    expected = [slow_complexity(picture) for picture in pictures]
    assert complexity(pictures).tolist() == pytest.approx(expected, rel=1e-9)


def test_complexity__known_answers():
    """That of a constant picture is 0; twice the contrast is 16 times as complex."""
    assert complexity(torch.full((1, 3, 8, 8), 0.7)).tolist() == [0.0]
    step = torch.zeros(1, 3, 8, 8)
    step[:, :, :, 4:] = 1.0
    assert float(complexity(2 * step)) == pytest.approx(16 * float(complexity(step)), rel=1e-5)
    assert float(complexity(step)) > 1e-4


def test_scores__known_answers():
    x = torch.tensor([[3.0, 0.0], [0.0, 0.5]])
    o = torch.tensor([[1.0, 0.0], [0.0, 2.0], [5.0, 5.0], [-1.0, 0.0]])
    found = scores(x, o, torch.tensor([0.0, 4.0, 1.0, 0.0]))
    between = 0.9 * (2 - math.sqrt(2)) + 0.1
    expected = [[0.0, 1.8 + 0.4, between, 3.6], [1.8, 0.4, between, 1.8]]
    assert found.tolist() == [pytest.approx(row) for row in expected]
    assert found.argmin(dim=1).tolist() == [0, 1]
