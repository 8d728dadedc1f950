"""What is evaluated, and what has come out so far."""

from gvbsm.config.build import as_config
from gvbsm.files.artifacts import write_json
from gvbsm.pipeline.evaluated_sets import (
    evaluated_sets,
    needed_teachers,
    read_full,
    read_results,
    stored_sizes,
)
from gvbsm.store.distilled import load_labels
from gvbsm.store.recipes import Recipes
from gvbsm.store.workdir import Workspace
from support.distilled_files import write_images, write_labels

CONFIG = as_config(
    {
        "evaluation": {"students": ["convnet8_d1"], "seeds": 3},
        "baselines": {"methods": ["random-hard", "sre2l", "teacher", "full"], "draws": 2},
    }
)


def test_sets__draws_share_the_seeds_and_full_has_no_images(tmp_path):
    found = [
        (
            image_set.method,
            str(image_set.directory.relative_to(tmp_path)),
            image_set.draw,
            list(seeds),
        )
        for image_set, seeds in evaluated_sets(CONFIG, tmp_path)
    ]
    assert found == [
        ("gvbsm", ".", 0, [0, 1, 2]),
        ("random-hard", "baselines/random-0", 0, [0, 2]),
        ("random-hard", "baselines/random-1", 1, [1]),
        ("sre2l", "baselines/sre2l", 0, [0, 1, 2]),
    ]


def test_teachers__all_are_needed_for_the_whole_set_alone(tmp_path):
    for methods, needed in (
        (["random-hard"], [0]),
        (["random-hard", "full"], [0]),
        (["random-hard", "teacher"], [0, 1]),
    ):
        config = as_config(
            {
                "squeeze": {"backbones": ["wrn10_1", "convnet8_d1"]},
                "synthesis": {"backbones": ["wrn10_1"]},
                "labels": {"backbones": ["wrn10_1"]},
                "baselines": {"methods": methods},
            }
        )
        image_sets = [image_set for image_set, _ in evaluated_sets(config, tmp_path)]
        found = needed_teachers(config, image_sets)
        assert found == [config.squeeze.backbones[index] for index in needed]


def test_sizes__are_those_of_the_files_that_students_are_trained_from(tmp_path):
    def sizes(**labels):
        config = {"labels": {"storage": {}, **labels}, "evaluation": {"students": ["convnet8_d1"]}}
        config["baselines"] = {"methods": ["random-hard", "random-soft"]}
        return stored_sizes(evaluated_sets(as_config(config), tmp_path))

    assert sizes() == {}
    for folder in (tmp_path, tmp_path / "baselines" / "random-0"):
        write_images(folder)
    write_labels(tmp_path / "labels")
    nbytes = load_labels(tmp_path / "labels").nbytes()
    own, hard, soft = (
        (method, "convnet8_d1") for method in ("gvbsm", "random-hard", "random-soft")
    )
    pixels = 4 * 3 * 2 * 2
    assert sizes() == {
        own: {"image_bytes": pixels, "label_bytes": nbytes},
        hard: {"image_bytes": pixels, "label_bytes": 0},
    }
    online = sizes(store=False)
    assert {key: entry["label_bytes"] for key, entry in online.items()} == {
        own: None,
        hard: 0,
        soft: None,
    }


def test_results__are_those_of_the_present_settings_alone(tmp_path):
    recipes = Recipes(CONFIG, "toy", "fp32")
    (own, _), (random, _), *_ = evaluated_sets(CONFIG, tmp_path)
    for image_set, seed, recipe in (
        (own, 0, recipes.student(own, "convnet8_d1", 0)),
        (own, 1, {"made": "otherwise"}),
        (random, 2, recipes.student(random, "convnet8_d1", 2)),
    ):
        history = {"epochs": [1], "top1": [50.0], "losses": [1.0]}
        write_json(image_set.result("convnet8_d1", seed), {"recipe": recipe, "of": seed, **history})
    found = read_results(evaluated_sets(CONFIG, tmp_path), recipes)
    seeds = {key: [result["of"] for result in results] for key, results in found.items()}
    assert seeds == {("gvbsm", "convnet8_d1"): [0], ("random-hard", "convnet8_d1"): [2]}
    assert read_full(CONFIG, recipes, Workspace(tmp_path)) == {}
