"""Settings: defaults, merging, presets' mechanics, every fault, round trips and help texts."""

import dataclasses
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from gvbsm.config import BaselinesConfig, Config, ConfigError, SqueezeConfig
from gvbsm.config.build import (
    as_config,
    build_config,
    for_method,
    selection_of,
    squeeze_of,
    to_dict,
    validate,
)
from gvbsm.config.fields import descriptions, settings_in
from gvbsm.config.keys import fields_by_name, flat_keys, merge
from gvbsm.config.preset_files import overlay, preset_names, read_preset
from support.settings import changed

SELECTIONS = ("random", "herding", "k-center", "balanced", "forgetting", "curriculum")
OVERLAYS = ("sre2l", *(f"{how}-{labels}" for how in SELECTIONS for labels in ("hard", "soft")))


def nested(dotted, value):
    """{"a.b": 1} as {"a": {"b": 1}}."""
    for key in reversed(dotted.split(".")):
        value = {key: value}
    return value


def write(tmp_path, text, name="mine.yaml"):
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return str(path)


# Defaults and round trips


def test_defaults_are_valid_and_what_an_empty_mapping_builds():
    assert validate(Config()) == build_config({}) == Config()


def test_defaults_are_the_rows_of_cifar10_after_the_teachers():
    config = build_config(read_preset("cifar10"))
    for section in ("statistics", "synthesis", "labels", "evaluation", "baselines"):
        assert getattr(Config(), section) == getattr(config, section), section


def test_settings_are_frozen():
    for settings_ in (Config(), Config().synthesis, Config().labels.views):
        with pytest.raises(dataclasses.FrozenInstanceError):
            settings_.seed = 5


@pytest.mark.parametrize("name", [name for name in preset_names() if name not in OVERLAYS])
def test_round_trip_of_every_preset_through_json_and_yaml(name, tmp_path):
    config = build_config(read_preset(name))
    plain = to_dict(config)
    assert build_config(json.loads(json.dumps(plain))) == config
    assert build_config(read_preset(write(tmp_path, yaml.safe_dump(plain)))) == config


@settings(max_examples=12, derandomize=True)
@given(
    st.fixed_dictionaries(
        {},
        optional={
            "ipc": st.integers(1, 1000),
            "ipc_of": st.dictionaries(
                st.sampled_from(["cat", "0", "yes", "a b"]), st.integers(1, 9)
            ),
            "seed": st.integers(-(2**63), 2**63 - 1),
            "threads": st.none() | st.integers(1, 64),
            "synthesis.groups": st.none() | st.integers(1, 64),
            "synthesis.compile": st.sampled_from(["auto", "always", "never"]),
            "data.root": st.none() | st.sampled_from(["5", "a b", "~/x", "1e3", "x.npz"]),
            "data.in_memory": st.none() | st.booleans(),
            "data.workers": st.none() | st.integers(0, 64),
            "labels.min_steps": st.integers(0, 10**6),
            "synthesis.alpha": st.floats(0, 1, exclude_max=True),
            "synthesis.views.scale": st.floats(0.01, 1).map(lambda low: (low, 1.0)),
            "labels.backbones": st.none() | st.just(("resnet18", "wrn16_2")),
            "evaluation.lr_of": st.dictionaries(
                st.sampled_from(["resnet18", "timm/a.b", "x"]), st.floats(1e-9, 9)
            ),
            "labels.weights": st.dictionaries(
                st.sampled_from(["resnet18", "wrn16_2"]), st.floats(0.1, 9)
            ),
            "squeeze.settings_of": st.dictionaries(
                st.sampled_from(["resnet18", "timm/a.b"]),
                st.fixed_dictionaries(
                    {},
                    optional={
                        "epochs": st.integers(1, 99),
                        "optimizer": st.just({"lr": 0.5}),
                        "views": st.just({"scale": (0.5, 1.0)}),
                    },
                ),
            ),
            "baselines.overrides": st.dictionaries(
                st.sampled_from(["sre2l", "random-soft"]),
                st.just({"synthesis": {"weight_batchnorm": 1.0}, "labels": {"epochs": 7}}),
            ),
            "evaluation.optimizer.lr": st.floats(1e-12, 1e3),
        },
    )
)
def test_round_trip_of_any_settings(values):
    config = Config()
    for key, value in values.items():
        config = changed(config, key, value)
    assert build_config(to_dict(config)) == config


def test_names_of_classes_may_be_numbers():
    assert build_config({"ipc_of": {0: 2, "7": 5}}).ipc_of == {"0": 2, "7": 5}


def test_to_dict_holds_json_types_alone():
    plain = to_dict(Config())
    assert json.loads(json.dumps(plain)) == plain
    assert plain["synthesis"]["optimizer"]["betas"] == [0.5, 0.9]
    assert set(flat_keys(plain)) <= set(fields_by_name())


# Baselines


def test_weights_of_a_baseline_alone_name_the_teachers_that_they_belong_to():
    """`label_batch` takes one weight for each name, and would find none."""
    weights = {"random-soft": {"labels": {"weights": {"resnet18": 2.0}}}}
    config = build_config({"baselines": {"overrides": weights}})
    assert for_method(config, "random-soft").labels.backbones == config.squeeze.backbones
    assert config.labels.backbones is None
    assert for_method(config, "herding-soft").labels.backbones is None


def test_overrides_of_a_baseline_are_not_checked_with_the_settings_of_another(tmp_path):
    """SRe2L has labels of the first teacher alone, which another baseline does not ask about."""
    weights = {"random-soft": {"labels": {"weights": {"wrn16_2": 2.0}}}}
    config = build_config({"baselines": {"overrides": weights}})
    assert for_method(config, "sre2l").labels.backbones == ("resnet18",)
    assert for_method(config, "random-soft").labels.weights == {"wrn16_2": 2.0}
    mine = write(tmp_path, f"baselines: {{overrides: {json.dumps(weights)}}}")
    assert build_config(read_preset(f"cifar10+{mine}+sre2l")).labels.backbones == ("resnet18",)


def test_overrides_of_a_baseline_reach_it_alone_however_it_is_run(tmp_path):
    overrides = "{sre2l: {synthesis: {weight_batchnorm: 1.0}, labels: {epochs: 7}}}"
    mine = write(tmp_path, f"baselines: {{overrides: {overrides}}}")
    config = build_config(read_preset(f"cifar10+{mine}"))
    assert config.synthesis.weight_batchnorm == 0.01
    for rival in (for_method(config, "sre2l"), build_config(read_preset(f"cifar10+{mine}+sre2l"))):
        assert (rival.synthesis.weight_batchnorm, rival.labels.epochs) == (1.0, 7)
        assert (rival.synthesis.alpha, rival.baselines.overrides) == (0.0, {})
    assert for_method(config, "random-soft").labels.epochs == 1000
    alone = build_config(read_preset(f"cifar10+{mine}+random-soft"))
    assert (alone.labels.epochs, alone.baselines.overrides) == (1000, {})
    both = f"baselines: {{overrides: {overrides[:-1]}, random-soft: {{}}}}}}"
    both = write(tmp_path, both, "both.yaml")
    step = overlay(read_preset(f"cifar10+{both}"), "sre2l") | {"method": "gvbsm"}  # of a study
    assert build_config(step).baselines.overrides == {"random-soft": {}}
    later = write(tmp_path, "synthesis: {weight_batchnorm: 0.5}", "later.yaml")
    config = build_config(read_preset(f"tiny-imagenet+sre2l+{later}"))
    assert config.synthesis.weight_batchnorm == 0.5  # the later wins


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"sre2": {}}, "overrides.sre2: there is no such baseline; did you mean sre2l"),
        ({"full": {}}, "overrides.full: there is no such baseline"),
        ({"sre2l": {"squeeze": {"epochs": 3}}}, "overrides.sre2l: squeeze cannot differ"),
        (
            {"sre2l": {"labels": {"epoch": 3}}},
            "overrides.sre2l: there is no setting 'labels.epoch'",
        ),
        ({"gvbsm-hard": {"synthesis": {"init": "real"}}}, "gvbsm-hard: synthesis cannot differ"),
        ({"sre2l": {"labels": {"epochs": 0}}}, "overrides.sre2l: labels.epochs must be"),
        (
            {"sre2l": {"synthesis": {"difficulty_groups": True}}},
            "overrides.sre2l: synthesis.difficulty_groups needs statistics that are recorded only "
            "if the run's own images have it: set --synthesis.difficulty_groups as well",
        ),
        (
            {"sre2l": {"synthesis": {"weight_class": 0.5}}},
            "overrides.sre2l: synthesis.weight_class needs statistics that are recorded",
        ),
    ],
)
def test_a_fault_in_the_overrides_names_the_baseline(overrides, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        build_config({"baselines": {"overrides": overrides}})


def test_a_baseline_may_not_match_the_statistics_of_teachers_of_its_own():
    """They are recorded of the teachers of the run's own images alone."""

    def build(own, **synthesis):
        overrides = {"sre2l": {"synthesis": {"weight_conv": 0.01, **synthesis}}}
        chosen = {"backbones": own}
        return build_config({"synthesis": chosen, "baselines": {"overrides": overrides}})

    message = (
        "overrides.sre2l: synthesis.backbones has resnet18, but statistics are recorded of the "
        "teachers of the run's own images alone, ['wrn16_2']"
    )
    with pytest.raises(ConfigError, match=re.escape(message)):  # resnet18 is the first teacher
        build(["wrn16_2"])
    build(["wrn16_2"], weight_conv=0.0)
    build(["wrn16_2"], backbones=["wrn16_2"])
    build(None)


def test_a_baseline_may_have_the_statistics_of_the_runs_own_images():
    overrides = {"sre2l": {"synthesis": {"weight_class": 0.5, "difficulty_groups": True}}}
    own = {"weight_class": 0.1, "difficulty_groups": True, "loop": "original"}
    config = build_config({"synthesis": own, "baselines": {"overrides": overrides}})
    assert for_method(config, "sre2l").synthesis.weight_class == 0.5


# Presets and files


def test_joined_presets_the_later_wins(tmp_path):
    mine = write(tmp_path, "ipc: 3\nsynthesis: {alpha: 0.25}\n")
    config = build_config(read_preset(f"cifar10+{mine}"))
    assert (config.ipc, config.synthesis.alpha, config.data.name) == (3, 0.25, "cifar10")
    assert build_config(read_preset(f"{mine}+cifar10")).ipc == 10
    assert read_preset("cifar10") == read_preset("cifar10+cifar10")


NEAREST = {"cifar1": "cifar10", "imagenet": "imagenet-1k", "digit": "digits", "sr2el": "sre2l"}


@pytest.mark.parametrize(("name", "nearest"), NEAREST.items())
def test_an_unknown_preset_names_the_nearest(name, nearest):
    for joined in (name, f"digits+{name}"):
        with pytest.raises(ConfigError, match=f"no preset '{name}'.*did you mean.*{nearest}"):
            read_preset(joined)


def test_a_preset_like_nothing_lists_all():
    with pytest.raises(ConfigError, match=", ".join(preset_names())):
        read_preset("qqq")


@pytest.mark.parametrize("name", ["", "+", "digits+", "digits++sre2l"])
def test_a_malformed_preset_name_is_a_fault_of_the_settings(name):
    with pytest.raises(ConfigError, match="no preset") as caught:
        read_preset(name)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "must hold a mapping.*found nothing"),
        ("- 1\n", "must hold a mapping.*list"),
        ("just words\n", "must hold a mapping.*str"),
        ("a: [\n", "not valid YAML.*line 2"),
        ("squeeze:\n\tepochs: 5\n", "not valid YAML.*line 2"),
        (b"\xff\xfe", "not valid YAML"),
        ("squeeze: {epohcs: 5}\n", "no setting 'squeeze.epohcs'; did you mean squeeze.epochs"),
        ("alpha: 0.5\n", "no setting 'alpha'; did you mean synthesis.alpha"),
        ("1: 2\n", "no setting '1'"),
        ("bogus_a: 1\nbogus_b: 1\n", r"bogus_a[\s\S]*bogus_b"),
    ],
)
def test_faults_of_a_yaml_file(tmp_path, text, words):
    path = write(tmp_path, text)
    with pytest.raises(ConfigError, match=words) as caught:
        read_preset(path)
    lines = str(caught.value).splitlines()
    assert len(lines) == max(1, str(text).count("bogus"))  # a line for each fault
    assert all(path in line for line in lines)


def test_a_missing_file_is_named(tmp_path):
    for name in ("none.yaml", "none.yml"):
        with pytest.raises(ConfigError, match=f"no settings file .*{name}"):
            read_preset(str(tmp_path / name))


def test_a_number_that_yaml_takes_for_text():
    assert build_config(yaml.safe_load("evaluation: {optimizer: {lr: 1e-3}}")) == Config()


# Wrong types, names and values


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("ipc", "ten"),
        ("ipc", 1.5),
        ("ipc", True),
        ("ipc", None),
        ("seed", "x"),
        ("method", "mtt"),
        ("synthesis.groups", 1.5),
        ("synthesis.groups", "many"),
        ("synthesis.compile", "sometimes"),
        ("synthesis.compile", None),
        ("synthesis.compile", True),
        ("squeeze", 5),
        ("squeeze", None),
        ("squeeze.backbones", "resnet18"),
        ("squeeze.backbones", [1]),
        ("squeeze.optimizer", "sgd"),
        ("squeeze.optimizer.name", "sdg"),
        ("squeeze.pretrained", "maybe"),
        ("synthesis.views.crop", "random"),
        ("synthesis.views.scale", [0.5]),
        ("data.root", 3),
        ("evaluation.lr_of", {"resnet18": "fast"}),
        ("evaluation.lr_of", 0.1),
        ("ipc_of", {"cat": "many"}),
        ("ipc_of", {"cat": 1.5}),
        ("ipc_of", 3),
        ("ipc_of", {True: 2}),  # yes of YAML
        ("ipc_of", {"0": 2, 0: 3}),
        ("labels.weights", {"resnet18": "much"}),
        ("labels.weights", ["resnet18"]),
        ("labels.batchnorm", "both"),
        ("squeeze.settings_of", {"wrn16_2": 3}),
        ("squeeze.settings_of", ["wrn16_2"]),
        ("baselines.methods", ["herding"]),
    ],
)
def test_a_wrong_type_is_told_with_its_name_and_value(key, value):
    with pytest.raises(ConfigError, match=re.escape(key)) as caught:
        build_config(nested(key, value))
    assert "\n" not in str(caught.value)


def test_an_unknown_field_of_a_mapping_names_the_nearest():
    with pytest.raises(ConfigError, match=r"alhpa.*did you mean synthesis\.alpha"):
        build_config({"synthesis": {"alhpa": 0.5}})


FAULTS = [
    ("data.test_crop", 0.0),
    ("data.test_crop", 1.1),
    ("seed", 2**63),
    ("data.split_seed", 2**64),
    ("data.split_seed", -1),
    ("evaluation.seed", -(2**63) - 1),
    ("squeeze.backbones", ()),
    ("squeeze.backbones", ("resnet18", "resnet18")),
    ("synthesis.backbones", ()),
    ("synthesis.backbones", ("resnet50",)),
    ("labels.backbones", ()),
    ("labels.backbones", ("resnet18", "resnet50")),
    ("labels.storage.pruning", 0.5),
    ("labels.storage.pruning", float("nan")),
    ("coreset.backbone", "resnet50"),
    ("evaluation.students", ()),
    ("labels.weights", {"resnet50": 1.0}),
    ("labels.weights", dict.fromkeys(Config().squeeze.backbones, 0.0)),
]


@pytest.mark.parametrize(("key", "value"), FAULTS)
def test_every_fault_is_told_alone(key, value):
    with pytest.raises(ConfigError, match=re.escape(key)) as caught:
        validate(changed(Config(), key, value))
    assert "\n" not in str(caught.value)


def test_labels_by_the_batch_need_the_batches_of_training():
    config = changed(Config(), "labels.batchnorm", "batch")
    assert validate(config) == config
    for name in ("labels.batch_size", "evaluation.batch_size"):
        for made in (config, changed(config, "labels.store", value=False)):
            with pytest.raises(
                ConfigError, match=r"labels\.batch_size \(\d+\) must equal"
            ) as caught:
                validate(changed(made, name, 32))
            assert "\n" not in str(caught.value)
    with pytest.raises(ConfigError, match=r"labels\.storage\.pruning draws .*labels\.batchnorm"):
        validate(changed(config, "labels.storage.pruning", 2.0))
    validate(changed(config, "labels.storage.bits", 8))


@pytest.mark.parametrize("key", ["labels.backbones", "synthesis.backbones", "coreset.backbone"])
def test_a_teacher_that_is_none_is_told_with_the_setting_that_mends_it(key):
    """It may be the preset's, which the user has never typed."""
    value = "convnet128" if key == "coreset.backbone" else ("convnet128",)
    one = changed(Config(), "squeeze.backbones", ("resnet18",))
    names = rf"not in squeeze\.backbones \['resnet18'\]; name one of these in {re.escape(key)}$"
    with pytest.raises(ConfigError, match=names):
        validate(changed(one, key, value))


def test_weights_are_of_those_that_label():
    one = changed(Config(), "labels.backbones", ("wrn16_2",))
    validate(changed(one, "labels.weights", {"wrn16_2": 0.5}))
    with pytest.raises(ConfigError, match=r"labels\.weights names 'resnet18'.*\['wrn16_2'\]"):
        validate(changed(one, "labels.weights", {"resnet18": 0.5}))
    weighed = changed(Config(), "labels.weights", {"wrn16_2": 0.5})
    assert for_method(weighed, "random-soft").labels.weights == {"wrn16_2": 0.5}
    assert for_method(weighed, "sre2l").labels.weights == {}  # of its one teacher


def test_a_teacher_s_own_settings_are_laid_over_those_of_all():
    own = {"epochs": 24, "optimizer": {"lr": 0.3}, "views": {"crop": "resized", "scale": [0.5, 1]}}
    common = changed(Config(), "squeeze.optimizer.name", "adamw").squeeze
    others = {"optimizer": {"name": "adamw"}}
    table = {"wrn16_2": own, "resnet50": {"epochs": 2}}
    squeeze = build_config({"squeeze": {**others, "settings_of": table}}).squeeze
    assert squeeze_of(squeeze, "resnet18") == common
    found = squeeze_of(squeeze, "wrn16_2")
    assert (found.epochs, found.batch_size) == (24, common.batch_size)
    assert found.optimizer == dataclasses.replace(common.optimizer, lr=0.3)
    assert found.views == dataclasses.replace(common.views, crop="resized", scale=(0.5, 1.0))
    assert found.settings_of == {}


def test_settings_of_single_teachers_and_baselines_get_the_types_of_their_fields():
    own, rival = {"views": {"scale": [0.5, 1]}}, {"labels": {"views": {"ratio": [1, 2]}}}
    squeeze = dataclasses.replace(SqueezeConfig(), settings_of={"wrn16_2": own})
    baselines = dataclasses.replace(BaselinesConfig(), overrides={"random-soft": rival})
    config = as_config(Config(squeeze=squeeze, baselines=baselines))
    assert config.squeeze.settings_of == {"wrn16_2": {"views": {"scale": (0.5, 1.0)}}}
    assert for_method(config, "random-soft").labels.views.ratio == (1.0, 2.0)
    assert build_config(to_dict(config)) == as_config(config) == config
    for table in ({"wrn16_2": {"epohcs": 3}}, {"wrn16_2": {"epochs": "many"}}):
        faulty = Config(squeeze=dataclasses.replace(squeeze, settings_of=table))
        with pytest.raises(ConfigError, match=r"^squeeze\.settings_of\.wrn16_2: "):
            as_config(faulty)


def test_weights_of_a_folder_are_for_the_teachers_that_come_trained():
    given = {"weights_dir": "W", "settings_of": {"resnet18": {"pretrained": True}}}
    squeeze = build_config({"squeeze": given}).squeeze
    found = {name: squeeze_of(squeeze, name) for name in ("resnet18", "wrn16_2")}
    assert {name: (one.pretrained, one.weights_dir) for name, one in found.items()} == {
        "resnet18": (True, "W"),
        "wrn16_2": (False, None),
    }
    given["settings_of"]["resnet18"]["pretrained"] = False
    with pytest.raises(ConfigError, match=r"weights_dir.*pretrained"):
        build_config({"squeeze": given})
    with pytest.raises(ConfigError, match=r"weights_classes is only read with .*pretrained"):
        build_config({"squeeze": {"weights_classes": "C"}})


@pytest.mark.parametrize(
    ("own", "words"),
    [
        ({"epohcs": 3}, r"there is no setting 'squeeze\.epohcs'; did you mean squeeze\.epochs"),
        ({"views": {"corp": "pad"}}, r"there is no setting 'squeeze\.views\.corp'"),
        ({"epochs": None}, r"squeeze\.epochs must not be null"),
        ({"optimizer": 0.1}, r"squeeze\.optimizer is a section of settings, found 0\.1"),
        ({"epochs": "many"}, r".*squeeze\.epochs.*many"),
        ({"epochs": 0}, r"squeeze\.epochs must be positive, got 0"),
        ({"views": {"cutmix": 1.0}}, r"squeeze\.views\.cutmix must be 0"),
        ({"micro_batch": -1}, r"squeeze\.micro_batch must be positive"),
        *(
            ({name: value}, rf"{name} cannot differ between teachers")
            for name, value in (
                ("backbones", ["wrn16_2"]),
                ("parallel", "pictures"),
                ("seed", 1),
                ("settings_of", {}),
                ("tests", 1),
                ("weights_classes", "C"),
                ("weights_dir", "W"),
            )
        ),
    ],
)
def test_a_fault_of_a_teacher_s_own_settings_is_told_with_its_name(own, words):
    with pytest.raises(ConfigError, match=rf"^squeeze\.settings_of\.wrn16_2: {words}") as caught:
        build_config({"squeeze": {"settings_of": {"wrn16_2": own}}})
    assert "\n" not in str(caught.value)


def test_a_fault_of_all_teachers_is_told_once():
    with pytest.raises(ConfigError) as caught:
        build_config({"squeeze": {"batch_size": 0, "settings_of": {"wrn16_2": {"epochs": 3}}}})
    assert str(caught.value) == "squeeze.batch_size must be positive, got 0"


def test_muon_moves_networks_not_pixels():
    muon = {"optimizer": {"name": "muon"}}
    build_config({"squeeze": muon, "evaluation": muon})
    with pytest.raises(ConfigError, match=r"synthesis\.optimizer\.name must not be muon"):
        build_config({"synthesis": muon})


def test_faults_of_two_fields():
    online = changed(Config(), "labels.store", value=False)
    assert validate(online) == online
    with pytest.raises(ConfigError, match=r"labels.batch_size \(64\).*evaluation.+ \(32\)"):
        validate(changed(online, "evaluation.batch_size", 32))
    with pytest.raises(ConfigError, match=r"optimizer\.zeta stretches.* not a constant"):
        build_config({"evaluation": {"optimizer": {"schedule": "constant", "zeta": 2.0}}})
    with pytest.raises(ConfigError, match=r"labels\.storage says .* labels\.store is false"):
        validate(changed(online, "labels.storage.bits", 8))
    with pytest.raises(ConfigError, match=r"method=sre2l.*baselines.methods"):
        build_config({"method": "sre2l"})


@pytest.mark.parametrize("where", ["method", "baselines"])
def test_forgetting_needs_two_epochs(where):
    methods = ["forgetting-soft"] if where == "baselines" else []
    settings = {
        "method": "gvbsm" if methods else "forgetting-soft",
        "baselines": {"methods": methods},
        "continual": {"methods": []},
        "squeeze": {"epochs": 1},
    }
    with pytest.raises(ConfigError, match=r"coreset\.epochs must be at least 2.*got 1"):
        build_config(settings)
    assert build_config({**settings, "coreset": {"epochs": 2}}).coreset.epochs == 2
    assert build_config({**settings, "squeeze": {"epochs": 2}}).coreset.epochs is None
    one = {"epochs": 1, "settings_of": {"resnet18": {"epochs": 2}}}  # the teacher that forgets
    assert build_config({**settings, "squeeze": one}).coreset.epochs is None
    other = {"epochs": 1, "settings_of": {"wrn16_2": {"epochs": 2}}}
    with pytest.raises(ConfigError, match="got 1"):
        build_config({**settings, "squeeze": other})


def test_selection_of_a_method():
    found = {method: selection_of(method) for method in ("gvbsm", "full", *OVERLAYS)}
    assert {found.pop(method) for method in ("gvbsm", "full", "sre2l")} == {None}
    assert tuple(dict.fromkeys(found.values())) == SELECTIONS


EDGES = [
    ("synthesis.alpha", 0.0),
    ("synthesis.beta_dr", 1.0),
    ("synthesis.views.scale", (1.0, 1.0)),
    ("synthesis.weight_conv", 0.0),
    ("labels.views.cutmix", 0.0),
    ("baselines.methods", ()),
    ("labels.full_batch_up_to", 0),
    ("evaluation.gamma", 0.0),
    ("synthesis.groups", 1),
    ("data.workers", 0),
    ("data.workers", None),
]


@pytest.mark.parametrize(("key", "value"), EDGES)
def test_what_is_at_the_edge_is_valid(key, value):
    config = changed(Config(), key, value)
    assert validate(config) == config


def test_all_faults_are_told_at_once():
    with pytest.raises(ConfigError) as caught:
        build_config({"ipc": 0, "synthesis": {"alpha": 2.0}, "labels": {"backbones": ["x"]}})
    lines = str(caught.value).splitlines()
    assert len(lines) == 3
    for line, name in zip(lines, ("ipc", "synthesis.alpha", "labels.backbones"), strict=True):
        assert line.startswith(name)


# Methods in place of G-VBSM


@pytest.mark.parametrize("method", OVERLAYS)
@pytest.mark.parametrize("base", ["digits", "cifar10", "tiny-imagenet"])
def test_an_overlay_changes_what_it_says_and_nothing_else(base, method):
    config = build_config(merge(read_preset(base), {"baselines": {"overrides": {}}}))
    before, after = to_dict(config), to_dict(for_method(config, method))
    overlay = read_preset(method)
    differs = {key for key in fields_by_name() if value_at(before, key) != value_at(after, key)}
    leaves = {key for key in differs if not any(other.startswith(f"{key}.") for other in differs)}
    assert leaves <= set(flat_keys(overlay))
    first = before["squeeze"]["backbones"][:1]
    for key in flat_keys(overlay):
        wanted = value_at(overlay, key)
        names_teacher = wanted is None and key.endswith(".backbones")
        assert value_at(after, key) == (first if names_teacher else wanted), key
    assert after["method"] == method


def value_at(tree, dotted):
    for key in dotted.split("."):
        tree = tree[key]
    return tree


def test_sre2l_takes_the_first_backbone():
    config = build_config({"squeeze": {"backbones": ["wrn16_2", "resnet18"]}})
    baseline = for_method(config, "sre2l")
    assert baseline.squeeze.backbones == ("wrn16_2", "resnet18")
    assert baseline.synthesis.backbones == baseline.labels.backbones == ("wrn16_2",)
    chosen = {"synthesis": {"backbones": ["resnet18"]}, "baselines": {"methods": []}}
    chosen = merge(to_dict(config), {"method": "sre2l", **chosen})
    assert build_config(chosen).synthesis.backbones == ("resnet18",)
    assert for_method(for_method(config, "sre2l"), "sre2l") == baseline


# Help


def test_every_setting_has_the_line_of_its_docstring_as_its_help():
    described = list(descriptions(Config()))
    assert [item.name for item in described] == [name for name, _, _ in settings_in(Config())]
    assert len(described) > 70
    for item in described:
        owner = Config
        *sections, field = item.name.split(".")
        for key in sections:
            owner = type(getattr(owner(), key))
        assert len(item.text) > 10, item.name
        assert f"{field}: {item.text}" in " ".join(owner.__doc__.split()), item.name


def test_yaml_that_is_nested_too_deep_is_told_in_one_line(tmp_path):
    (tmp_path / "deep.yaml").write_text("ipc: " + "[" * 5000)
    with pytest.raises(ConfigError, match=r"deep\.yaml is not valid YAML"):
        as_config(str(tmp_path / "deep.yaml"))


@pytest.mark.parametrize("key", ["ipc", "squeeze: {backbones", "synthesis: {optimizer: {betas"])
def test_yaml_whose_aliases_multiply_is_refused_before_it_is_built(key, tmp_path):
    """9^9 values from 300 bytes, below keys that exist."""
    bomb = "&a0 [q, q, q, q, q, q, q, q, q]"
    for number in range(1, 9):
        bomb = f"&a{number} [{bomb}{f', *a{number - 1}' * 8}]"
    file = write(tmp_path, f"{key}: {bomb}{'}' * key.count('{')}")
    with pytest.raises(ConfigError, match=r"mine\.yaml .* more than 100000 values"):
        as_config(str(file))


@pytest.mark.parametrize("text", ["ipc: &a [*a]", "squeeze: &a {backbones: *a}"])
def test_yaml_that_holds_itself_is_refused(text, tmp_path):
    with pytest.raises(ConfigError, match="is not valid YAML"):
        as_config(str(write(tmp_path, text)))


def test_a_file_that_is_too_long_for_settings_is_not_read(tmp_path):
    file = write(tmp_path, "ipc: 1\n" + "#" * 2**20)
    with pytest.raises(ConfigError, match="more than 1048576 bytes"):
        as_config(str(file))


def test_aliases_that_repeat_a_little_are_read(tmp_path):
    file = write(tmp_path, "squeeze: {optimizer: &o {lr: 0.5}}\nevaluation: {optimizer: *o}")
    config = as_config(str(file))
    assert config.squeeze.optimizer.lr == config.evaluation.optimizer.lr == 0.5


def test_values_of_python_are_taken_as_yaml_gives_them():
    values = {
        "ipc": np.int64(3),
        "seed": torch.tensor(5),
        "data": {"root": Path("a") / "b"},
        "squeeze": {"backbones": ("resnet18", np.str_("resnet50"))},
        "synthesis": {"alpha": np.float32(0.5), "optimizer": {"betas": np.array([0.5, 0.75])}},
        "labels": {"store": np.bool_(True), "backbones": ["resnet18"]},
    }
    plain = {
        "ipc": 3,
        "seed": 5,
        "data": {"root": str(Path("a") / "b")},
        "squeeze": {"backbones": ["resnet18", "resnet50"]},
        "synthesis": {"alpha": 0.5, "optimizer": {"betas": [0.5, 0.75]}},
        "labels": {"store": True, "backbones": ["resnet18"]},
    }
    assert as_config(values) == build_config(plain)


def test_a_dotted_name_of_an_entry_leaves_the_others_as_they_are():
    """Over a preset, over other settings, and beside another name of the same table."""
    before = as_config("cifar100-convnet-best").squeeze.settings_of
    first, second = (
        "squeeze.settings_of.airbench.epochs",
        "squeeze.settings_of.convnet128.batch_size",
    )
    expected = {
        "airbench": {**before["airbench"], "epochs": 9},
        "convnet128": {**before["convnet128"], "batch_size": 32},
    }
    both = as_config("cifar100-convnet-best", {first: 9, second: 32})
    assert both.squeeze.settings_of == expected
    config = as_config(as_config("cifar100-convnet-best", {first: 9}), {second: 32})
    assert config.squeeze.settings_of == expected
    assert type(config.squeeze.settings_of["airbench"]) is dict


def test_dotted_names_alone_make_a_table():
    """Without a preset or other settings there is no table below that they are laid over."""
    config = as_config(
        {
            "squeeze.settings_of.wrn16_2.epochs": 9,
            "evaluation.lr_of.convnet128": 0.1,
            "baselines.overrides.random-soft.labels.epochs": 3,
            "baselines.overrides.random-soft.evaluation.lr_of.convnet128": 0.2,
        }
    )
    assert config.squeeze.settings_of == {"wrn16_2": {"epochs": 9}}
    assert config.evaluation.lr_of == {"convnet128": 0.1}
    override = {"labels": {"epochs": 3}, "evaluation": {"lr_of": {"convnet128": 0.2}}}
    assert config.baselines.overrides == {"random-soft": override}
