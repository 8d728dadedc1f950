"""What single settings may be: each fault is told alone, and no other value is refused."""

import math
import re
from dataclasses import replace

import pytest

from gvbsm.config import Config, ConfigError, CorruptionsConfig, ViewConfig
from gvbsm.config.build import build_config, validate
from gvbsm.config.checks import faults
from support.settings import changed

POSITIVE = [
    "ipc",
    "squeeze.epochs",
    "squeeze.batch_size",
    "squeeze.tests",
    "squeeze.optimizer.lr",
    "statistics.n_p",
    "statistics.batch_size",
    "statistics.passes",
    "synthesis.iterations",
    "synthesis.batch_size",
    "synthesis.tau",
    "synthesis.optimizer.lr",
    "labels.epochs",
    "labels.batch_size",
    "evaluation.seeds",
    "evaluation.batch_size",
    "evaluation.tests",
    "evaluation.temperature",
    "evaluation.optimizer.lr",
    "baselines.draws",
]
VIEW_FAULTS = [
    *(("scale", limits) for limits in ((0.0, 1.0), (0.9, 0.5), (0.5, 1.1))),
    *(("ratio", limits) for limits in ((0.0, 1.0), (2.0, 1.0))),
    ("padding", -1),
    ("roll", -1),
]
FAULTS = [
    *((key, value) for key in POSITIVE for value in (0, -1)),
    *((f"{stage}.optimizer.lr", float("nan")) for stage in ("squeeze", "synthesis", "evaluation")),
    ("synthesis.alpha", 1.0),
    ("synthesis.alpha", -0.1),
    ("synthesis.beta_dr", 1.1),
    ("synthesis.beta_dr", -0.1),
    ("synthesis.beta_dr_of", {1: 0.4, 10: 1.5}),
    ("synthesis.beta_dr_of", {0: 0.4}),
    ("data.val_fraction", 0.0),
    ("data.val_fraction", 1.0),
    ("coreset.epochs", 0),
    *(
        (f"{stage}.views.{key}", value)
        for stage in ("squeeze", "synthesis", "labels")
        for key, value in VIEW_FAULTS
    ),
    ("labels.views.cutmix", -1.0),
    ("labels.views.mixup", -1.0),
    ("labels.temperature", 0.0),
    ("labels.views.shuffle", -1),
    ("labels.views.tiles", 0),
    ("squeeze.views.tiles", 2),
    ("labels.views", ViewConfig(crop="pad", tiles=2)),
    ("synthesis.views.tiles", 2),
    ("synthesis.views.mixup", 1.0),
    ("squeeze.views.shuffle", 2),
    ("squeeze.views.cutmix", 1.0),
    ("synthesis.views.cutmix", 1.0),
    # would else be met in the middle of the work, with a traceback of torch's
    ("threads", 0),
    ("synthesis.groups", 0),
    ("synthesis.groups", -1),
    ("data.workers", -1),
    ("labels.min_steps", -1),
    ("labels.storage.top_k", 0),
    *(
        (f"{stage}.optimizer.{key}", value)
        for stage in ("squeeze", "synthesis", "evaluation")
        for key, value in (("betas", (1.0, 0.9)), ("weight_decay", -1.0))
    ),
    ("squeeze.optimizer.momentum", -0.5),
    ("synthesis.optimizer.zeta", 0.9),
    ("evaluation.optimizer.zeta", float("inf")),
    ("evaluation.optimizer.warmup", 1.0),
    ("evaluation.ema", 1.0),
    ("evaluation.ema", -0.1),
    ("evaluation.lr_of", {"resnet18": 0.0}),
    ("evaluation.corruptions", CorruptionsConfig(("fog",), pictures=0)),
    *(
        ("evaluation.corruptions", CorruptionsConfig(("fog",), severities))
        for severities in ((), (0,), (1, 6), (2, 2))
    ),
    ("baselines.overrides", {"sre2l": {"evaluation": {"corruptions": {"kinds": ["fog"]}}}}),
    *(
        (key, (*names, names[0]))
        for key, names in (
            ("squeeze.backbones", ("resnet18", "convnet128")),
            ("synthesis.backbones", ("resnet18", "convnet128")),
            ("labels.backbones", ("resnet18",)),
            ("evaluation.students", ("resnet18",)),
            ("continual.students", ("resnet18",)),
            ("baselines.methods", ("random-soft", "teacher")),
        )
    ),
    ("ipc_of", {"cat": 0}),
    ("ipc_of", {"cat": -3}),
    ("labels.weights", {"resnet18": -1.0}),
    ("labels.weights", {"resnet18": math.nan}),
    ("labels.weights", {"resnet18": math.inf}),
]


@pytest.mark.parametrize(("key", "value"), FAULTS)
def test_every_fault_is_told_alone(key, value):
    faulty = changed(Config(), key, value)
    (fault,) = faults(faulty)
    assert key in fault
    with pytest.raises(ConfigError, match=f"^{re.escape(fault)}$"):
        validate(faulty)


@pytest.mark.parametrize(
    ("key", "value", "found"),
    [
        ("severities", (5, 1), "[5, 1]"),
        ("pictures", 500, "500"),
        ("folder", "CIFAR-10-C", "CIFAR-10-C"),
    ],
)
def test_a_setting_of_corruptions_needs_a_kind_that_reads_it(key, value, found):
    section = replace(CorruptionsConfig(), **{key: value})
    line = (
        f"evaluation.corruptions.{key} is {found}, but evaluation.corruptions.kinds is empty, so "
        f"that nothing reads it: name kinds, such as all, or leave {key} out"
    )
    assert [*faults(changed(Config(), "evaluation.corruptions", section))] == [line]
    section = replace(section, kinds=("fog",))
    assert [*faults(changed(Config(), "evaluation.corruptions", section))] == []


def test_the_defaults_are_within_them():
    assert [*faults(Config())] == []


@pytest.mark.parametrize(
    ("section", "name", "value"),
    [
        ("synthesis", "weight_conv", -1.0),
        ("synthesis", "weight_densification", math.nan),
        ("synthesis", "first_layer_multiplier", -2.0),
        ("synthesis", "tau", math.inf),
        ("squeeze", "optimizer", {"lr": math.inf}),
        ("evaluation", "gamma", -0.5),
        ("labels", "full_batch_up_to", -1),
    ],
)
def test_numbers_that_make_no_sense_are_faults(section, name, value):
    with pytest.raises(ConfigError, match=rf"{section}\.{name}.* must (not be neg|be (pos|fin))"):
        build_config({section: {name: value}})


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"crop_scale": [0.5, 0.2]}, r"crop_scale must satisfy .* got \[0\.5, 0\.2\]"),
        ({"crop_scale": [0.0, 1.0]}, "crop_scale must satisfy"),
        ({"stages": 0}, r"stages must be from 1 to synthesis\.iterations \(4000\), got 0"),
        ({"stages": 5, "iterations": 4}, "got 5"),
        ({"residual": 0.5, "init": "real"}, "stages is 1; take more"),
        ({"residual": 0.5, "stages": 2}, "init is noise; set"),
        ({"residual": 1.0, "stages": 2, "init": "real"}, r"residual must be in \[0, 1\), got 1"),
        ({"weight_class": 1.5}, r"weight_class must be in \[0, 1\], got 1\.5"),
        ({"weight_flatness": -1.0}, "weight_flatness must not be negative, got -1"),
        ({"flatness_decay": 1.0}, "flatness_decay must be in"),
        ({"flatness_tau": 0.0}, "flatness_tau must be positive, got 0"),
        ({"crop_tiles": 2}, "init is noise; set synthesis.init=crops"),
        ({"rounds": 2}, "init is noise; set synthesis.init=real, or leave rounds out"),
        ({"stage_sizes": [6, 8]}, r"each of synthesis\.stages \(1\), got \[6, 8\]"),
        ({"stage_sizes": [8], "stages": 2}, r"stages \(2\), got \[8\]"),
        ({"stage_sizes": [0, 8], "stages": 2}, r"1 pixel or more .* got \[0, 8\]"),
        ({"difficulty_groups": True}, "loop is reorder; set synthesis.loop=original, or leave"),
        (
            {"weight_absorption": 1.0},
            "init is noise; set synthesis.init=crops, or leave weight_abs",
        ),
        ({"weight_absorption": -1.0, "init": "real"}, "weight_absorption must not be negative"),
        ({"residual_source": "nearest"}, "residual is 0; set it, or leave residual_source out"),
        (
            {"weight_class": 0.5, "weight_batchnorm": 0.0, "weight_conv": 0.0},
            "weight_class says what .*weight_conv are 0; set one of them, or leave weight_class",
        ),
        (
            {
                "difficulty_groups": True,
                "loop": "original",
                "weight_batchnorm": 0.0,
                "weight_conv": 0.0,
            },
            "difficulty_groups says what layers are matched with, but",
        ),
        ({"rounds": 0}, "rounds must be from 1 to"),
        ({"rounds": 11, "init": "real"}, r"ipc \(10\), .* \(4000\), got 11"),
        ({"rounds": 4, "iterations": 3, "init": "real"}, r"iterations \(3\), got 4"),
    ],
)
def test_faults_of_later_papers_settings_are_one_line(settings, line):
    with pytest.raises(ConfigError, match=line) as error:
        build_config({"synthesis": settings})
    assert "\n" not in str(error.value)
