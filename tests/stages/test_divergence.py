"""What is told of a descent that is no longer finite (the loop's own tests are synthesis's)."""

import math
from types import SimpleNamespace

import pytest
import torch
from torch import nn

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


class Root(nn.Module):
    """Is not finite for pictures below 0."""

    def forward(self, pictures):
        return pictures.sqrt()


def test_diverged__looks_for_the_layer_with_the_pictures_of_the_group_alone():
    teacher = SimpleNamespace(name="a", model=nn.Sequential(nn.Identity(), Root()))
    images = torch.ones(4, 3, 2, 2)
    images[2:] = -1.0  # those of batch 9
    for loss, where in (
        (
            [1.0, math.inf],
            "synthesis of batch 9: the loss became inf at iteration 5, first in layer 1",
        ),
        (
            [math.nan, 1.0],
            "synthesis of batch 4: the loss became nan at iteration 5, in the losses",
        ),
    ):
        error = DivergedError(5, "a", torch.tensor(loss))
        assert str(diverged(error, images, STACK, [teacher])).startswith(f"{where} of a; lower")
