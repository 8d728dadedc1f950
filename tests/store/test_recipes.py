"""A changed setting changes the recipes of its stage and of what follows, and no others."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from gvbsm.config.build import build_config, for_method, to_dict
from gvbsm.config.keys import merge
from gvbsm.data.epochs import settle_epochs
from gvbsm.engine.forms import Forms
from gvbsm.files.artifacts import changes
from gvbsm.store.image_set import ImageSet
from gvbsm.store.label_store import STORAGE
from gvbsm.store.recipes import REVISIONS, Recipes

BASE = {"squeeze": {"backbones": ["resnet18", "convnet16_d2"]}}
STAGES = ("teacher", "statistics", "images", "labels", "student")


def recipes_of(settings, method="gvbsm", data="data", precision="fp32"):
    config = build_config(merge(BASE, settings))
    chosen = config if method == "gvbsm" else for_method(config, method)
    recipes, image_set = Recipes(config, data, precision), ImageSet(chosen, Path("w"))
    return {
        "teacher": recipes.teacher("resnet18"),
        "statistics": recipes.statistics("resnet18"),
        "images": recipes.images(image_set),
        "labels": recipes.labels(image_set),
        "student": recipes.student(image_set, "resnet18", 0),
    }


def changed(settings, method="gvbsm"):
    before, after = recipes_of({}, method), recipes_of(settings, method)
    return {stage for stage in STAGES if before[stage] != after[stage]}


@pytest.mark.parametrize(
    ("settings", "first"),
    [
        ({"seed": 1}, "teacher"),
        ({"squeeze": {"seed": 1}}, "teacher"),
        ({"synthesis": {"seed": 1}}, "images"),
        ({"labels": {"seed": 1}}, "labels"),
        ({"evaluation": {"seed": 1}}, "student"),
        ({"squeeze": {"epochs": 3}}, "teacher"),
        ({"squeeze": {"optimizer": {"lr": 0.3}}}, "teacher"),
        ({"squeeze": {"micro_batch": 3}}, "teacher"),
        ({"statistics": {"n_p": 2}}, "statistics"),
        ({"synthesis": {"views": {"roll": 2}}}, "statistics"),
        ({"synthesis": {"weight_class": 0.5}}, "statistics"),
        ({"synthesis": {"difficulty_groups": True, "loop": "original"}}, "statistics"),
        ({"synthesis": {"init": "group_back"}}, "images"),
        ({"synthesis": {"init": "real", "weight_absorption": 1.0}}, "images"),
        ({"synthesis": {"stages": 2}}, "images"),
        ({"synthesis": {"stages": 2, "stage_sizes": [24, 32]}}, "images"),
        ({"synthesis": {"rounds": 2, "init": "real"}}, "images"),
        ({"synthesis": {"weight_flatness": 0.25}}, "images"),
        ({"synthesis": {"iterations": 7}}, "images"),
        ({"ipc": 3}, "images"),
        ({"ipc_of": {"cat": 3}}, "images"),
        ({"labels": {"epochs": 9}}, "labels"),
        ({"labels": {"logit_normalization": True}}, "labels"),
        ({"labels": {"temperature": 2.0}}, "labels"),
        ({"labels": {"views": {"shuffle": 2}}}, "labels"),
        ({"labels": {"views": {"border": "black"}}}, "labels"),
        ({"squeeze": {"views": {"border": "black"}}}, "teacher"),
        ({"squeeze": {"settings_of": {"resnet18": {"optimizer": {"lr": 0.3}}}}}, "teacher"),
        ({"squeeze": {"settings_of": {"resnet18": {"pretrained": True}}}}, "teacher"),
        ({"synthesis": {"views": {"border": "black"}}}, "statistics"),
        ({"synthesis": {"rounding": "truncate"}}, "images"),
        ({"labels": {"storage": {"bits": 8}}}, "labels"),
        ({"labels": {"storage": {"pruning": 2}}}, "labels"),
        ({"labels": {"storage": {"top_k": 2}}}, "labels"),
        ({"evaluation": {"gamma": 0.5}}, "student"),
        ({"evaluation": {"optimizer": {"zeta": 2.0}}}, "student"),
        ({"synthesis": {"optimizer": {"warmup": 0.1}}}, "images"),
        ({"evaluation": {"micro_batch": 3}}, "student"),
        ({"evaluation": {"lr_of": {"resnet18": 0.5}}}, "student"),
        ({"labels": {"weights": {"resnet18": 2.0}}}, "labels"),
        ({"labels": {"batchnorm": "batch"}}, "labels"),
        ({"labels": {"logit_normalization_of": {"resnet18": True}}}, "student"),
    ],
)
def test_recipes__a_setting_changes_its_stage_and_what_follows(settings, first):
    assert changed(settings) == set(STAGES[STAGES.index(first) :])


@pytest.mark.parametrize(
    ("stage", "first"),
    [
        ("squeeze", "teacher"),
        ("statistics", "statistics"),
        ("synthesis", "images"),
        ("labels", "labels"),
        ("evaluation", "student"),
    ],
)
def test_recipes__a_mended_stage_is_made_again_with_what_follows(stage, first, monkeypatch):
    before = recipes_of({})
    monkeypatch.setitem(REVISIONS, stage, REVISIONS[stage] + 1)
    after = recipes_of({})
    differ = [name for name in STAGES if before[name] != after[name]]
    assert differ == list(STAGES[STAGES.index(first) :])


@pytest.mark.parametrize(
    "settings",
    [
        {"device": "cpu"},
        {section: {"seed": 0} for section in ("squeeze", "synthesis", "labels", "evaluation")},
        {"trackers": ["tensorboard"]},
        {"synthesis": {"beta_dr_of": {10: 0.0, 50: 0.4}}},  # read where settings are settled
        {"threads": 1},
        {"synthesis": {"groups": 3}},
        {"synthesis": {"compile": "always"}},
        {"checkpoint_seconds": 5.0},
        {"squeeze": {"tests": 2}},
        {"statistics": {"batch_size": 7}},
        {"labels": {"store": False}},
        {"labels": {"min_steps": 5}},
        {"labels": {"storage": {"bits": 16, "top_k": None, "pruning": 1.0}}},
        {"evaluation": {"seeds": 9}},
        {"evaluation": {"students": ["resnet18", "convnet16_d2"]}},
        {"evaluation": {"lr_of": {"convnet16_d2": 0.5}}},
        {"baselines": {"methods": []}},
    ],
)
def test_recipes__what_changes_no_content_changes_no_recipe(settings):
    assert changed(settings) == set()


def test_a_teacher_s_own_settings_are_in_its_recipe_as_if_all_had_them():
    own = {"epochs": 3, "optimizer": {"lr": 0.3}, "views": {"scale": [0.5, 1]}}
    alone = recipes_of({"squeeze": {"settings_of": {"resnet18": own}}})
    assert alone["teacher"] == recipes_of({"squeeze": own})["teacher"]
    other = recipes_of({"squeeze": {"settings_of": {"wrn16_2": own, "resnet50": own}}})
    assert other["teacher"] == recipes_of({})["teacher"]


def test_what_is_forgotten_is_recorded_with_the_teacher_s_own_settings():
    def forgetting(squeeze):
        config = build_config(merge(BASE, {"squeeze": squeeze}))
        return Recipes(config, "data", "fp32").forgetting()

    assert forgetting({"settings_of": {"resnet18": {"epochs": 3}}}) == forgetting({"epochs": 3})
    assert forgetting({"settings_of": {"wrn16_2": {"epochs": 3}}}) == forgetting({})


def test_a_teacher_that_comes_trained_depends_on_no_setting_of_training():
    trained = {"squeeze": {"pretrained": True}}
    later = {"squeeze": {"pretrained": True, "epochs": 3, "optimizer": {"lr": 0.3}}}
    assert recipes_of(trained) == recipes_of(later)
    assert recipes_of(trained)["teacher"] != recipes_of({})["teacher"]


def test_a_teacher_that_comes_trained_depends_on_no_form_of_its_students():
    """A further student of its name, or the stage that trains students, has one chosen later."""
    config = build_config({**BASE, "squeeze": {"pretrained": True}})
    forms = Forms({"resnet18": {"training": "bf16 compiled"}})
    plain, later = Recipes(config, "data", "fp32"), Recipes(config, "data", "fp32", forms)
    assert later.teacher("resnet18") == plain.teacher("resnet18")
    image_set = ImageSet(config, Path("w"))
    assert later.labels(image_set) == plain.labels(image_set)
    assert later.student(image_set, "resnet18", 0) != plain.student(image_set, "resnet18", 0)


def test_recipes__statistics_by_class_are_named_where_they_are_recorded():
    assert "by_class" not in recipes_of({})["statistics"]["statistics"]
    by_class = recipes_of({"synthesis": {"weight_class": 0.5}})
    assert by_class["statistics"]["statistics"]["by_class"] is True


def test_recipes__the_nearest_pictures_depend_on_the_teacher_that_is_compared():
    mixed = {"init": "real", "stages": 2, "residual": 0.5, "residual_source": "nearest"}
    names = {"synthesis": {**mixed, "backbones": ["resnet18"]}}
    settings = [
        merge(names, {"coreset": {"backbone": name}}) for name in ("resnet18", "convnet16_d2")
    ]
    found = [recipes_of(each)["images"] for each in settings]
    assert found[0] != found[1]
    config = build_config(merge(BASE, settings[1]))
    config = replace(config, labels=replace(config.labels, backbones=("resnet18",)))
    assert ImageSet(config, Path("w")).teachers == ("resnet18", "convnet16_d2")
    assert "nearest" not in recipes_of(settings[1], "sre2l")["images"]


def test_recipes__statistics_of_groups_depend_on_their_number_and_all_teachers():
    grouped = {"synthesis": {"difficulty_groups": True, "loop": "original"}}
    few = {"ipc": 3, "squeeze": {"settings_of": {"convnet16_d2": {"epochs": 3}}}}
    assert changed({"ipc": 3}) == {"images", "labels", "student"}
    before = recipes_of(grouped)["statistics"]
    assert before != recipes_of(merge(grouped, {"ipc": 3}))["statistics"]
    after = recipes_of(merge(grouped, few))["statistics"]
    assert before["teacher"] == after["teacher"]
    assert before["difficulty"] != after["difficulty"]


def test_recipes__a_baseline_starts_from_the_difficulty_by_all_teachers():
    """SRe2L matches one teacher, but its first pixels are those of G-VBSM."""
    start = {"synthesis": {"init": "group_front"}}
    both = [recipes_of(start, method)["images"]["start"] for method in ("gvbsm", "sre2l")]
    assert both[0] == both[1]
    alone = recipes_of(merge(start, {"synthesis": {"backbones": ["resnet18"]}}))
    assert alone["images"]["start"] != both[0]


def test_recipes__noise_is_named_so_that_images_of_another_noise_are_made_again():
    assert recipes_of({})["images"]["start"] == "noise by position"
    assert recipes_of({}, "sre2l")["images"]["start"] == "noise by position"
    assert "start" not in recipes_of({"synthesis": {"init": "real"}})["images"]


def test_recipes__a_start_by_herding_depends_on_the_teacher_that_is_compared():
    start = {"synthesis": {"init": "herding", "backbones": ["wrn10_1"]}}
    names = {"squeeze": {"backbones": ["wrn10_1", "convnet8_d1"]}}
    by = [{"coreset": {"backbone": name}} for name in ("wrn10_1", "convnet8_d1")]
    found = [recipes_of(merge(merge(start, names), each))["images"] for each in by]
    assert found[0] != found[1]
    config = build_config(merge(BASE, merge(merge(start, names), by[1])))
    config = replace(config, labels=replace(config.labels, backbones=("wrn10_1",)))
    assert ImageSet(config, Path("w")).teachers == ("wrn10_1", "convnet8_d1")


def test_recipes__a_further_backbone_leaves_the_first_teacher_as_it_is():
    more = {"squeeze": {"backbones": ["resnet18", "convnet16_d2", "wrn10_1"]}}
    assert changed(more) == {"images", "labels", "student"}


def test_recipes__hard_labels_ask_no_teacher():
    assert "student" not in changed({"squeeze": {"epochs": 3}}, "random-hard")
    assert "student" not in changed({"labels": {"temperature": 3.0}}, "random-hard")
    assert "student" in changed({"squeeze": {"epochs": 3}}, "random-soft")
    assert "student" in changed({"labels": {"epochs": 3}}, "random-hard")


@pytest.mark.parametrize(
    ("loss", "read"),
    [("mse_gt", {"gamma"}), ("kl", {"temperature"}), ("cosine", set()), ("hard", set())],
)
def test_recipes__a_setting_that_the_loss_does_not_read_changes_no_student(loss, read):
    before = recipes_of({"evaluation": {"loss": loss}})["student"]
    for name in ("gamma", "temperature"):
        after = recipes_of({"evaluation": {"loss": loss, name: 7.0}})["student"]
        assert (after != before) == (name in read)


SEEDED = {name: {"seed": 5} for name in ("squeeze", "synthesis", "labels", "evaluation")}


@pytest.mark.parametrize(
    "method", ["gvbsm", "sre2l", "random-hard", "random-soft", "forgetting-soft"]
)
def test_recipes__seeds_of_all_sections_are_the_runs(method):
    """So that sections which share a seed share what they make with a run of that seed."""
    by_section, by_run = recipes_of(SEEDED, method), recipes_of({"seed": 5}, method)
    same = {stage for stage in STAGES if by_section[stage] == by_run[stage]}
    selected = {"images", "labels", "student"} if method.startswith(("random", "forg")) else set()
    assert same == {*STAGES} - selected  # a selection draws from the run's


def test_recipes__hard_labels_name_the_seed_of_their_views_where_it_is_another():
    found = recipes_of({"labels": {"seed": 1}}, "random-hard")["student"]
    assert (found["seed"], found["labels"]["seed"]) == (0, 1)
    found = recipes_of({"labels": {"seed": 1}, "evaluation": {"seed": 1}}, "random-hard")["student"]
    assert found["seed"] == 1
    assert "seed" not in found["labels"]


def test_recipes__both_random_baselines_share_their_images():
    assert recipes_of({}, "random-hard")["images"] == recipes_of({}, "random-soft")["images"]
    assert changed({"synthesis": {"iterations": 7}}, "random-soft") == set()


def test_recipes__the_distilled_images_with_hard_labels_are_trained_as_random_ones():
    hard, random = recipes_of({}, "gvbsm-hard"), recipes_of({}, "random-hard")
    assert hard["images"] == recipes_of({})["images"]
    assert {key for key in hard["student"] if hard["student"][key] != random["student"][key]} == {
        "images"
    }
    assert changed({"labels": {"temperature": 3.0}}, "gvbsm-hard") == {"labels"}


SELECTIONS = ("herding", "k-center", "balanced", "forgetting")


def test_recipes__curriculum_depends_on_all_that_it_is_made_from():
    hard, soft = recipes_of({}, "curriculum-hard"), recipes_of({}, "curriculum-soft")
    assert hard["images"] == soft["images"]
    for settings in (
        {"synthesis": {"iterations": 7}},
        {"squeeze": {"epochs": 3}},
        {"coreset": {"epochs": 3}},
        {"coreset": {"distilled_share": 0.5}},
        {"coreset": {"curricula": 2}},
        {"labels": {"epochs": 7}},
        {"evaluation": {"loss": "kl"}},
        {"ipc": 3},
        {"seed": 1},
    ):
        assert "images" in changed(settings, "curriculum-soft"), settings
    for settings in (
        {"evaluation": {"seeds": 4}},
        {"evaluation": {"tests": 1}},
        {"baselines": {"draws": 2}},
        {"labels": {"storage": {"bits": 8}}},
    ):
        assert "images" not in changed(settings, "curriculum-soft"), settings


@pytest.mark.parametrize("selection", SELECTIONS)
def test_recipes__a_selection_is_the_same_for_hard_and_soft_labels(selection):
    hard, soft = (recipes_of({}, f"{selection}-{labels}") for labels in ("hard", "soft"))
    assert hard["images"] == soft["images"]
    assert hard["student"] != soft["student"]
    assert changed({"synthesis": {"iterations": 7}}, f"{selection}-hard") == set()


def test_recipes__images_of_single_classes_are_named_where_they_differ():
    assert "ipc_of" not in recipes_of({})["images"]
    for method in ("gvbsm", "random-soft", "herding-soft"):
        before, after = (
            recipes_of({"ipc_of": {"cat": count}}, method)["images"] for count in (2, 3)
        )
        assert changes(before, after) == ["ipc_of.cat: 2 -> 3"]


def test_recipes__selections_differ_from_each_other():
    found = [recipes_of({}, f"{name}-hard")["images"] for name in ("random", *SELECTIONS)]
    assert all(found.count(recipe) == 1 for recipe in found)


@pytest.mark.parametrize(
    ("settings", "changes"),
    [
        ({"coreset": {"backbone": "convnet16_d2"}}, SELECTIONS),
        ({"coreset": {"backbone": "resnet18"}}, ()),  # the first of squeeze.backbones anyway
        ({"coreset": {"epochs": 3}}, ("forgetting",)),
        ({"coreset": {"epochs": 50}}, ()),  # as squeeze.epochs
        ({"squeeze": {"epochs": 3}}, SELECTIONS),
        (
            {"squeeze": {"epochs": 3}, "coreset": {"epochs": 50}},
            ("herding", "k-center", "balanced"),
        ),
        ({"squeeze": {"tests": 2}}, ()),
        ({"seed": 1}, ("random", *SELECTIONS)),
        ({"ipc": 3}, ("random", *SELECTIONS)),
    ],
)
def test_recipes__a_selection_depends_on_its_teacher_or_training(settings, changes):
    for selection in ("random", *SELECTIONS):
        assert ("images" in changed(settings, f"{selection}-hard")) == (selection in changes)


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


def test_recipes__shown_real_pictures_depend_on_their_number_and_the_seed():
    def real(settings):
        return Recipes(build_config(merge(BASE, settings)), "data", "fp32").real()

    assert real({"ipc": 3}) != real({})
    assert real({"seed": 1}) != real({})
    assert real({"synthesis": {"iterations": 7}, "squeeze": {"epochs": 3}}) == real({})


def test_recipes__a_student_of_some_classes_is_one_of_the_set_and_of_these_classes():
    config = build_config(BASE)
    recipes, image_set = Recipes(config, "data", "fp32"), ImageSet(config, Path("w"))
    whole = recipes.student(image_set, "resnet18", 1)
    some = recipes.continual(image_set, "resnet18", 1, [4, 2])
    assert some == {**whole, "stage": "continual", "classes": [4, 2]}
    assert some != recipes.continual(image_set, "resnet18", 1, [2, 4])  # the outputs change places


def test_recipes__how_labels_are_kept_stands_apart():
    """So that a store is known as one that can be made from another."""
    plain, kept = recipes_of({})["labels"], recipes_of({"labels": {"storage": {"bits": 8}}})
    assert STORAGE not in plain["labels"]
    assert kept["labels"] == {**plain, STORAGE: {"pruning": 1.0, "top_k": None, "bits": 8}}
    hard = recipes_of({"labels": {"storage": {"bits": 8}}}, "random-hard")["student"]
    assert hard == recipes_of({}, "random-hard")["student"]


def test_recipes__a_student_of_another_normalization_is_as_if_all_had_it():
    own = {"labels": {"logit_normalization_of": {"resnet18": True, "convnet16_d2": False}}}
    assert recipes_of(own)["labels"] == recipes_of({})["labels"]
    everyone = recipes_of({"labels": {"logit_normalization": True}})
    assert recipes_of(own)["student"] == everyone["student"]
    hard = {"evaluation": {"loss": "hard"}}
    assert recipes_of(merge(own, hard))["student"] == recipes_of(hard)["student"]


def test_recipes__name_the_form_of_each_network_and_leave_others_as_they_are():
    config = build_config(BASE)
    image_set = ImageSet(config, Path("w"))

    def recipes(**row):
        forms = Forms({"resnet18": row})
        made = Recipes(config, "data", "fp32", forms)
        return {
            "teacher": made.teacher("resnet18")["precision"],
            "statistics": made.statistics("resnet18")["precision"],
            "images": made.images(image_set)["precision"],
            "labels": made.labels(image_set)["precision"],
            "student": made.student(image_set, "resnet18", 0)["precision"],
        }

    plain = dict.fromkeys(STAGES, "fp32")
    assert recipes() == plain
    assert recipes(training="bf16") == {**plain, "teacher": "bf16", "student": "bf16"}
    assert recipes(inference="bf16") == {**plain, "labels": ["bf16", "fp32"]}
    # Statistics are recorded by hooks, compiled or not.
    compiled = {"statistics": "bf16", "images": ["bf16 compiled", "fp32"]}
    assert recipes(pixels="bf16 compiled") == {**plain, **compiled}
