"""Teachers on disk: what is loaded answers as what was saved, and only for its own classes."""

import math
from dataclasses import replace

import pytest
import torch

from gvbsm.backbones import build_backbone, code_of
from gvbsm.files.artifacts import ArtifactError, read_header
from gvbsm.files.network_names import file_name
from gvbsm.files.plugins import admit
from gvbsm.files.tensors import load_tensors, save
from gvbsm.store.teachers import buildable, load_teacher, read_teacher, save_teacher
from support.toy import CLASSES, CONVNET, WRN

RECIPE = {"stage": "squeeze", "seed": 7}
HISTORY = {"epochs": [1, 2], "top1": [25.0, 50.0], "losses": [1.5, 0.5]}


def test_file_name__has_no_slash():
    assert file_name("wrn10_1") == "wrn10_1.safetensors"
    assert file_name("timm/deit_tiny") == "timm--deit_tiny.safetensors"


def test_a_file_that_names_code_does_not_run_it(data, runtime, teachers, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "theirs.py").write_text("open('ran', 'w')\n")
    path = tmp_path / "teacher.safetensors"
    save_teacher(path, teachers[CONVNET], "theirs.py:Net", data, HISTORY, RECIPE)
    with pytest.raises(ArtifactError, match=r"the code of theirs\.py:Net is not run, since a file"):
        read_teacher(path, runtime)
    assert buildable([path]) == []
    assert not (tmp_path / "ran").exists()


def test_code_that_has_changed_is_noticed(data, runtime, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    file, path = tmp_path / "mine.py", tmp_path / "teacher.safetensors"
    code = "import torch\ndef net(classes):\n    return torch.nn.Linear(8, classes)\n"
    file.write_text(code)
    admit(["mine.py:net"])
    model = build_backbone("mine.py:net", 4, 8)
    recipe = {**RECIPE, **code_of("mine.py:net")}
    save_teacher(path, model, "mine.py:net", data, HISTORY, recipe)
    assert torch.equal(read_teacher(path, runtime)[0].weight, model.weight)
    file.write_text(f"{code}# changed\n")
    admit(["mine.py:net"])
    with pytest.raises(ArtifactError, match=r"made by another version of mine\.py:net: train it"):
        read_teacher(path, runtime)


@pytest.mark.parametrize("name", [CONVNET, WRN])
def test_round_trip(name, teachers, data, runtime, tmp_path):
    path, model = tmp_path / "teacher.safetensors", teachers[name]
    save_teacher(path, model, name, data, HISTORY, RECIPE)
    torch.manual_seed(3)
    before = torch.get_rng_state()
    loaded = load_teacher(path, data, runtime)
    assert torch.equal(torch.get_rng_state(), before)
    pictures = data.normalization.normalize(data.test.images)
    assert torch.equal(loaded(pictures), model(pictures))
    assert not any(module.training for module in loaded.modules())
    assert not any(parameter.requires_grad for parameter in loaded.parameters())
    bare, header = read_teacher(path, runtime)
    assert torch.equal(bare(pictures), model(pictures))
    assert header == read_header(path)
    assert (header["class_names"], header["image_size"], header["channels"]) == ([*CLASSES], 8, 3)
    assert (header["backbone"], header["history"], header["recipe"]) == (name, HISTORY, RECIPE)


@pytest.mark.parametrize(
    ("classes", "words"),
    [
        (("ant", "cat", "bee", "dog"), ["index 1", "bee", "cat"]),
        (("ant", "bee", "cat", "elk"), ["index 3", "dog", "elk"]),
        (("ant", "bee", "cat"), ["index 3", "4 against 3", "dog"]),
        ((*CLASSES, "elk"), ["index 4", "4 against 5", "elk"]),
    ],
)
def test_other_classes_are_refused(teachers, data, runtime, tmp_path, classes, words):
    path = tmp_path / "teacher.safetensors"
    save_teacher(path, teachers[CONVNET], CONVNET, data, HISTORY, RECIPE)
    with pytest.raises(ArtifactError) as caught:
        load_teacher(path, replace(data, class_names=classes), runtime)
    message = str(caught.value)
    assert "\n" not in message
    assert str(path) in message
    for word in words:
        assert word in message


def test_other_files_are_refused(data, runtime, tmp_path):
    with pytest.raises(ArtifactError, match="there is no"):
        load_teacher(tmp_path / "absent.safetensors", data, runtime)
    (tmp_path / "broken.safetensors").write_bytes(b"\x08\x00\x00\x00\x00\x00\x00\x00not json")
    with pytest.raises(ArtifactError, match="damaged"):
        load_teacher(tmp_path / "broken.safetensors", data, runtime)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_weights_that_are_not_finite_are_refused_by_name(teachers, data, runtime, tmp_path, value):
    path = tmp_path / "teacher.safetensors"
    name = next(name for name, _ in teachers[WRN].named_buffers() if name.endswith("running_var"))
    teachers[WRN].get_buffer(name)[0] = value
    save_teacher(path, teachers[WRN], WRN, data, HISTORY, RECIPE)
    with pytest.raises(ArtifactError, match=rf"{name} holds a NaN or an infinity"):
        load_teacher(path, data, runtime)


@pytest.mark.parametrize("kind", [torch.int32, torch.uint8, torch.bool, torch.complex64])
def test_weights_that_were_made_whole_numbers_are_refused(kind, teachers, data, runtime, tmp_path):
    path = tmp_path / "teacher.safetensors"
    save_teacher(path, teachers[CONVNET], CONVNET, data, HISTORY, RECIPE)
    tensors, header = load_tensors(path, "teacher")
    name = next(key for key in tensors if tensors[key].ndim > 1)
    save(path, {**tensors, name: tensors[name].to(kind)}, header)
    with pytest.raises(ArtifactError, match=rf"{name} {kind}, expected torch.float32") as caught:
        read_teacher(path, runtime)
    assert str(path) in str(caught.value)


def test_counters_of_batches_that_were_made_fractions_are_refused(data, runtime, tmp_path):
    path = tmp_path / "teacher.safetensors"
    save_teacher(path, build_backbone(WRN, len(CLASSES), 8), WRN, data, HISTORY, RECIPE)
    tensors, header = load_tensors(path, "teacher")
    name = next(key for key in tensors if key.endswith("num_batches_tracked"))
    save(path, {**tensors, name: tensors[name].float()}, header)
    with pytest.raises(ArtifactError, match=rf"{name} torch.float32, expected torch.int64"):
        read_teacher(path, runtime)
