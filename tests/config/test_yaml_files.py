"""Settings as a YAML file: it is read back to the same settings, and shows what was changed."""

import pytest

from gvbsm.config import Config
from gvbsm.config.build import as_config, settings_lines
from gvbsm.config.preset_files import preset_names

ODD = {  # values that YAML could read as another type
    "ipc": 3,
    "data": {"root": "null", "title": "a: b # c", "name": "folder"},
    "squeeze": {"backbones": ["resnet18", "true"], "settings_of": {"resnet18": {"epochs": 3}}},
    "synthesis": {"beta_dr_of": {10: 1e-9}, "weight_flatness": 1e-12, "crop_scale": [1e-3, 1]},
    "labels": {"storage": {"top_k": 3}, "logit_normalization_of": {"resnet18": False}},
    "baselines": {"overrides": {"sre2l": {"synthesis": {"alpha": 0.5}}}},
}


def written(config, only_changed, folder):
    path = folder / "my.yaml"
    path.write_text("\n".join(settings_lines(config, only_changed)) or "{}", encoding="utf-8")
    return str(path)


@pytest.mark.parametrize("only_changed", [True, False])
@pytest.mark.parametrize("name", [*preset_names(), "tiny-imagenet+sre2l", "digits+random-hard"])
def test_a_preset_is_read_back_as_it_was_written(name, only_changed, tmp_path):
    config = as_config(name)
    assert as_config(written(config, only_changed, tmp_path)) == config


@pytest.mark.parametrize("only_changed", [True, False])
def test_any_value_is_read_back_as_it_was_written(only_changed, tmp_path):
    config = as_config(ODD)
    assert as_config(written(config, only_changed, tmp_path)) == config


def test_a_changed_value_has_its_default_beside_it():
    config = as_config({"ipc": 3, "synthesis": {"optimizer": {"lr": 0.5}}})
    assert list(settings_lines(config, only_changed=True)) == [
        "ipc: 3  # default: 10",
        "synthesis:",
        "  optimizer:",
        "    lr: 0.5  # default: 0.05",
    ]
    lines = list(settings_lines(config))
    assert [line for line in lines if "#" in line] == [
        "ipc: 3  # default: 10",
        "    lr: 0.5  # default: 0.05",
    ]
    assert "seed: 0" in lines
    assert list(settings_lines(Config(), only_changed=True)) == []
