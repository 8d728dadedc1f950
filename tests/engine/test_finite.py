"""A run stops with one clear line as soon as a loss is not finite."""

import pytest
import torch

from gvbsm.engine.device import RunError
from gvbsm.engine.finite import check_finite


@pytest.mark.parametrize("value", ["nan", "inf", "-inf"])
def test_check_finite_names_the_work_the_value_and_the_cure(value):
    with pytest.raises(RunError, match=f"squeeze resnet18.*{value}.*lower the rate") as caught:
        check_finite(torch.tensor(float(value)), "squeeze resnet18", "lower the rate")
    assert "\n" not in str(caught.value)


def test_check_finite_lets_numbers_pass():
    for value in (0.0, -1e38, 1e-45):
        check_finite(torch.tensor(value), "x", "y")
