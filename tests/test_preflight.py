"""What must fail before any long work."""

from dataclasses import replace

import pytest

from gvbsm.artifacts import ArtifactError
from gvbsm.config import ConfigError
from gvbsm.pictures import DataError
from gvbsm.preflight import check_feasible, check_owner
from gvbsm.settings import build_config


def config(**settings):
    base = {"squeeze": {"backbones": ["wrn10_1"]}, "evaluation": {"students": ["convnet8_d1"]}}
    return build_config(base | settings)


def test_check_feasible__a_sound_run_passes(data):
    check_feasible(config(ipc=10), data)


@pytest.mark.parametrize("section", ["squeeze", "evaluation"])
def test_check_feasible__an_unknown_backbone_names_the_nearest(data, section):
    key = {"squeeze": "backbones", "evaluation": "students"}[section]
    with pytest.raises(ConfigError, match="resnet18"):
        check_feasible(config(**{section: {key: ["resnt18"]}}), data)


def test_check_feasible__a_backbone_too_deep_for_the_pictures(data):
    with pytest.raises(ConfigError, match=r"8"):
        check_feasible(config(squeeze={"backbones": ["convnet8_d5"]}), data)


def test_check_feasible__ipc_larger_than_a_class(data):
    with pytest.raises(DataError, match="ipc is 11"):
        check_feasible(config(ipc=11), data)
    check_feasible(config(ipc=11, baselines={"methods": ["sre2l", "full"]}), data)
    with pytest.raises(DataError, match="10"):
        check_feasible(config(ipc=11, baselines={"methods": []}, synthesis={"init": "real"}), data)


def test_check_owner__a_work_directory_keeps_to_its_data(data, tmp_path):
    check_owner(tmp_path, data)
    check_owner(tmp_path, data)
    with pytest.raises(ArtifactError, match="other data"):
        check_owner(tmp_path, replace(data, fingerprint="another"))


def test_check_owner__a_file_is_no_work_directory(data, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ArtifactError, match="is a file"):
        check_owner(tmp_path / "file", data)
