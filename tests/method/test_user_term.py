"""The user's loss term: what it is given, how it is weighted, and its faults."""

import math

import pytest
import torch

from gvbsm.config import ConfigError, SynthesisConfig
from gvbsm.data.views import apply_views
from gvbsm.method.beyond.user_term import UserTerm
from gvbsm.method.groups import make_stack
from gvbsm.method.matching import empty_averages
from gvbsm.method.synthesis import State, step_terms
from support.toy import IMAGE

LABELS = torch.tensor([0, 1, 2, 3, 0, 1])


@pytest.fixture
def terms_of(targets_for, runtime):
    """The terms of a step of two groups of three images with a function of the user's."""

    def compute(function, weight=1.0):
        config = SynthesisConfig(extra="my.py:f", weight_extra=weight)
        stack = make_stack((0, 1), LABELS, torch.device("cpu"))
        targets = targets_for(config)
        images = torch.randn(6, *IMAGE, generator=runtime.generator("x"), requires_grad=True)
        averages = {t.name: empty_averages(t, stack.groups, config.ema_start) for t in targets}
        bounds = torch.tensor(-math.inf), torch.tensor(math.inf)
        state = State(images, bounds, torch.optim.SGD([images], lr=1.0), averages)
        extras = [UserTerm(config, function, LABELS)]
        return step_terms(state, stack, targets, config, runtime, extras), state, config

    return compute


def test_the_term_is_weighted_and_has_a_gradient(terms_of):
    given = {}

    def energy(state, **others):
        given.update(others, state=state)
        return (state.images**2).sum((1, 2, 3)) * torch.arange(6)

    terms, state, config = terms_of(energy, weight=2.0)
    expected = ((state.images.detach() ** 2).sum((1, 2, 3)) * torch.arange(6)).view(2, 3).mean(1)
    torch.testing.assert_close(terms.extra["extra"].detach(), expected)
    without = terms_of(lambda state, **_: 0 * state.images.sum((1, 2, 3)))[0].loss(config)
    torch.testing.assert_close((terms.loss(config) - without).float().detach(), 2 * expected)
    (gradient,) = torch.autograd.grad(terms.extra["extra"].sum(), state.images)
    weights = torch.arange(6).view(6, 1, 1, 1) / 3
    torch.testing.assert_close(gradient, 2 * state.images.detach() * weights)
    assert given["state"] is state
    assert torch.equal(given["labels"], LABELS)
    pictures = apply_views(state.images, given["views"])
    torch.testing.assert_close(given["teacher"].model(pictures), given["logits"])


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (lambda state, **_: state.images.sum(), r"must return a tensor \[6\], a value for each im"),
        (lambda state, **_: 3.0, r"a value for each image, got float"),
        (lambda state, **_: torch.zeros(6), r"returns values without a gradient, which change no"),
        (lambda state, **_: 1 / 0, r"fails: ZeroDivisionError: division by zero \(test_user_term"),
    ],
)
def test_a_fault_is_one_line(terms_of, function, words):
    with pytest.raises(ConfigError, match=rf"synthesis\.extra: my\.py:f .*{words}") as caught:
        terms_of(function)
    assert "\n" not in str(caught.value)


def test_out_of_memory_is_left_to_the_stage(terms_of):
    def greedy(**_given):
        raise torch.OutOfMemoryError("out of memory")

    with pytest.raises(torch.OutOfMemoryError):
        terms_of(greedy)
