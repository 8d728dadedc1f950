"""What is known about settings, said at their fields and asked for by its name."""

from dataclasses import dataclass, fields, replace

import pytest

from gvbsm.config import BaselinesConfig, Config, EvaluationConfig, LabelsConfig, SqueezeConfig
from gvbsm.config.fields import (
    dotted_names_of,
    names_in_recipe,
    names_of,
    replaced,
    setting,
    settings_in,
    without_effect,
)
from gvbsm.config.keys import fields_by_name, value_at


@dataclass(frozen=True)
class Section:
    count: int = setting(3, limit="positive", read_by_train=True)
    table: dict = setting(dict, changes_results=False)
    seed: int = setting(0, in_recipe=False)
    rate: float = 0.1


def test_setting__keeps_its_default_or_makes_it():
    assert Section() == Section(3, {})
    assert Section().table is not Section().table
    assert names_of(Section(), "read_by_train") == ("count",)
    assert without_effect(Section()) == ("table",)


def test_names_in_recipe__leave_out_what_another_entry_stands_for_or_has_no_effect():
    assert names_in_recipe(Section()) == ("count", "rate")


@pytest.mark.parametrize(
    ("fact", "names"),
    [
        ("chooses_teachers", "synthesis.backbones labels.backbones"),
        ("reducible", "squeeze.epochs synthesis.iterations labels.epochs evaluation.seeds"),
        ("with_hard_labels", "labels.epochs labels.full_batch_up_to labels.views"),
        (
            "is_path",
            "data.root squeeze.weights_dir squeeze.weights_classes evaluation.corruptions.folder "
            "baselines.sets",
        ),
    ],
)
def test_dotted_names_of__known_answers(fact, names):
    sections = {"labels.views"}  # a section's own fact is asked for by `names_of`
    assert [*dotted_names_of(Config(), fact)] == [n for n in names.split() if n not in sections]


def test_settings_in__are_all_settings_with_their_values():
    config = Config(ipc=7)
    names = [name for name, kind in fields_by_name().items() if kind != "section"]
    assert [name for name, _, _ in settings_in(config)] == names
    assert all(value == value_at(config, name) for name, _, value in settings_in(config))


def test_every_number_says_what_it_must_be():
    """But images' sizes and such, whose limits depend on other settings or on the data."""
    free = {"data.image_size", "synthesis.stages", "synthesis.rounds", "labels.storage.pruning"}
    free |= {f"{section}.optimizer.zeta" for section in ("squeeze", "synthesis", "evaluation")}
    numbers = ("int", "float", "int | None", "float | None")
    unlimited = {
        name
        for name, item, _ in settings_in(Config())
        if str(item.type) in numbers and item.metadata.get("limit") is None
    }
    assert unlimited == free


def test_what_processes_may_differ_in_changes_no_results():
    idle = without_effect(Config())
    assert {n for n, item, _ in settings_in(Config()) if item.metadata.get("of_a_machine")} == {
        "device",
        "threads",
        "processes",
        "data.root",
        "data.in_memory",
        "data.workers",
        "evaluation.corruptions.folder",
        "baselines.sets",
    }
    assert {"device", "threads", "processes", "data.root", "data.workers"} < {*idle}


@pytest.mark.parametrize(
    ("section", "fact", "names"),
    [
        (Config(), "read_by_train", "seed device precision threads checkpoint_seconds data"),
        (LabelsConfig(), "read_by_train", "epochs min_steps full_batch_up_to views"),
        (
            EvaluationConfig(),
            "read_by_train",
            "loss gamma temperature hard_target hard_phase batch_size optimizer tests ema",
        ),
        (
            SqueezeConfig(),
            "of_one_teacher",
            "pretrained epochs batch_size micro_batch optimizer views",
        ),
        (BaselinesConfig(), "read_by_train", ""),
    ],
)
def test_names_of__known_answers(section, fact, names):
    assert names_of(section, fact) == tuple(names.split())
    assert {*names.split()} <= {item.name for item in fields(section)}


def test_replaced__lays_nested_settings_over_a_section_and_replaces_tables_whole():
    config = Config(squeeze=SqueezeConfig(settings_of={"wrn16_2": {"epochs": 3}}))
    table = {"resnet18": {"pretrained": True}}
    over = {"ipc": 7, "squeeze": {"optimizer": {"lr": 0.3}, "settings_of": table}}
    result = replaced(config, over)
    assert (result.ipc, result.squeeze.settings_of) == (7, table)
    assert result.squeeze.optimizer == replace(config.squeeze.optimizer, lr=0.3)
    assert result.labels == config.labels
    assert replaced(config, {}) == config
