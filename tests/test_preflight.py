"""What must fail before any long work."""

from dataclasses import replace

import pytest

from gvbsm.artifacts import ArtifactError
from gvbsm.cli import main
from gvbsm.config import ConfigError
from gvbsm.pictures import DataError
from gvbsm.preflight import check_feasible, check_owner
from gvbsm.settings import build_config
from test_sources import draw_tree


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


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("torchvision/resnet18", "have 1000 classes, the data set 4; .*--squeeze.pretrained false"),
        ("timm/efficientnet_b0", "have 1000 classes, the data set 4"),
        ("wrn10_1", "wrn10_1 has no pretrained weights"),
    ],
)
def test_check_feasible__pretrained_teachers_that_do_not_fit(data, name, message):
    squeeze = {"backbones": [name], "pretrained": True}
    with pytest.raises(ConfigError, match=message):
        check_feasible(config(squeeze=squeeze), data)
    check_feasible(config(squeeze={**squeeze, "pretrained": False}), data)


def test_check_feasible__pretrained_teachers_that_fit(data):
    """Students have no such weights and need none."""
    squeeze = {"backbones": ["torchvision/resnet18", "timm/resnet18"], "pretrained": True}
    names = tuple(map(str, range(1000)))
    settings = config(squeeze=squeeze, baselines={"methods": ["sre2l"]})
    check_feasible(settings, replace(data, class_names=names))


def test_pretrained_teachers_of_other_classes_end_a_run_before_any_work(
    tmp_path, capsys, monkeypatch
):
    """In one line, and without a work directory."""

    def download(*_arguments, **_options):
        raise AssertionError("nothing is to be downloaded")

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", download)
    root, workdir = draw_tree(tmp_path / "tree"), tmp_path / "w"
    argv = ["run", "imagenet-1k", "--data-root", str(root), "--workdir", str(workdir)]
    assert main([*argv, "--ipc", "1", "--device", "cpu", "--data.workers", "0"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1, err
    assert err.startswith("gvbsm: the pretrained weights of torchvision/resnet18 have 1000 classes")
    assert "the data set 2" in err
    assert not workdir.exists()


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
