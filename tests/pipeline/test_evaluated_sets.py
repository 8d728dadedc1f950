"""What is evaluated, and what has come out so far."""

from gvbsm.config.build import as_config
from gvbsm.files.artifacts import write_json
from gvbsm.pipeline.evaluated_sets import all_places, needed_teachers, read_full, read_results
from gvbsm.store.recipes import Recipes
from gvbsm.store.workdir import Workspace

CONFIG = as_config(
    {
        "evaluation": {"students": ["convnet8_d1"], "seeds": 3},
        "baselines": {"methods": ["random-hard", "sre2l", "teacher", "full"], "draws": 2},
    }
)


def test_places__draws_share_the_seeds_and_full_has_no_images(tmp_path):
    found = [
        (method, str(place.directory.relative_to(tmp_path)), place.draw, list(seeds))
        for method, place, seeds in all_places(CONFIG, tmp_path)
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
        places = [place for _, place, _ in all_places(config, tmp_path)]
        found = needed_teachers(config, places)
        assert found == [config.squeeze.backbones[index] for index in needed]


def test_results__are_those_of_the_present_settings_alone(tmp_path):
    recipes = Recipes(CONFIG, "toy", "fp32")
    (_, own, _), (_, random, _), *_ = all_places(CONFIG, tmp_path)
    for place, seed, recipe in (
        (own, 0, recipes.student(own, "convnet8_d1", 0)),
        (own, 1, {"made": "otherwise"}),
        (random, 2, recipes.student(random, "convnet8_d1", 2)),
    ):
        history = {"epochs": [1], "top1": [50.0], "losses": [1.0]}
        write_json(place.result("convnet8_d1", seed), {"recipe": recipe, "of": seed, **history})
    found = read_results(all_places(CONFIG, tmp_path), recipes)
    seeds = {key: [result["of"] for result in results] for key, results in found.items()}
    assert seeds == {("gvbsm", "convnet8_d1"): [0], ("random-hard", "convnet8_d1"): [2]}
    assert read_full(CONFIG, recipes, Workspace(tmp_path)) == {}
