"""What is told of a descent that is no longer finite (the loop's own tests are synthesis's)."""

import math

import pytest
import torch

from gvbsm.engine.device import RunError
from gvbsm.method.synthesis import make_stack
from gvbsm.stages.divergence import check_loss, check_pixels

STACK = make_stack((4, 9), torch.tensor([0, 1, 0, 1]), torch.device("cpu"))


def test_check_pixels__names_the_group():
    images = torch.zeros(4, 3, 2, 2)
    check_pixels(5, images, STACK)
    images[3, 1, 0, 0] = math.inf
    with pytest.raises(RunError, match=r"^synthesis of batch 9: .* after 5 iterations; lower"):
        check_pixels(5, images, STACK)


def test_check_loss__tells_pixels_from_losses():
    images = torch.zeros(4, 3, 2, 2)
    check_loss(5, "a", torch.ones(2), images, STACK, [])
    images[0] = math.nan
    with pytest.raises(RunError, match="batch 4: the loss became nan at iteration 5, first in the"):
        check_loss(5, "a", torch.tensor([math.nan, 1.0]), images, STACK, [])
