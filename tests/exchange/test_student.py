"""A trained network as ONNX with its card: the logits of torch, and what the card states."""

import json
import re
import subprocess
import sys
from importlib.util import find_spec

import pytest
import torch

import gvbsm.data.sources.hub_library
import gvbsm.exchange.train
from gvbsm.backbones import build_backbone
from gvbsm.config import ConfigError, LabelsConfig, ViewConfig
from gvbsm.data.pictures import DataError
from gvbsm.exchange.export import export
from gvbsm.exchange.student import load_student, model_card
from gvbsm.exchange.train import train
from gvbsm.files.artifacts import ArtifactError, read_header
from gvbsm.files.plugins import admit
from gvbsm.files.schema import StudentHeader
from gvbsm.files.tensors import load_tensors, save
from support.labeled_sets import write_labeled_set
from support.toy import CONVNET, WRN

NET = """
from gvbsm.backbones.convnet import build_convnet

def net(classes, image_size, channels):
    return build_convnet(4, 1, classes, image_size, channels)
"""
DIFFERENCE = 1e-5  # largest, between the logits of onnxruntime and of torch; they are about 1
needs_onnx = pytest.mark.skipif(
    not all(map(find_spec, ("onnx", "onnxscript", "onnxruntime"))),
    reason="onnx, onnxscript or onnxruntime is not installed",
)


@pytest.fixture
def weights(data, teachers, runtime, tmp_path, monkeypatch):
    """Call it with a network to train it on eight images; returns the file of its weights."""
    views = ViewConfig(crop="pad", padding=1, flip=True, cutmix=1.0)
    workdir = write_labeled_set(
        tmp_path / "w", data, teachers, runtime, LabelsConfig(epochs=4, views=views), batch_size=3
    )
    monkeypatch.setattr(gvbsm.exchange.train, "load_data", lambda *_: data)

    def trained(network, **given):
        out = tmp_path / f"{network}.safetensors"
        settings = {"device": "cpu", "evaluation": {"tests": 1}, "data": {"name": "toy"}, **given}
        train(workdir, network, out, settings, quiet=True)
        return out

    return trained


@needs_onnx
def test_the_folder_of_the_user_s_code_is_not_exported(weights, tmp_path):
    weights(CONVNET)
    code = tmp_path / "secret" / "net.py"
    code.parent.mkdir()
    code.write_text(NET)
    out, settings = tmp_path / "own.safetensors", {"device": "cpu", "evaluation": {"tests": 1}}
    train(tmp_path / "w", f"{code}:net", out, settings, quiet=True)
    folder = export(out, "onnx", tmp_path / "e", quiet=True)
    assert all(b"secret" not in path.read_bytes() for path in folder.iterdir() if path.is_file())
    tensors, header = load_tensors(folder / "model.safetensors", "student")
    assert header["backbone"] == "net.py:net"
    expected, _ = load_tensors(out, "student")
    assert all(torch.equal(tensors[name], tensor) for name, tensor in expected.items())


def test_a_network_whose_code_has_changed_since_is_refused(weights, tmp_path):
    """Its weights would fit, but it would compute something else than what was trained."""
    weights(CONVNET)
    code, out = tmp_path / "net.py", tmp_path / "own.safetensors"
    code.write_text(NET)
    settings = {"device": "cpu", "evaluation": {"tests": 1}}
    train(tmp_path / "w", f"{code}:net", out, settings, quiet=True)
    load_student(out)
    code.write_text(NET + "# another version")
    admit([f"{code}:net"])
    with pytest.raises(ConfigError, match="made by another version"):
        load_student(out)


def plain_logits(path, pixels):
    """Logits by the file of the weights alone: normalization and network by hand."""
    tensors, header = load_tensors(path, "student")
    model = build_backbone(header["backbone"], 4, 8)
    model.load_state_dict(tensors)
    mean, std = (torch.tensor(header[name])[:, None, None] for name in ("mean", "std"))
    with torch.no_grad():
        return model.eval()((pixels / 255 - mean) / std)


@needs_onnx
@pytest.mark.parametrize("network", [CONVNET, WRN])  # without BatchNorm and with
def test_onnxruntime_gives_the_logits_of_torch_for_any_batch(network, weights, data, tmp_path):
    import onnxruntime

    path = weights(network)
    out = export(path, "onnx", tmp_path / "model", quiet=True)
    session = onnxruntime.InferenceSession(out / "model.onnx")
    for pixels in (data.test.images[:1], data.test.images):
        (logits,) = session.run(["logits"], {"pixels": pixels.numpy()})
        expected = plain_logits(path, pixels)
        assert logits.shape == (len(pixels), 4)
        assert float((torch.from_numpy(logits) - expected).abs().max()) < DIFFERENCE
    guesses = torch.from_numpy(logits).argmax(1)
    top1 = 100 * float((guesses == data.test.labels).float().mean())
    assert read_header(path)["test"] == {"dataset": "toy", "pictures": 16, "top1": top1}
    metadata = session.get_modelmeta().custom_metadata_map
    assert json.loads(metadata["class_names"]) == list(data.class_names)
    assert metadata["backbone"] == network
    assert load_tensors(out / "model.safetensors", "student")[1] == read_header(path)


@needs_onnx
def test_the_card_states_the_training_and_its_code_runs(weights, data, tmp_path):
    path = weights(CONVNET)
    out = export(path, "onnx", tmp_path / "model", quiet=True)
    card = (out / "README.md").read_text()
    top1 = read_header(path)["test"]["top1"]
    for words in (
        "8 images of toy, made by the method `gvbsm`, with soft labels of 4 epochs",
        "0 ant, 1 bee, 2 cat, 3 dog",
        f"Top-1 {top1:.1f} % on 16 real pictures of toy",
        "(n = 1)",
    ):
        assert words in " ".join(card.split()), words
    codes = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    assert len(codes) == 2
    torch.save(data.test.images, out / "pixels.pt")
    program = "\n".join(
        [
            "import torch",
            "pixels = torch.load('pixels.pt').numpy()",
            codes[0],
            "pixels, by_onnx = torch.from_numpy(pixels), logits",
            codes[1],
            f"assert (logits - torch.from_numpy(by_onnx)).abs().max() < {DIFFERENCE}",
        ]
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        check=False,
        cwd=out,
        capture_output=True,
        text=True,
        timeout=250,
    )
    assert done.returncode == 0, done.stderr
    names = [data.class_names[int(n)] for n in plain_logits(path, data.test.images).argmax(1)]
    assert done.stdout.strip() == str(names)


def test_the_method_of_a_stranger_is_text_in_the_card():
    source = {"dataset": "toy", "method": "x` <b>", "images": 2, "label_epochs": None}
    entries = {"class_names": ["a", "b"], "image_size": 8, "channels": 1, "mean": [0], "std": [1]}
    entries |= {"recipe": {}, "gvbsm": "1", "backbone": CONVNET, "trained_on": source, "test": None}
    assert r"\<b\>" in model_card(StudentHeader.model_validate(entries))


@needs_onnx
def test_without_test_pictures_and_soft_labels_the_card_says_so(weights, tmp_path):
    path = weights(CONVNET, data={}, evaluation={"loss": "hard"}, labels={"epochs": 1})
    assert read_header(path)["test"] is None
    card = (export(path, "onnx", tmp_path / "model") / "README.md").read_text()
    assert "with hard labels" in card
    assert "Not measured" in card


def test_what_holds_no_network_is_refused(weights, tmp_path):
    path = weights(CONVNET)
    with pytest.raises(ArtifactError, match="name the weights that gvbsm train has written"):
        load_student(tmp_path / "none.safetensors")
    images = tmp_path / "w" / "synthesis" / "images.safetensors"
    with pytest.raises(ArtifactError, match="holds 'images', expected 'student'"):
        load_student(images)
    tensors, header = load_tensors(path, "student")
    other = tmp_path / "other.safetensors"
    for entry, message in (
        ({"backbone": "wrn10_1"}, "do not fit"),
        ({"mean": [0.5]}, "mean and std should each be 3 numbers"),
        ({"trained_on": None}, "trained_on"),
    ):
        save(other, tensors, {**header, **entry})
        with pytest.raises(ArtifactError, match=message):
            load_student(other)
    code = tmp_path / "code.py"
    code.write_text("raise AssertionError('it was run')")
    save(other, tensors, {**header, "backbone": f"{code}:Net"})
    with pytest.raises(ConfigError, match="Net"):
        load_student(other)


def test_a_missing_library_is_named_before_any_work(tmp_path, monkeypatch):
    monkeypatch.setattr(
        gvbsm.data.sources.hub_library, "find_spec", lambda name: None if name == "onnx" else True
    )
    with pytest.raises(DataError, match=r"^this needs onnx: pip install onnx$"):
        export(tmp_path / "none.safetensors", "onnx", tmp_path / "model")
    assert not (tmp_path / "model").exists()
