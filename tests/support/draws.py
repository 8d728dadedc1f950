"""Seeded draws, and how far a sample mean may lie from its expectation."""

import math

import torch


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def noise(count=3, channels=2, height=7, width=10, seed=0, dtype=torch.float64):
    """Normal pixels, drawn in float64 whatever `dtype` is: (count, channels, height, width)."""
    shape = (count, channels, height, width)
    return torch.randn(shape, generator=generator(seed), dtype=torch.float64).to(dtype)


def within(mean, expected, deviation, count):
    """A sample mean within four standard errors."""
    return abs(mean - expected) <= 4 * deviation / math.sqrt(count)
