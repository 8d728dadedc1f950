"""One command a seat: it has the settings of the long command whose result docs/recipe.md gives."""

import re
import shlex
from pathlib import Path

import pytest

from gvbsm.cli.parsing import parse_run
from gvbsm.config.build import squeeze_of, to_dict
from gvbsm.config.keys import flatten

PAGE = (Path(__file__).parents[2] / "docs" / "recipe.md").read_text(encoding="utf-8")
TRAINED = "Teachers of the runs on CIFAR-10"
FREE = (  # of the machine, or of what is shown beside
    "data.root",
    "processes",
    "threads",
    "precision",
    "evaluation.tests",
    "baselines.methods",
)
# Teachers: name -> number of the command in TRAINED; None are those of the long command.
CHEAP, LONGER, STRONG = range(3)
STRONG_FOUR = dict.fromkeys(("resnet18", "wrn16_2", "airbench", "convnet128"), STRONG)
SEATS = {
    "cifar10-best --ipc 10": ("10 images per class, four strong teachers", [], STRONG_FOUR),
    "cifar10-best --ipc 1": (
        "1 image per class, images of four strong teachers",
        ["--evaluation.students=[resnet18]"],
        {**STRONG_FOUR, "convnet128_d3": CHEAP},
    ),
    "cifar10-convnet-best --ipc 10": (
        "10 images per class, two teachers",
        [],
        {"airbench": CHEAP, "convnet128": LONGER},
    ),
    "cifar10-convnet-best --ipc 1": ("1 image per class, ConvNet-128", [], None),
    "cifar10-convnet-best --ipc 50": ("50 images per class, two teachers", [], None),
    "cifar100-best --ipc 1": ("CIFAR-100, 1 image per class, ResNet-18", [], None),
    "cifar100-convnet-best --ipc 1": ("CIFAR-100, 1 image per class", [], None),
    "cifar100-convnet-best --ipc 10": ("CIFAR-100, 10 images per class", [], None),
    "cifar100-convnet-best --ipc 50": ("CIFAR-100, 50 images per class", [], None),
}


def commands(heading):
    """Arguments of the commands in a section of the page, without `gvbsm` and the verb."""
    section = re.split(r"^#+ ", PAGE.split(f"# {heading}\n", 1)[1], maxsplit=1, flags=re.M)[0]
    blocks = re.findall(r"^```\n(.*?)^```", section, flags=re.M | re.S)
    lines = re.sub(r" \\\n\s*", " ", "".join(blocks)).splitlines()
    return [shlex.split(line)[2:] for line in lines]


def trained(number, name):
    """Settings with which the page trains a teacher."""
    architecture = name.replace("convnet128_d3", "convnet128")  # another name of the same network
    argv = [part.replace("NAME", architecture) for part in commands(TRAINED)[number]]
    return squeeze_of(parse_run("squeeze", argv).config.squeeze, architecture)


def of_a_teacher(squeeze):
    """What a teacher's training depends on."""
    settings = flatten(to_dict(squeeze))
    return {key: settings[key] for key in settings if key not in ("backbones", "tests")}


@pytest.mark.parametrize("short", SEATS)
def test_the_short_command_has_the_settings_that_were_measured(short):
    heading, more, teachers = SEATS[short]
    found = parse_run("run", short.split()).config
    long = parse_run("run", [*commands(heading)[0], *more]).config
    settings, measured = flatten(to_dict(found)), flatten(to_dict(long))
    same = [key for key in settings if key not in FREE and not key.startswith("squeeze.")]
    assert {key: settings[key] for key in same} == {key: measured[key] for key in same}
    assert "random-soft" in found.baselines.methods
    assert found.squeeze.backbones == long.squeeze.backbones
    assert long.squeeze.pretrained == (teachers is not None)
    for name in found.squeeze.backbones:
        how = squeeze_of(long.squeeze, name) if teachers is None else trained(teachers[name], name)
        assert of_a_teacher(squeeze_of(found.squeeze, name)) == of_a_teacher(how), name


@pytest.mark.parametrize("short", SEATS)
def test_the_page_gives_the_short_command_with_nothing_but_the_data(short):
    data = short.partition("-")[0]
    assert f"\ngvbsm run {short} --data-root {data}.npz\n" in PAGE
