"""Weights from files: torch's and safetensors', published names, one's own, and what is amiss."""

import re
import shutil
from collections import OrderedDict
from dataclasses import replace

import pytest
import timm
import torch
import torchvision.models
from safetensors.torch import save_file

from gvbsm.backbones import build_backbone, fill, weights_digest
from gvbsm.backbones.library import published_stems
from gvbsm.backbones.weights import find_weights, read_weights
from gvbsm.config import ConfigError
from gvbsm.config.build import as_config
from gvbsm.data.pictures import DataError
from gvbsm.files.artifacts import ArtifactError
from gvbsm.files.tensors import load_tensors, save
from gvbsm.pipeline.preflight import check_feasible
from gvbsm.pipeline.run import Run
from gvbsm.stages.squeeze import squeeze_teacher
from gvbsm.stages.supervised import PictureTraining
from gvbsm.store.teachers import load_teacher, save_teacher
from support.toy import CONVNET, WRN

SHUFFLE, SHUFFLE_FILE = "torchvision/shufflenet_v2_x0_5", "shufflenetv2_x0.5-f707e7126e"


def write_torch(path, content):
    torch.save(content, path)


def with_versions(layers):
    """A state dict with these versions of layers, which torch keeps in an attribute."""
    state = OrderedDict(a=torch.zeros(2))
    state._metadata = layers
    return state


def same(model, state):
    own = model.state_dict()
    return all(torch.equal(own[key], value) for key, value in state.items())


@pytest.fixture(scope="module")
def shuffle():
    torch.manual_seed(3)
    return torchvision.models.shufflenet_v2_x0_5(weights=None).state_dict()


@pytest.mark.parametrize(
    ("name", "stems"),
    [
        (SHUFFLE, [SHUFFLE_FILE]),
        ("torchvision/resnet18", ["resnet18-f37072fd"]),
        ("timm/resnet18", ["resnet18.a1_in1k", "resnet18_a1_0-d63eafa0"]),
        ("timm/resnet18.tv_in1k", ["resnet18.tv_in1k", "resnet18-f37072fd"]),
        (WRN, []),
    ],
)
def test_published_names(name, stems):
    assert published_stems(name) == stems


@pytest.mark.parametrize("name", [SHUFFLE_FILE, "torchvision--shufflenet_v2_x0_5"])
@pytest.mark.parametrize(
    ("suffix", "write"),
    [
        (".pth", write_torch),
        (".pt", lambda path, state: torch.save({"state_dict": state, "epoch": 3}, path)),
        (".safetensors", lambda path, state: save_file(state, path)),
    ],
)
def test_torchvision__from_a_file_of_either_kind(name, suffix, write, shuffle, tmp_path):
    write(tmp_path / f"{name}{suffix}", shuffle)
    model = build_backbone(SHUFFLE, 1000, 64, pretrained=True, weights_dir=tmp_path)
    assert same(model, shuffle)
    assert not any(getattr(module, "inplace", False) for module in model.modules())


def test_published_file_goes_before_one_s_own(shuffle, tmp_path):
    other = {key: value + 1 for key, value in shuffle.items()}
    write_torch(tmp_path / "torchvision--shufflenet_v2_x0_5.pth", other)
    write_torch(tmp_path / f"{SHUFFLE_FILE}.pth", shuffle)
    assert find_weights(SHUFFLE, tmp_path).name == f"{SHUFFLE_FILE}.pth"


def test_timm__old_names_are_brought_up_to_date(tmp_path):
    torch.manual_seed(4)
    found = timm.create_model("resnet10t", num_classes=7).state_dict()
    save_file(found, tmp_path / "timm--resnet10t.safetensors")
    model = build_backbone("timm/resnet10t", 7, 32, pretrained=True, weights_dir=tmp_path)
    assert same(model, found)  # the classifier, of 7 classes, among them
    with pytest.raises(ValueError, match=r"timm/resnet10t for 8 classes in .*do not fit.*fc"):
        build_backbone("timm/resnet10t", 8, 32, pretrained=True, weights_dir=tmp_path)


def test_our_own_networks__a_teacher_s_file_is_one_of_weights(teachers, data, tmp_path):
    save_teacher(tmp_path / f"{WRN}.safetensors", teachers[WRN], WRN, data, {}, {"stage": "x"})
    model = build_backbone(WRN, 4, 8, pretrained=True, weights_dir=tmp_path)
    assert same(model, teachers[WRN].state_dict())


def test_counters_of_batches_may_lack_and_versions_of_layers_come_back():
    """torchvision's oldest files lack the counters; MNASNet loads nothing without its version."""
    model = build_backbone("torchvision/mnasnet0_5", 5, 32)
    old = {k: v + 1 for k, v in model.state_dict().items() if not k.endswith("batches_tracked")}
    fill(model, old, "they")
    assert same(model, old)


def test_densenet_s_old_names_are_read():
    model = build_backbone("torchvision/densenet121", 5, 32)
    old = OrderedDict(
        (re.sub(r"(denselayer\d+\.(?:norm|conv))([12])\.", r"\1.\2.", key), torch.ones_like(value))
        for key, value in model.state_dict().items()
    )
    assert any(".norm.1." in key for key in old)
    fill(model, old, "they")
    assert all(bool((value == 1).all()) for value in model.state_dict().values())


def faulty(state):
    del state["fc.bias"], state["conv5.0.weight"]
    state["fc.weight"] = torch.zeros(10, 1024)
    state["extra"] = torch.zeros(1)
    return state


def test_weights_that_do_not_fit_are_told_in_one_line(shuffle, tmp_path):
    path = tmp_path / f"{SHUFFLE_FILE}.pth"
    write_torch(path, faulty(dict(shuffle)))
    with pytest.raises(ValueError, match="for 1000 classes") as error:
        build_backbone(SHUFFLE, 1000, 64, pretrained=True, weights_dir=tmp_path)
    text = str(error.value)
    assert "\n" not in text
    assert str(path) in text
    assert "2 missing (conv5.0.weight, fc.bias)" in text
    assert "1 unexpected (extra)" in text
    assert "fc.weight (10, 1024), expected (1000, 1024)" in text


@pytest.mark.parametrize(
    ("write", "match"),
    [
        (lambda path: path.write_bytes(b"no weights"), "cannot be read as weights"),
        (lambda path: torch.save({"a": torch.nn.Linear(2, 2)}, path), "more than tensors"),
        (lambda path: torch.save([torch.zeros(2)], path), "holds no state dict"),
        (lambda path: torch.save({"a": 3}, path), "holds no state dict"),
        (lambda path: torch.save({3: torch.zeros(2)}, path), "the name 3 is not text"),
        (lambda path: torch.save({"a": torch.eye(2).to_sparse()}, path), "a as torch.sparse_coo"),
        (lambda path: torch.save({"a": torch.zeros(2, device="meta")}, path), "without values"),
        (lambda path: torch.save(with_versions(3), path), "damaged: _metadata"),
        (lambda path: torch.save(with_versions({"a": 3.5}), path), "damaged: _metadata"),
        (lambda path: torch.save(with_versions({"": {"version": "2"}}), path), "_metadata"),
        (
            lambda path: path.with_suffix(".safetensors").write_bytes(b"x" * 20),
            "cannot be read as safetensors",
        ),
    ],
)
def test_files_that_hold_no_weights(write, match, tmp_path):
    path = tmp_path / f"{CONVNET}.pth"
    write(path)
    path = find_weights(CONVNET, tmp_path)
    with pytest.raises(ValueError, match=match) as error:
        read_weights(path)
    assert "\n" not in str(error.value)
    assert "weights_only" not in str(error.value)
    assert str(path) in str(error.value)


def test_a_missing_file_names_what_was_looked_for(tmp_path):
    with pytest.raises(ValueError, match=rf"{SHUFFLE_FILE} or torchvision--shuffle.*safetensors"):
        find_weights(SHUFFLE, tmp_path)


def test_digest_is_that_of_the_content(tmp_path):
    write_torch(tmp_path / f"{CONVNET}.pth", {"a": torch.zeros(2)})
    first = weights_digest(CONVNET, tmp_path)
    shutil.copytree(tmp_path, tmp_path / "copy")
    assert weights_digest(CONVNET, tmp_path / "copy") == first
    write_torch(tmp_path / f"{CONVNET}.pth", {"a": torch.ones(2)})
    assert weights_digest(CONVNET, tmp_path) != first


# In a run


def pretrained(folder, **squeeze):
    given = {"backbones": [WRN], "pretrained": True, "weights_dir": str(folder), **squeeze}
    return as_config(
        {"squeeze": given, "evaluation": {"students": [CONVNET]}, "baselines": {"methods": []}}
    )


@pytest.fixture
def folder(teachers, data, tmp_path):
    folder = tmp_path / "weights"
    save_teacher(folder / f"{WRN}.safetensors", teachers[WRN], WRN, data, {}, {"stage": "x"})
    return folder


def test_preflight__asks_for_the_file_and_that_it_fits(folder, data):
    config = pretrained(folder)
    check_feasible(config, data)
    more = replace(data, class_names=(*data.class_names, "emu"))
    with pytest.raises(ConfigError, match=rf"of {WRN} have 4 classes, the data set 5; 'emu' is"):
        check_feasible(config, more)
    (folder / f"{WRN}.safetensors").unlink()
    with pytest.raises(ConfigError, match=f"no weights of {WRN}"):
        check_feasible(config, data)


def test_settings__weights_without_pretrained_would_be_read_by_nobody(folder):
    with pytest.raises(ConfigError, match=r"weights_dir.*pretrained"):
        pretrained(folder, pretrained=False)


def test_preflight__asks_for_the_files_of_those_alone_that_come_trained(folder, data):
    both = pretrained(
        folder,
        pretrained=False,
        backbones=[CONVNET, WRN],
        settings_of={WRN: {"pretrained": True}},
    )
    check_feasible(both, data)
    (folder / f"{WRN}.safetensors").unlink()
    with pytest.raises(ConfigError, match=f"no weights of {WRN}"):
        check_feasible(both, data)


def test_squeeze__takes_the_weights_unless_the_classes_are_in_another_order(
    folder, data, runtime, teachers, tmp_path
):
    config, path = pretrained(folder).squeeze, tmp_path / "teacher.safetensors"
    task = PictureTraining("squeeze", WRN, config)
    squeeze_teacher(task, data, runtime, path, {"stage": "squeeze"})
    assert same(load_teacher(path, data, runtime), teachers[WRN].state_dict())
    path.unlink()
    labels = 3 - data.train.labels
    moved = replace(data, train=replace(data.train, labels=labels))
    with pytest.raises(DataError, match="numbered otherwise"):
        squeeze_teacher(task, moved, runtime, path, {"stage": "squeeze"})
    assert not path.exists()


def test_recipe__is_that_of_the_file_s_content_not_of_its_place(folder, data, tmp_path):
    def recipe(place):
        return Run(pretrained(place), tmp_path / "run", quiet=True, data=data).recipes.teacher(WRN)

    first = recipe(folder)
    assert first["squeeze"]["weights"] == weights_digest(WRN, folder)
    assert "weights_dir" not in first["squeeze"]
    moved = shutil.copytree(folder, tmp_path / "moved")
    assert recipe(moved) == first
    tensors, header = load_tensors(folder / f"{WRN}.safetensors", "teacher")
    save(folder / f"{WRN}.safetensors", {k: v + 1 for k, v in tensors.items()}, header)
    assert recipe(folder) != first


def test_teacher_file_of_another_network_is_damage(teachers, data, runtime, tmp_path):
    path = tmp_path / "x.safetensors"
    history = {"epochs": [1], "top1": [50.0], "losses": [1.0]}
    save_teacher(path, teachers[CONVNET], WRN, data, history, {"stage": "x"})
    with pytest.raises(ArtifactError, match=r"x\.safetensors is damaged .*missing"):
        load_teacher(path, data, runtime)
