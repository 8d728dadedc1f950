"""Settings as a YAML file: it is read back to the same settings, and shows what was changed."""

import pytest

from gvbsm.config import Config, ConfigError
from gvbsm.config.build import as_config, settings_lines
from gvbsm.config.preset_files import preset_names
from gvbsm.config.yaml_files import read_yaml

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


@pytest.mark.parametrize("text", ["two\nlines", "end\n", "\n", "a\x85b", "a\u2028b", "\r", ""])
def test_a_text_of_several_lines_is_one_line_of_the_file(text, tmp_path):
    settings = {"squeeze": {"backbones": [text, "b"]}, "evaluation": {"lr_of": {text: 0.1}}}
    config = as_config({**settings, "data": {"title": text, "root": text}})
    lines = list(settings_lines(config, only_changed=True))
    assert len(lines) == 7
    assert all(line.splitlines() == [line] for line in lines)
    assert as_config(written(config, True, tmp_path)) == config


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


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ipc: 1\nlabels: {epochs: 2}\nipc: 2\n", "line 3 names 'ipc' again"),
        ("labels:\n  epochs: 2\nseed: 1\nlabels: {}\n", "line 4 names 'labels' again"),
        ("at_ipc:\n  1: {seed: 1}\n  1: {seed: 2}\n", "line 3 names '1' again"),
        ("# ipc: 1\n", "must hold a mapping of settings, found nothing"),
        ("- ipc\n", "must hold a mapping of settings, found list"),
    ],
)
def test_what_yaml_would_drop_or_leave_empty_is_refused(text, message, tmp_path):
    path = tmp_path / "my.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=message):
        read_yaml(path)


def test_mappings_side_by_side_may_have_the_same_keys(tmp_path):
    path = tmp_path / "my.yaml"
    path.write_text("a: &a {x: 1}\nb: {x: 2}\nc: {<<: *a, x: 3}\n1: {}\n'1': {}\n")
    assert read_yaml(path) == {"a": {"x": 1}, "b": {"x": 2}, "c": {"x": 3}, 1: {}, "1": {}}
