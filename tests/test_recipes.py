"""A changed setting changes the recipes of its stage and of what follows, and no others."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from gvbsm.epochs import settle_epochs
from gvbsm.recipes import Place, Recipes
from gvbsm.settings import build_config, for_method, merge, to_dict

BASE = {"squeeze": {"backbones": ["resnet18", "convnet16_d2"]}}
STAGES = ("teacher", "statistics", "images", "labels", "student")


def recipes_of(settings, method="gvbsm", data="data", precision="fp32"):
    config = build_config(merge(BASE, settings))
    chosen = config if method == "gvbsm" else for_method(config, method)
    recipes, place = Recipes(config, data, precision), Place(chosen, Path("w"))
    return {
        "teacher": recipes.teacher("resnet18"),
        "statistics": recipes.statistics("resnet18"),
        "images": recipes.images(place),
        "labels": recipes.labels(place),
        "student": recipes.student(place, "resnet18", 0),
    }


def changed(settings, method="gvbsm"):
    before, after = recipes_of({}, method), recipes_of(settings, method)
    return {stage for stage in STAGES if before[stage] != after[stage]}


@pytest.mark.parametrize(
    ("settings", "first"),
    [
        ({"seed": 1}, "teacher"),
        ({"squeeze": {"epochs": 3}}, "teacher"),
        ({"squeeze": {"optimizer": {"lr": 0.3}}}, "teacher"),
        ({"statistics": {"n_p": 2}}, "statistics"),
        ({"synthesis": {"views": {"roll": 2}}}, "statistics"),
        ({"synthesis": {"iterations": 7}}, "images"),
        ({"ipc": 3}, "images"),
        ({"labels": {"epochs": 9}}, "labels"),
        ({"labels": {"logit_normalization": True}}, "labels"),
        ({"evaluation": {"gamma": 0.5}}, "student"),
        ({"evaluation": {"lr_of": {"resnet18": 0.5}}}, "student"),
    ],
)
def test_recipes__a_setting_changes_its_stage_and_what_follows(settings, first):
    assert changed(settings) == set(STAGES[STAGES.index(first) :])


@pytest.mark.parametrize(
    "settings",
    [
        {"device": "cpu"},
        {"threads": 1},
        {"synthesis": {"groups": 3}},
        {"synthesis": {"compile": "always"}},
        {"checkpoint_seconds": 5.0},
        {"squeeze": {"tests": 2}},
        {"statistics": {"batch_size": 7}},
        {"labels": {"store": False}},
        {"labels": {"min_steps": 5}},
        {"evaluation": {"seeds": 9}},
        {"evaluation": {"students": ["resnet18", "convnet16_d2"]}},
        {"evaluation": {"lr_of": {"convnet16_d2": 0.5}}},
        {"baselines": {"methods": []}},
    ],
)
def test_recipes__what_changes_no_content_changes_no_recipe(settings):
    assert changed(settings) == set()


def test_recipes__a_further_backbone_leaves_the_first_teacher_as_it_is():
    more = {"squeeze": {"backbones": ["resnet18", "convnet16_d2", "wrn10_1"]}}
    assert changed(more) == {"images", "labels", "student"}


def test_recipes__hard_labels_ask_no_teacher():
    assert "student" not in changed({"squeeze": {"epochs": 3}}, "random-hard")
    assert "student" in changed({"squeeze": {"epochs": 3}}, "random-soft")
    assert "student" in changed({"labels": {"epochs": 3}}, "random-hard")


def test_recipes__both_random_baselines_share_their_images():
    assert recipes_of({}, "random-hard")["images"] == recipes_of({}, "random-soft")["images"]
    assert changed({"synthesis": {"iterations": 7}}, "random-soft") == set()


def test_recipes__statistics_matter_only_where_convolutions_are_matched():
    assert "images" in changed({"statistics": {"n_p": 2}})
    assert "images" not in changed({"statistics": {"n_p": 2}}, "sre2l")


@pytest.mark.parametrize("method", ["gvbsm", "sre2l", "random-soft", "random-hard"])
def test_recipes__least_steps_count_by_the_epochs_they_lead_to(method):
    def settled(**labels):
        config = build_config(merge(BASE, {"labels": {"epochs": 40, **labels}}))
        config = replace(config, labels=settle_epochs(config.labels, 10, 64))
        return recipes_of(to_dict(config), method)

    plain, met, more = settled(), settled(min_steps=40), settled(min_steps=41)
    assert met == plain
    assert {stage for stage in STAGES if more[stage] != plain[stage]} >= {"student"}
    assert more == settled(epochs=41)
    assert "min_steps" not in json.dumps(more)
    assert "min_steps" not in json.dumps(recipes_of({"labels": {"min_steps": 5}}, method))


def test_recipes__data_and_precision_change_everything():
    before = recipes_of({})
    for after in (recipes_of({}, data="other"), recipes_of({}, precision="bf16")):
        assert all(before[stage] != after[stage] for stage in STAGES)


def test_place__a_result_file_for_each_method_student_and_seed():
    config = build_config(BASE)
    hard = for_method(config, "random-hard")
    paths = {
        Place(settings, Path("w")).result(student, seed)
        for settings in (config, hard)
        for student in ("resnet18", "timm/deit_tiny_patch16_224")
        for seed in (0, 1)
    }
    assert len(paths) == 8
    assert all(path.parent == Path("w/evaluation") for path in paths)
    assert to_dict(hard)["evaluation"]["loss"] == "hard"
