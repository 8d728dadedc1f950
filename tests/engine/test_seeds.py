"""Seeds and generators that belong to a purpose, and the state of the global generator."""

import hashlib

import pytest
import torch
from torch import nn

from gvbsm.engine.device import Runtime
from gvbsm.engine.seeds import (
    derived_seed,
    generator_for,
    get_random_state,
    seeded,
    set_random_state,
)

CPU = torch.device("cpu")


def draw(generator):
    return torch.randint(2**62, (8,), generator=generator).tolist()


def test_a_seed_is_the_hash_of_its_path():
    digest = hashlib.sha256(b"7/squeeze/resnet18/3").digest()
    assert derived_seed(7, "squeeze", "resnet18", 3) == int.from_bytes(digest[:8], "big") // 2
    assert 0 <= derived_seed(0) < 2**63


def test_generators_are_reproducible_and_differ_for_every_path():
    paths = [(), ("a",), ("b",), ("a", 0), ("a", 1), ("a", "views"), ("views", "a"), ("a", 0, 1)]
    drawn = {(seed, path): draw(generator_for(seed, *path)) for seed in (0, 1) for path in paths}
    assert len(set(map(tuple, drawn.values()))) == len(drawn)
    for (seed, path), numbers in drawn.items():
        assert draw(generator_for(seed, *path)) == numbers
        assert draw(Runtime(CPU, "fp32", seed).generator(*path)) == numbers


def test_neighboring_seeds_give_independent_numbers():
    rows = torch.stack(
        [torch.randn(256, generator=generator_for(0, "step", step)) for step in range(64)]
    )
    correlation = torch.corrcoef(rows) - torch.eye(64)
    assert float(correlation.abs().max()) < 5 / 256**0.5  # 5 deviations over 2016 pairs
    assert float(rows.mean().abs()) < 5 / rows.numel() ** 0.5


def test_a_generator_neither_reads_nor_moves_the_global_one():
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = draw(generator_for(3, "x"))
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    assert draw(generator_for(3, "x")) == first


def test_seeded_is_reproducible_and_gives_back_the_global_generator():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    with seeded(0, "weights"):
        first = nn.Linear(4, 4).weight.detach().clone()
    assert torch.equal(torch.rand(3), expected)
    with seeded(0, "weights"):
        again = nn.Linear(4, 4).weight.detach().clone()
    with seeded(0, "others"):
        other = nn.Linear(4, 4).weight.detach().clone()
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_random_state_brings_dropout_back_to_where_it_was():
    with seeded(0, "dropout"):
        torch.rand(3)
        state = get_random_state(CPU)
        expected = torch.rand(5)
        set_random_state(CPU, state)
        assert torch.equal(torch.rand(5), expected)


def fail_inside():
    with seeded(0, "weights"):
        torch.rand(3)
        raise KeyError("x")


def test_seeded_gives_back_the_global_generator_after_a_failure():
    state = torch.get_rng_state()
    with pytest.raises(KeyError):
        fail_inside()
    assert torch.equal(torch.get_rng_state(), state)
