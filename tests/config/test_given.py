"""Values of Python code in settings."""

import functools
from pathlib import Path

import numpy as np
import pytest
import torch

from gvbsm.config import ConfigError
from gvbsm.config.build import as_config
from gvbsm.config.given import code_name


class Net:
    """Stands for a network."""

    def forward(self):
        return 0


def test_classes_and_functions_become_their_names():
    config = as_config(
        {
            "ipc": np.int64(3),
            "data": {"root": Path("a")},
            "squeeze": {"backbones": (Net, "resnet18")},
            "labels": {"weights": {Net: torch.tensor(2.0)}},
            "evaluation": {"students": [Net]},
        }
    )
    name = f"{__name__}:Net"
    assert (config.ipc, config.data.root) == (3, "a")
    assert config.squeeze.backbones == (name, "resnet18")
    assert config.labels.weights == {name: 2.0}
    assert config.evaluation.students == (name,)
    assert code_name(code_name) == "gvbsm.config.given:code_name"


def local():
    class Local:
        pass

    return Local


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (lambda: 0, r"<lambda> of .* cannot be named in settings: define it at the top level"),
        (local(), r"local\.<locals>\.Local of"),
        (functools.partial(local), r"partial is an object: pass the class, or a function"),
        (torch.nn.ReLU(), r"ReLU is an object"),
    ],
)
def test_what_has_no_name_is_refused_in_one_line(value, words):
    with pytest.raises(ConfigError, match=words) as caught:
        as_config({"evaluation": {"students": [value]}})
    assert "\n" not in str(caught.value)
