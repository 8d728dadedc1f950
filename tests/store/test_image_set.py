"""Where a set of images lies, and what its images, labels and students need."""

from pathlib import Path

import pytest

from gvbsm.config.build import build_config, for_method, to_dict
from gvbsm.config.keys import merge
from gvbsm.store.image_set import ImageSet, image_folder

BASE = {"squeeze": {"backbones": ["resnet18", "convnet16_d2"]}}


@pytest.mark.parametrize(
    ("method", "teachers"),
    [
        ("gvbsm", "ab"),
        ("gvbsm-hard", "b"),
        ("random-hard", ""),
        ("random-soft", "ab"),
        ("herding-hard", "b"),
        ("k-center-hard", "b"),
        ("forgetting-hard", ""),
        ("forgetting-soft", "ab"),
        ("sre2l", "a"),
    ],
)
def test_image_set__teachers_are_those_of_features_images_and_soft_labels(method, teachers):
    names = {"a": "wrn10_1", "b": "convnet8_d1", "c": "convnet8_d2"}
    settings = {
        "squeeze": {"backbones": list(names.values())},
        "coreset": {"backbone": names["b"]},
        "synthesis": {"backbones": [names["b"]]},
        "labels": {"backbones": [names["b"], names["a"]]},
    }
    config = build_config(merge(BASE, settings))
    image_set = ImageSet(config if method == "gvbsm" else for_method(config, method), Path("w"))
    assert image_set.teachers == tuple(names[each] for each in teachers)
    assert (image_set.selection is None) == (method in ("gvbsm", "gvbsm-hard", "sre2l"))


@pytest.mark.parametrize(
    ("settings", "method", "needed"),
    [
        ({}, "gvbsm", True),
        ({}, "sre2l", False),  # BatchNorm holds the moments of all pictures
        ({}, "herding-hard", False),
        ({"weight_conv": 0.0}, "gvbsm", False),
        ({"weight_conv": 0.0, "weight_class": 0.5}, "gvbsm", True),
        ({"weight_conv": 0.0, "difficulty_groups": True, "loop": "original"}, "gvbsm", True),
        ({"weight_conv": 0.0, "difficulty_groups": True, "loop": "original"}, "sre2l", False),
        ({"weight_conv": 0.0, "init": "group_back"}, "gvbsm", False),
    ],
)
def test_image_set__needs_statistics_that_batchnorm_does_not_have(settings, method, needed):
    config = build_config(merge(BASE, {"synthesis": settings}))
    image_set = ImageSet(config if method == "gvbsm" else for_method(config, method), Path("w"))
    assert image_set.needs_statistics is needed


@pytest.mark.parametrize(
    ("labels", "loss", "unnamed"),
    [
        ({}, "kl", {"labels-normalized", "labels-plain"}),
        ({"logit_normalization_of": {"resnet18": True}}, "kl", {"labels-plain"}),
        ({"logit_normalization_of": {"other": True}}, "kl", {"labels-plain"}),
        (
            {"logit_normalization_of": {"resnet18": False}},
            "kl",
            {"labels-normalized", "labels-plain"},
        ),
        ({"store": False}, "kl", set()),
        ({}, "hard", set()),
    ],
)
def test_image_set__folders_of_labels_that_the_table_does_not_name(labels, loss, unnamed):
    """The table counts, not the students: a run with fewer of them keeps the labels of all."""
    settings = {"labels": {"batch_size": 64, **labels}, "evaluation": {"loss": loss}}
    image_set = ImageSet(build_config(merge(BASE, settings)), Path("w"))
    assert {folder.name for folder in image_set.unnamed_label_folders} == unnamed


@pytest.mark.parametrize(
    ("own", "method", "draw", "folder"),
    [
        ("gvbsm", "gvbsm", 0, "w"),
        ("gvbsm", "gvbsm-hard", 0, "w"),
        ("gvbsm", "k-center-hard", 0, "w/baselines/k-center"),
        ("gvbsm", "k-center-soft", 0, "w/baselines/k-center"),
        ("gvbsm", "random-hard", 1, "w/baselines/random-1"),
        ("gvbsm", "random-soft", 1, "w/baselines/random-1"),
        ("gvbsm", "random-soft", 0, "w/baselines/random-0"),
        ("gvbsm", "sre2l", 0, "w/baselines/sre2l"),
        ("random-hard", "random-hard", 0, "w"),
        ("random-hard", "random-hard", 2, "w/baselines/random-2"),
    ],
)
def test_image_folder__hard_and_soft_labels_share_one_and_draws_do_not(own, method, draw, folder):
    assert image_folder(Path("w"), own, method, draw) == Path(folder)


def test_image_set__a_result_file_for_each_method_student_and_seed():
    config = build_config(BASE)
    hard = for_method(config, "random-hard")
    paths = {
        ImageSet(settings, Path("w")).result(student, seed)
        for settings in (config, hard)
        for student in ("resnet18", "timm/deit_tiny_patch16_224")
        for seed in (0, 1)
    }
    assert len(paths) == 8
    assert all(path.parent == Path("w/evaluation") for path in paths)
    assert to_dict(hard)["evaluation"]["loss"] == "hard"


@pytest.mark.parametrize(
    ("store", "loss", "stores"), [(True, "kl", True), (False, "kl", False), (True, "hard", False)]
)
def test_image_set__stores_soft_labels_alone_and_only_if_asked(tmp_path, store, loss, stores):
    settings = {"labels": {"store": store, "batch_size": 64}, "evaluation": {"loss": loss}}
    assert ImageSet(build_config(settings), tmp_path).stores_labels == stores
