"""Exports: what others read is what was distilled; nothing is lost by writing one."""

import json
import re
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision.datasets import ImageFolder

from gvbsm.config import ConfigError, LabelStorageConfig
from gvbsm.config.build import build_config, to_dict
from gvbsm.exchange import export as exports
from gvbsm.exchange import hub
from gvbsm.exchange.card import dataset_card
from gvbsm.exchange.export import class_folders, describe_set, export, push
from gvbsm.exchange.load import load
from gvbsm.files.artifacts import ArtifactError, read_header, read_json, write_json
from gvbsm.files.manifest import NAME
from gvbsm.files.tensors import load_tensors, save
from gvbsm.pipeline.results import spread
from gvbsm.store.distilled import load_distilled
from gvbsm.store.training_settings import settle
from support.distilled_files import write_images, write_labels


@pytest.fixture
def workdir(tmp_path):
    """A work directory with 4 images of 2 x 2 pixels and two classes, and labels of 5 epochs."""
    write_images(tmp_path / "w")
    write_labels(tmp_path / "w" / "labels")
    return tmp_path / "w"


def ended(workdir, data="cifar10", **settings):
    """Let the work directory's run have ended."""
    config = to_dict(
        build_config({"ipc": 2, "data": {"name": data, "root": "/secret"}, **settings})
    )
    row = {"student": "convnet8_d1", "ipc": 2, "top1": spread([50.0, 60.0]), "seconds": 1.0}
    row["top1_best"] = row["top1"]
    rows = [{"method": method, **row} for method in ("gvbsm", "random-soft")]
    content = {"rows": rows, "config": config, "versions": {"torch": "2"}, "pictures": {"train": 9}}
    content |= {"origin": {"preset": None, "changed": []}}
    write_json(workdir / "results.json", content)
    return config


def test_results_without_settings_are_exported(workdir, tmp_path):
    ended(workdir)
    content = read_json(workdir / "results.json")
    del content["config"]
    write_json(workdir / "results.json", content)
    out = export(workdir, "folder", tmp_path / "e", quiet=True)
    assert read_json(out / "gvbsm.json")["results"] == content["rows"]


def test_a_folder_is_read_by_torchvision(workdir, tmp_path):
    out = export(workdir, "folder", tmp_path / "e", quiet=True)
    found, first = ImageFolder(out), load_distilled(workdir)
    assert tuple(found.classes) == first.class_names
    assert [label for _, label in found.samples] == first.labels.tolist()
    for (picture, _), image in zip(found, first.images, strict=True):
        assert np.array_equal(np.asarray(picture), image.permute(1, 2, 0).numpy())
    facts = json.loads((out / "gvbsm.json").read_text())
    assert (facts["class_names"], facts["mean"]) == (
        list(first.class_names),
        list(first.normalization.mean),
    )
    assert facts["recipe"] == first.header["recipe"]


@pytest.mark.parametrize(
    ("data", "title"),
    [
        ({"name": "folder", "root": "/data/my birds"}, "my birds"),
        ({"name": "folder", "root": "/data/x", "title": "Birds of *Peru*"}, r"Birds of \*Peru\*"),
        ({"name": "cifar10", "root": "/data/x"}, "cifar10"),
    ],
)
def test_a_set_is_titled_by_its_user(data, title, workdir, tmp_path):
    ended(workdir, data=data["name"])
    content = read_json(workdir / "results.json")
    content["config"]["data"] |= data
    write_json(workdir / "results.json", content)
    out = export(workdir, "folder", tmp_path / "e", quiet=True)
    assert f"# {title}, distilled: 2 images per class" in (out / "README.md").read_text()
    facts = json.loads((out / "gvbsm.json").read_text())
    assert facts["config"]["data"]["root"] is None
    again = export(out, "safetensors", tmp_path / "e.safetensors", quiet=True)
    assert f"# {title}, distilled" in read_header(again)["README"]
    assert repr(load(again, cache=tmp_path)).startswith(f"DistilledDataset({facts['title']}: ")


def test_the_hub_has_the_picture_of_its_card(workdir, tmp_path):
    pytest.importorskip("datasets")
    out = export(workdir, "hub", tmp_path / "e", quiet=True)
    with Image.open(out / "images.png") as picture:
        assert picture.size == (66, 66)
    assert "](images.png)" in (out / "README.md").read_text()


def test_class_folders_do_not_part_images_from_their_soft_labels(workdir, tmp_path):
    path = workdir / "synthesis" / "images.safetensors"
    tensors, header = load_tensors(path, "images")
    save(path, {**tensors, "labels": torch.tensor([0, 1, 0, 1])}, header)
    with pytest.raises(ConfigError, match="not class by class"):
        export(workdir, "folder", tmp_path / "e", quiet=True)
    export(workdir, "folder", tmp_path / "e", soft_labels=False, quiet=True)
    assert load(tmp_path / "e").soft_labels is None


def test_a_class_without_images_keeps_its_number(tmp_path, caplog):
    arrays = {
        "train_images": np.full((4, 8, 8, 3), 200, np.uint8),
        "train_labels": np.array([0, 0, 2, 2]),
        "class_names": np.array(["ant", "bee", "cat"]),
    }
    np.savez(tmp_path / "set.npz", **arrays)
    out = export(tmp_path / "set.npz", "folder", tmp_path / "e", quiet=True)
    assert "allow_empty=True alone: bee" in caplog.text
    read = ImageFolder(out, allow_empty=True)
    assert (read.classes, read.targets) == (["ant", "bee", "cat"], [0, 0, 2, 2])
    with pytest.raises(FileNotFoundError, match="bee"):  # not cats as class 1
        ImageFolder(out)
    assert load(out).labels.tolist() == [0, 0, 2, 2]
    shown = re.findall('<img src="([^"]+)"', (out / "README.md").read_text())
    assert shown == ["ant/00000.png", "cat/00000.png"]
    assert all((out / name).is_file() for name in shown)


@settings(max_examples=50)
@given(st.lists(st.text("aAb./\\ _-0\0é", max_size=4), min_size=2, max_size=12, unique=True))
def test_class_folders_sort_as_the_classes_do(names):
    folders = class_folders(names)
    assert sorted(folders) == folders
    assert len({folder.casefold() for folder in folders}) == len(names)
    for folder in folders:
        assert folder not in ("", ".", "..")
        assert folder[0] != "."  # hidden ones are passed over
        assert not set(folder) & set('/\\:*?"<>|\0')


@pytest.mark.parametrize(
    ("names", "folders"),
    [
        (["ant", "bee"], ["ant", "bee"]),
        (["bee", "ant"], ["0_bee", "1_ant"]),
        (["Ant", "ant"], ["0_Ant", "1_ant"]),
        (["ant", "nul"], ["0_ant", "1_nul"]),
        (["a/b", "c"], ["0_a_b", "1_c"]),
        (["字" * 86, "b"], ["0_" + "字" * 33, "1_b"]),  # 258 bytes
        ([str(n) for n in range(11)], [f"{n:02d}_{n}" for n in range(11)]),
    ],
)
def test_class_folders_examples(names, folders):
    assert class_folders(names) == folders


OWN = "/secret/nets/net.py:Net"


@pytest.mark.parametrize("form", ["folder", "safetensors"])
def test_the_folder_of_the_user_s_code_stays_at_home(form, workdir, tmp_path):
    write_labels(workdir / "labels", recipe={"labels": {"weights": {OWN: 2.0}}})
    ended(workdir, squeeze={"backbones": [OWN]}, evaluation={"students": [OWN], "lr_of": {OWN: 7}})
    content = read_json(workdir / "results.json")
    content["rows"][0]["student"] = OWN
    write_json(workdir / "results.json", content)
    out = export(workdir, form, tmp_path / "e.safetensors", quiet=True)
    for path in [path for path in (out, *out.rglob("*")) if path.is_file()]:
        assert b"secret" not in path.read_bytes(), path.name
    again = load(out)
    facts = again.header
    assert facts["config"]["squeeze"]["backbones"] == ["net.py:Net"]
    assert facts["results"][0]["student"] == "net.py:Net"
    assert "They name code that is not part of this set: net.py:Net." in dataset_card(facts)
    logits = [item.soft_labels.read(1)["logits"] for item in (again, load(workdir))]
    assert torch.equal(*logits)
    assert settle({}, again, "/elsewhere/net.py:Net").evaluation.optimizer.lr == 7


def test_own_networks_that_an_export_cannot_tell_apart_are_told(workdir, tmp_path, caplog):
    ended(workdir, evaluation={"students": [OWN, "/secret/other/net.py:Net"]})
    export(workdir, "folder", tmp_path / "e", quiet=True)
    assert "2 different networks of your own are net.py:Net here" in caplog.text


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_a_readme_tells_which_soft_labels_there_are_and_reads_them(workdir, tmp_path):
    pytest.importorskip("datasets")
    write_labels(workdir / "labels", kept=(2, 4), storage=LabelStorageConfig(pruning=2.5, bits=8))
    out = export(workdir, "hub", tmp_path / "e", quiet=True)
    text = (out / "README.md").read_text()
    assert "of every view in 2 of 5 epochs, 8 bits, " in text
    (epoch,) = re.findall(r"soft_labels\.read\(epoch=(\d+)\)", text)
    assert load(out).soft_labels.read(int(epoch))["logits"].shape == (4, 2)
    scored = describe_set(load(workdir), workdir, "dd-ranking")  # has no place for them
    assert "No soft labels are stored with it." in dataset_card(scored)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_a_hub_folder_is_read_by_datasets(workdir, tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets")
    ended(workdir)
    out = export(workdir, "hub", tmp_path / "e", quiet=True)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    found, first = datasets.load_dataset(str(out), split="train"), load_distilled(workdir)
    assert found.features["label"].names == list(first.class_names)
    assert found["label"] == first.labels.tolist()
    for row, image in zip(found, first.images, strict=True):
        assert np.array_equal(np.asarray(row["image"]), image.permute(1, 2, 0).numpy())
    labels = sorted(path.name for path in (out / "soft_labels").iterdir())
    assert labels == sorted(path.name for path in (workdir / "labels").iterdir())
    for name in labels:
        assert (out / "soft_labels" / name).read_bytes() == (workdir / "labels" / name).read_bytes()
    card = (out / "README.md").read_text(encoding="utf-8")
    assert "| random-soft | convnet8_d1 | 2 | 55.0 ± 7.1 | 2 |" in card
    assert "/secret" not in card + (out / "gvbsm.json").read_text()


def test_one_file_holds_all(workdir, tmp_path):
    config = ended(workdir)
    path = export(workdir, "safetensors", tmp_path / "e.safetensors", quiet=True)
    tensors, header = load_tensors(path, "distilled")
    first = load_distilled(workdir)
    assert torch.equal(tensors["images"], first.images)
    assert tensors["soft_labels/logits"].shape == (5 * 4, 2)
    assert header["soft_labels"]["fields"] == [list(part) for part in first.soft_labels.fields]
    facts = header["facts"]
    assert facts["settings"]["evaluation"] == config["evaluation"]
    assert facts["config"]["data"] == {**config["data"], "root": None}
    assert facts["config"]["baselines"]["sets"] == {}
    assert facts["images"] == 4


def test_no_path_of_this_machine_is_exported(workdir, tmp_path):
    weights = {"pretrained": True, "weights_dir": "/secret/weights"}
    corruptions = {"kinds": ["fog"], "folder": "/secret/C"}
    ended(
        workdir,
        squeeze={**weights, "weights_classes": "/secret/names"},
        evaluation={"corruptions": corruptions},
    )
    out = export(workdir, "folder", tmp_path / "e", quiet=True)
    for name in ("gvbsm.json", "README.md"):
        assert "/secret" not in (out / name).read_text(), name
    facts = json.loads((out / "gvbsm.json").read_text())
    kept = {"kinds": ["fog"], "folder": None}
    assert kept.items() <= facts["config"]["evaluation"]["corruptions"].items()


def test_an_export_of_an_export_tells_the_same(workdir, tmp_path):
    ended(workdir)
    first = export(workdir, "safetensors", tmp_path / "a.safetensors", quiet=True)
    out = export(first, "folder", tmp_path / "b", quiet=True)
    description = load_tensors(first, "distilled")[1]["facts"]
    facts = json.loads((out / "gvbsm.json").read_text())
    for name in ("results", "config", "versions", "settings", "recipe", "teachers", "gvbsm"):
        assert facts[name] == description[name], name


# What is there already


@pytest.mark.parametrize("name", ["squeeze/x.safetensors", "results.json", "points/a.json"])
def test_no_run_is_replaced_by_an_export(name, workdir):
    (workdir / NAME).touch()  # as a run does
    path = workdir / name
    path.parent.mkdir(exist_ok=True)
    path.touch()
    with pytest.raises(ConfigError, match="holds a run, which no export replaces"):
        export(workdir, "folder", workdir, overwrite=True, quiet=True)
    assert path.is_file()


def test_a_trained_network_is_not_replaced_by_an_export(workdir, tmp_path):
    out = export(workdir, "folder", tmp_path / "e", quiet=True)
    weights = out / "trained" / "s.safetensors"
    save(weights, {"x": torch.zeros(1)}, {"kind": "student", "recipe": {}})
    with pytest.raises(ConfigError, match=r"s\.safetensors was trained by gvbsm train"):
        export(workdir, "folder", out, overwrite=True, quiet=True)
    assert weights.is_file()
    weights.unlink()
    save(out / "model.safetensors", {"x": torch.ones(1)}, {"kind": "student", "recipe": {}})
    (out / "model.onnx").touch()  # as beside the weights of an export
    exports.check_free(out, "onnx", overwrite=True)


def test_nothing_is_overwritten_unasked(workdir, tmp_path):
    out = export(workdir, "folder", tmp_path / "e", quiet=True)
    with pytest.raises(ConfigError, match="is there already; pass --overwrite"):
        export(workdir, "folder", out, quiet=True)
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "thesis").touch()
    with pytest.raises(ConfigError, match="gvbsm did not export"):
        export(workdir, "folder", precious, overwrite=True, quiet=True)
    with pytest.raises(ConfigError, match="is no exported set"):
        export(workdir, "safetensors", workdir / "synthesis" / "images.safetensors", overwrite=True)
    for wrong, message in (("x.txt", "must name a .safetensors file"), ("e", "must name")):
        with pytest.raises(ConfigError, match=message):
            export(workdir, "safetensors", tmp_path / wrong)
    with pytest.raises(ConfigError, match="an export is one of folder, hub"):
        export(workdir, "zip", tmp_path / "z")


def test_a_folder_with_a_file_of_the_system_alone_is_empty(workdir, tmp_path):
    out = tmp_path / "e"
    out.mkdir()
    (out / ".DS_Store").write_text("of the system")
    export(workdir, "folder", out, overwrite=True, quiet=True)
    assert (out / ".DS_Store").read_text() == "of the system"


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_stopped_export_leaves_things_as_they_were(
    overwrite,
    workdir,
    tmp_path,
    monkeypatch,
):
    if overwrite:
        export(workdir, "folder", tmp_path / "e", quiet=True)
    before = sorted(tmp_path.rglob("*"))
    calls = []

    def stop(*arguments, **options):
        calls.append(arguments)
        if len(calls) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(exports, "write_image", stop)
    with pytest.raises(KeyboardInterrupt):
        export(workdir, "folder", tmp_path / "e", overwrite=overwrite, quiet=True)
    assert sorted(tmp_path.rglob("*")) == before


def test_push(workdir, tmp_path, monkeypatch):
    pytest.importorskip("datasets")
    monkeypatch.setattr(hub, "upload", lambda folder, name: f"{folder.name} to {name}")
    out = export(workdir, "hub", tmp_path / "e", quiet=True)
    assert push(out, "user/name") == "e to user/name"
    with pytest.raises(ArtifactError, match="cannot be pushed"):
        push(export(workdir, "folder", tmp_path / "f", quiet=True), "user/name")


def test_grey_pictures(tmp_path):
    write_images(tmp_path / "w", channels=1)
    out = export(tmp_path / "w", "folder", tmp_path / "e", quiet=True)
    with Image.open(out / "class 0" / "00000.png") as picture:
        assert picture.mode == "L"


@pytest.mark.parametrize(("option", "epochs"), [([], 5), (["true"], 5), (["false"], 3)])
def test_the_command_exports_the_soft_labels_that_are_asked_for(option, epochs, tmp_path):
    """Stores of 5 epochs with logit normalization and of 3 without; the first is the default."""
    write_images(tmp_path / "w")
    for folder, value, count in (("labels", True, 5), ("labels-plain", False, 3)):
        recipe = {"stage": "labels", "labels": {"logit_normalization": value}}
        write_labels(tmp_path / "w" / folder, count, recipe=recipe)
    export_command(tmp_path, *(f"--logit_normalization={value}" for value in option))
    assert load(tmp_path / "e.safetensors", tmp_path / "cache").soft_labels.epochs == epochs


def test_the_command_refuses_soft_labels_that_are_not_there(workdir, tmp_path):
    done = export_command(tmp_path, "--logit_normalization=true", code=2)
    assert done.stderr.count("\n") == 1
    assert "holds no soft labels with logit normalization" in done.stderr
    assert not (tmp_path / "e.safetensors").exists()


def export_command(folder, *options, code=0):
    """`gvbsm export` of the work directory `w` in a process of its own."""
    command = [sys.executable, "-m", "gvbsm", "export", "w", "--to", "safetensors"]
    command += ["--out", "e.safetensors", "--quiet", *options]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stderr
    return done
