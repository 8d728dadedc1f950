"""Lists and tables on the command line without brackets."""

import pytest

from gvbsm.cli.lists import with_baselines, with_lists
from gvbsm.config import ConfigError


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        ("--evaluation.students resnet18", '--evaluation.students ["resnet18"]'),
        ("--evaluation.students=a,my.py:Net", '--evaluation.students=["a", "my.py:Net"]'),
        ("--synthesis.views.scale 0.5,1", "--synthesis.views.scale [0.5, 1]"),
        ("--labels.weights wrn16_2=2,a=1", '--labels.weights {"wrn16_2": 2, "a": 1}'),
        ("--synthesis.beta_dr_of 10=0.5", "--synthesis.beta_dr_of {10: 0.5}"),
        ("--trackers [tensorboard]", "--trackers [tensorboard]"),
        ("--synthesis.backbones null", "--synthesis.backbones null"),
        ("--data.root a,b", "--data.root a,b"),
        ("--data.root=a=b,c", "--data.root=a=b,c"),
        ("--quiet --trackers wandb", '--quiet --trackers ["wandb"]'),
        ("--trackers --quiet", "--trackers --quiet"),
    ],
)
def test_lists_and_tables_get_their_brackets(argv, expected):
    assert " ".join(with_lists(argv.split())) == expected


def test_an_empty_list():
    assert with_lists(["--baselines.methods", ""]) == ["--baselines.methods", "[]"]


@pytest.mark.parametrize("value", ["resnet18", "resnet18=", "=2"])
def test_an_entry_of_a_table_has_a_name_and_a_value(value):
    with pytest.raises(ConfigError, match=r"--labels.weights takes name=value"):
        with_lists(["--labels.weights", value])


@pytest.mark.parametrize(
    ("argv", "methods"),
    [
        (["--baselines", "light", "--ipc", "1"], "random-hard,random-soft,teacher"),
        (["--baselines=none", "--ipc", "1"], ""),
        (
            ["--baselines", "all", "--ipc", "1"],
            "random-hard,gvbsm-hard,random-soft,herding-soft,sre2l,teacher,full",
        ),
    ],
)
def test_a_group_of_baselines_is_the_list_of_its_members(argv, methods):
    assert with_baselines(argv) == [f"--baselines.methods={methods}", "--ipc", "1"]


@pytest.mark.parametrize("argv", [["--baselines"], ["--baselines", "many"], ["--baselines=--ipc"]])
def test_any_other_group_of_baselines_is_refused(argv):
    with pytest.raises(ConfigError, match="--baselines takes one of none, light, all; found"):
        with_baselines(argv)
