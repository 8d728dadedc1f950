"""Choices of backbones; `test_studies` has them in a study."""

import pytest

from gvbsm.config import ConfigError
from gvbsm.studies.backbone_choice import BackboneChoice, read_choice


def test_a_choice_is_read_and_made():
    assert read_choice("k", {"first": 2}, "w").of(["a", "b", "c"]) == ["a", "b"]
    assert read_choice("k", {"without": "b"}, "w") == BackboneChoice(without="b")
    assert BackboneChoice(without="b").of(["a", "b1", "c"]) == ["a", "c"]
    assert read_choice("k", {"only": 2}, "w").of(["a", "b", "c"]) == ["b"]
    assert read_choice("k", ["a"], "w") == ["a"]
    with pytest.raises(ConfigError, match="must be a list"):
        read_choice("k", {"first": 0}, "w")
    with pytest.raises(ConfigError, match="asks for number 3 of squeeze"):
        BackboneChoice(only=3).of(["a", "b"])
    with pytest.raises(ConfigError, match="must be a list"):
        read_choice("k", {"only": 0}, "w")
    with pytest.raises(ConfigError, match="first 3"):
        BackboneChoice(count=3).of(["a"])
