"""Names of settings: merging, tables, unknown names."""

import copy
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gvbsm.config import Config, ConfigError
from gvbsm.config.build import build_config
from gvbsm.config.keys import (
    check_names,
    closest,
    fault_in_words,
    fields_by_name,
    flat_keys,
    flatten,
    merge,
    nest,
    nested,
    setting_of,
    unknown_field,
    value_at,
    without_paths,
)

TABLES = (
    "synthesis.beta_dr_of",
    "labels.logit_normalization_of",
    "evaluation.lr_of",
    "labels.weights",
    "squeeze.settings_of",
    "baselines.overrides",
    "baselines.sets",
    "ipc_of",
)


def test_merge_is_deep_for_sections_and_whole_for_lists():
    base, over = {"a": {"x": 1, "y": [1, 2]}, "b": 3}, {"a": {"y": [3]}, "c": 4}
    assert merge(base, over) == {"a": {"x": 1, "y": [3]}, "b": 3, "c": 4}


@pytest.mark.parametrize("name", TABLES)
def test_tables_of_networks_are_replaced_whole(name):
    base = {**nest(name, {"resnet18": 0.2}), "seed": 3}
    over = nest(name, {"convnet128": 0.1})
    assert merge(base, over) == {**over, "seed": 3}
    assert merge(base, nest(name, {})) == {**nest(name, {}), "seed": 3}


def test_without_paths_leaves_all_else_and_adds_nothing():
    squeeze = {"epochs": 3, "weights_dir": "/a"}
    given = {"data": {"name": "npz", "root": "/a"}, "squeeze": squeeze}
    given["baselines"] = {"sets": {"dm": "/a"}, "draws": 2}
    kept = without_paths(given)
    assert kept == {
        "data": {"name": "npz", "root": None},
        "squeeze": {"epochs": 3, "weights_dir": None},
        "baselines": {"sets": {}, "draws": 2},
    }
    assert given["data"]["root"] == "/a"


@pytest.mark.parametrize("name", TABLES)
def test_the_keys_of_a_table_are_no_settings(name):
    given = {**nest(name, {"timm/a.b": 1.0, "ipc": 2.0}), "seed": 3}
    check_names(given, "here")
    assert list(flat_keys(given)) == [name, "seed"]
    with pytest.raises(ConfigError, match=f"here: {name} must not be null"):
        check_names(nest(name, None), "here")


def test_no_section_or_other_setting_has_the_name_of_a_table():
    known = fields_by_name()
    assert {name for name, kind in known.items() if kind.startswith("dict")} == {*TABLES}
    last = [name.rpartition(".")[2] for name in known]
    assert all(last.count(name.rpartition(".")[2]) == 1 for name in TABLES)


keys = st.sampled_from("abc")
trees = st.recursive(
    st.integers(), lambda leaf: st.dictionaries(keys, leaf, max_size=3), max_leaves=8
)
mappings = st.dictionaries(keys, trees, max_size=3)


@settings(derandomize=True)
@given(mappings, mappings)
def test_merge_laws(base, over):
    before = json.dumps([base, over])
    merged = merge(base, over)
    assert json.dumps([base, over]) == before
    assert merge(base, {}) == base
    assert merge({}, over) == over
    assert merge(merged, over) == merged
    assert merged.keys() == base.keys() | over.keys()
    assert all(merged[key] == base[key] for key in base.keys() - over.keys())


def test_setting_of__an_entry_belongs_to_its_table():
    assert setting_of("ipc_of.cat") == setting_of("ipc_of") == "ipc_of"
    assert setting_of("evaluation.lr_of.timm/a.b") == "evaluation.lr_of"
    for name in ("ipc", "labels.epochs", "labels.views.cutmix", "nothing.at.all"):
        assert setting_of(name) == name


def test_unknown_field_knows_the_last_part_of_a_name():
    assert "did you mean synthesis.tau" in unknown_field("training.options.tau", "here")
    assert unknown_field("zzzzzzz", "here") == (
        "here: there is no setting 'zzzzzzz'; `gvbsm run --help all` lists all"
    )


def test_value_at__reads_mappings_and_dataclasses_alike():
    assert value_at(Config(), "labels.views.cutmix") == 1.0
    assert value_at({"labels": {"views": {"cutmix": 0.5}}}, "labels.views.cutmix") == 0.5
    assert value_at({"labels": Config().labels}, "labels.views.cutmix") == 1.0
    with pytest.raises(KeyError):
        value_at({"labels": {}}, "labels.views.cutmix")


def test_nest__is_undone_by_flatten():
    assert nest("labels.views.cutmix", 0.5) == {"labels": {"views": {"cutmix": 0.5}}}
    assert flatten(nest("labels.views.cutmix", 0.5)) == {"labels.views.cutmix": 0.5}
    table = {"evaluation.lr_of": {"timm/a.b": 0.1}}  # one value, whatever its keys
    assert flatten(nest("evaluation.lr_of", table["evaluation.lr_of"])) == table


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("squeeze.settings_of.a.epochs", 9, {"a": {"epochs": 9, "tests": 2}, "b": {"epochs": 3}}),
        ("squeeze.settings_of.a", {"epochs": 9}, {"a": {"epochs": 9}, "b": {"epochs": 3}}),
        ("squeeze.settings_of", {"a": {"epochs": 9}}, {"a": {"epochs": 9}}),
        (
            "squeeze.settings_of.my/net.v2.optimizer.lr",
            0.1,
            {
                "a": {"epochs": 1, "tests": 2},
                "b": {"epochs": 3},
                "my/net.v2": {"optimizer": {"lr": 0.1}},
            },
        ),
    ],
)
def test_a_dotted_name_changes_nothing_but_what_it_names(name, value, expected):
    before = {"squeeze": {"settings_of": {"a": {"epochs": 1, "tests": 2}, "b": {"epochs": 3}}}}
    copied = copy.deepcopy(before)
    assert merge(before, nest(name, value)) == {"squeeze": {"settings_of": expected}}
    assert before == copied


def test_dotted_names_of_one_table_are_all_kept():
    found = nested(
        {
            "evaluation.lr_of.a.b": 1.0,
            "evaluation.lr_of.c": 2.0,
            "synthesis.beta_dr_of.10": 0.5,
            "baselines.overrides.sre2l.labels.weights.a": 3.0,
            "baselines.overrides.sre2l.labels.epochs": 4,
        }
    )
    assert found == {
        "evaluation": {"lr_of": {"a.b": 1.0, "c": 2.0}},
        "synthesis": {"beta_dr_of": {10: 0.5}},
        "baselines": {"overrides": {"sre2l": {"labels": {"weights": {"a": 3.0}, "epochs": 4}}}},
    }
    assert merge({"evaluation": {"lr_of": {"d": 5.0}}}, found)["evaluation"]["lr_of"] == {
        "a.b": 1.0,
        "c": 2.0,
        "d": 5.0,
    }


def test_closest__asks_for_names_that_are_close():
    known = ("digits", "cifar10", "cifar100")
    assert closest("cifar1", known) == "did you mean cifar10? "
    assert closest("cifar1", known, most=2) == "did you mean cifar10 or cifar100? "
    assert closest("digit", known, form="{!r}") == "did you mean 'digits'? "
    assert closest("xyz", known) == ""


@pytest.mark.parametrize(
    ("given_settings", "message"),
    [
        ({"ipc": "ten"}, "ipc must be a whole number; found ten"),
        ({"threads": "x"}, "threads must be null or a whole number; found x"),
        ({"processes": 1.5}, "processes must be a whole number or auto; found 1.5"),
        ({"precision": "fp64"}, "precision must be auto, fp32, bf16; found fp64"),
        ({"labels": {"store": "maybe"}}, "labels.store must be true or false; found maybe"),
        ({"labels": {"storage": {"bits": 7}}}, "labels.storage.bits must be 16 or 8; found 7"),
        (
            {"evaluation": {"students": "resnet18"}},
            "evaluation.students must be a list of names, such as [resnet18, convnet128]; "
            "found resnet18",
        ),
        (
            {"trackers": ["csv"]},
            "trackers must be a list of any of tensorboard, wandb, trackio; found csv",
        ),
        (
            {"evaluation": {"lr_of": {"resnet18": "fast"}}},
            "evaluation.lr_of must be a table, such as {resnet18: 0.5, wrn16_2: 2}; found fast",
        ),
        ({"synthesis": {"crop_scale": [1]}}, "synthesis.crop_scale must be 2 numbers, such as [0"),
        (
            {"squeeze": {"settings_of": {"wrn16_2": {"epochs": "x"}}}},
            "squeeze.settings_of.wrn16_2: squeeze.epochs must be a whole number; found x",
        ),
    ],
)
def test_a_value_of_a_wrong_type_is_told_in_words(given_settings, message):
    with pytest.raises(ConfigError) as caught:
        build_config(given_settings)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    ("message", "words"),
    [
        ("argument --ipc: expected one argument", "--ipc needs a value: a whole number"),
        (
            "Parser key \"squeeze\":\n  Unable to load config '5'",
            "squeeze is a section of settings: name one of them, such as squeeze.backbones",
        ),
        ("another  fault", "another fault"),
        ('Parser key "to": Expected a word', 'Parser key "to": Expected a word'),
    ],
)
def test_messages_of_a_parser_in_words(message, words):
    assert fault_in_words(message) == words


def test_on_the_command_line_a_list_has_no_brackets():
    message = 'Parser key "evaluation.students": Expected a list. Got value: null'
    words = "evaluation.students must be a list of names, such as resnet18,convnet128; found null"
    assert fault_in_words(message, on_command_line=True) == words
