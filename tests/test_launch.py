"""Which of several processes this one is."""

import pytest

from gvbsm.config import ConfigError
from gvbsm.launch import Launch, read_launch

WHOLE = {
    "RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "MASTER_ADDR": "host", "MASTER_PORT": "1",
}  # fmt: skip


@pytest.mark.parametrize("environment", [{}, {"RANK": "3"}, {**WHOLE, "WORLD_SIZE": "1"}])
def test_without_others__it_is_alone(environment):
    assert read_launch(environment) == Launch(0, 1, 0, 1)
    assert Launch().name == ""


def test_the_launcher_is_believed():
    assert read_launch(WHOLE) == Launch(5, 8, 1, 8)
    assert read_launch({**WHOLE, "LOCAL_WORLD_SIZE": "2"}) == Launch(5, 8, 1, 2)
    assert read_launch(WHOLE).name == "process 5 of 8"
    by_hand = {name: value for name, value in WHOLE.items() if name != "LOCAL_RANK"}
    assert read_launch(by_hand).local_rank == 0


@pytest.mark.parametrize(
    ("changed", "word"),
    [
        ({"RANK": ""}, "RANK is not set"),
        ({"MASTER_PORT": ""}, "MASTER_PORT"),
        ({"RANK": "8"}, "RANK=8"),
        ({"RANK": "-1"}, "'-1'"),
        ({"WORLD_SIZE": "two"}, "'two'"),
        ({"LOCAL_WORLD_SIZE": ""}, "LOCAL_WORLD_SIZE must be a number"),
        ({"LOCAL_WORLD_SIZE": "1"}, "LOCAL_RANK=1 less than LOCAL_WORLD_SIZE=1"),
        ({"LOCAL_WORLD_SIZE": "9"}, "LOCAL_WORLD_SIZE=9"),
    ],
)
def test_a_fault_is_one_line(changed, word):
    with pytest.raises(ConfigError, match=word) as fault:
        read_launch(WHOLE | changed)
    assert "\n" not in str(fault.value)
