"""What is told of a descent that is no longer finite (the loop's own tests are synthesis's)."""

import math

import pytest
import torch

from gvbsm.engine.device import RunError
from gvbsm.method.groups import make_stack
from gvbsm.method.synthesis import DivergedError
from gvbsm.stages.divergence import check_pixels, diverged

STACK = make_stack((4, 9), torch.tensor([0, 1, 0, 1]), torch.device("cpu"))


def test_check_pixels__names_the_group():
    images = torch.zeros(4, 3, 2, 2)
    check_pixels(5, images, STACK)
    images[3, 1, 0, 0] = math.inf
    with pytest.raises(RunError, match=r"^synthesis of batch 9: .* after 5 iterations; lower"):
        check_pixels(5, images, STACK)


def test_diverged__names_the_group_and_where_it_began():
    images = torch.zeros(4, 3, 2, 2)
    images[0] = math.nan
    error = DivergedError(5, "a", torch.tensor([math.nan, 1.0]))
    line = str(diverged(error, images, STACK, []))
    assert line.startswith(
        "synthesis of batch 4: the loss became nan at iteration 5, first in the pixels; lower"
    )
