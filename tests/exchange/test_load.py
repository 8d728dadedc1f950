"""Sets of other people: read as described; refused if they are broken, too large or unsafe."""

import os

import pytest
import torch
from PIL import Image

import gvbsm
from gvbsm.config import LabelStorageConfig
from gvbsm.data.pictures import DataError
from gvbsm.exchange import hub, public_files
from gvbsm.exchange import load as exchange
from gvbsm.exchange.export import export
from gvbsm.exchange.load import FACTS, load
from gvbsm.files.artifacts import ArtifactError, read_json, write_json
from gvbsm.files.tensors import load_tensors, save
from gvbsm.store.distilled import load_distilled
from support.distilled_files import write_images, write_labels
from support.picture_files import draw_classes


@pytest.fixture
def workdir(tmp_path):
    """A work directory with 4 images of 2 x 2 pixels and two classes, and labels of 5 epochs."""
    write_images(tmp_path / "w")
    write_labels(tmp_path / "w" / "labels")
    return tmp_path / "w"


@pytest.fixture(params=["folder", "hub", "safetensors"])
def exported(request, workdir, tmp_path):
    """The same set in each form."""
    if request.param == "hub":
        pytest.importorskip("datasets")
    name = "e.safetensors" if request.param == "safetensors" else "e"
    return export(workdir, request.param, tmp_path / name, quiet=True)


def test_every_form_gives_the_set_back(exported, workdir, tmp_path):
    first, found = load_distilled(workdir), load(exported, cache=tmp_path / "cache")
    assert torch.equal(found.images, first.images)
    assert torch.equal(found.labels, first.labels)
    for name in ("class_names", "normalization", "ipc"):
        assert getattr(found, name) == getattr(first, name)
    assert found.header["method"] == "gvbsm"
    assert found.soft_labels.epochs == 5
    for epoch in range(5):
        expected = first.soft_labels.read(epoch)
        again = found.soft_labels.read(epoch)
        assert expected.keys() == again.keys()
        assert all(torch.equal(again[name], expected[name]) for name in expected)


@pytest.mark.parametrize(
    "entries",
    [
        {"storage": LabelStorageConfig(bits=8)},
        {"storage": LabelStorageConfig(top_k=1)},
        {"storage": LabelStorageConfig(pruning=2.0), "kept": (1, 4)},
        {"shard_epochs": 1, "shard_images": 2, "batch": 2},
    ],
)
def test_one_file_holds_labels_as_they_are_stored(entries, tmp_path):
    write_images(tmp_path / "w")
    stored = write_labels(tmp_path / "w" / "labels", **entries)
    path = export(tmp_path / "w", "safetensors", tmp_path / "e.safetensors", quiet=True)
    again = load(path, cache=tmp_path / "c").soft_labels
    assert (again.kept, again.storage, again.fields) == (stored.kept, stored.storage, stored.fields)
    for epoch in stored.kept:
        expected, rows = stored.read(epoch), again.read(epoch)
        assert bool((rows["logits"] == epoch).all())
        assert expected.keys() == rows.keys()
        assert all(torch.equal(rows[name], expected[name]) for name in expected)


def test_labels_too_large_for_one_file_are_refused(workdir, tmp_path, monkeypatch):
    monkeypatch.setattr(public_files, "MOST_BYTES", 10)
    with pytest.raises(ArtifactError, match="too much for one file: --to hub"):
        export(workdir, "safetensors", tmp_path / "e.safetensors", quiet=True)
    assert not (tmp_path / "e.safetensors").exists()


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ([], "soft_labels should be a JSON object"),
        ({"shard_epochs": 2}, "should be one shard, not 3"),
        ({"epochs": -1}, "epochs should be greater than or equal to 1, found -1"),
        ({"layout": 3}, "upgrade gvbsm"),
    ],
)
def test_the_index_of_labels_in_one_file_is_checked(entries, message, workdir, tmp_path):
    path = export(workdir, "safetensors", tmp_path / "e.safetensors", quiet=True)
    tensors, header = load_tensors(path, "distilled")
    header["soft_labels"] = {**header["soft_labels"], **entries} if entries else entries
    save(path, tensors, header)
    with pytest.raises(ArtifactError, match=message) as caught:
        load(path, cache=tmp_path / "c")
    assert str(path) in str(caught.value)
    assert not (tmp_path / "c").exists()


def test_the_labels_of_one_file_are_unpacked_once(workdir, tmp_path):
    path = export(workdir, "safetensors", tmp_path / "e.safetensors", quiet=True)
    folder = load(path, cache=tmp_path / "c").soft_labels.directory
    (folder / "mark").touch()
    assert load(path, cache=tmp_path / "c").soft_labels.directory == folder
    assert (folder / "mark").exists()
    without = export(workdir, "safetensors", tmp_path / "f.safetensors", soft_labels=False)
    assert load(without).soft_labels is None


def test_labels_of_one_file_that_are_gone_from_the_cache_are_unpacked_again(workdir, tmp_path):
    path = export(workdir, "safetensors", tmp_path / "e.safetensors", quiet=True)
    stored = load(path, cache=tmp_path / "c").soft_labels
    expected = stored.read(0)["logits"]
    stored.shards[0].path.unlink()
    assert torch.equal(load(path, cache=tmp_path / "c").soft_labels.read(0)["logits"], expected)


def test_no_name_is_not_the_current_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    draw_classes(tmp_path, {"cat": 1, "dog": 1})
    with pytest.raises(ArtifactError, match="name of the set is empty"):
        load("")


def test_a_work_directory_tells_its_settings(workdir):
    assert gvbsm.load is load
    assert load(workdir).header["settings"] == {"seed": 0}
    index = read_json(workdir / "labels" / "index.json")
    index["recipe"]["labels"] = {"epochs": 5}
    write_json(workdir / "labels" / "index.json", index)
    assert load(workdir).header["settings"] == {"labels": {"epochs": 5}, "seed": 0}
    write_json(
        workdir / "data.json", {"name": "x", "classes": 2, "image_size": 2, "test_crop": 0.5}
    )
    expected = {"labels": {"epochs": 5}, "seed": 0, "data": {"test_crop": 0.5}}
    assert load(workdir).header["settings"] == expected
    config = {"seed": 3, "labels": {"epochs": 7}, "evaluation": {"loss": "kl"}, "ipc": 2}
    config["data"] = {"name": "folder", "root": "/secret", "test_crop": 0.875}
    config["data"] |= {"val_fraction": 0.5, "split_seed": 3}
    write_json(
        workdir / "results.json",
        {"rows": [], "config": config, "origin": {"preset": None, "changed": []}},
    )
    del config["ipc"], config["data"]["name"], config["data"]["root"]
    assert load(workdir).header["settings"] == config
    file = workdir / "synthesis" / "images.safetensors"
    assert torch.equal(load(file).images, load(workdir).images)


def edit(folder, **changes):
    facts = read_json(folder / FACTS)
    write_json(folder / FACTS, {**facts, **changes})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": 2}, "upgrade gvbsm"),
        ({"settings": {"labels": 7}}, "settings.labels should be .*, found 7"),
        ({"settings": {"data": [0.5]}}, "settings.data should be .*, found"),
        ({"settings": {"evaluation": {"lr_of": 3}}}, "settings.evaluation.lr_of should be .*3"),
        ({"settings": {"labels": {"batchnorm": "batch"}}}, "have batch_size and full_batch_up_to"),
        ({"settings": {"evaluation": {"students": 7}}}, "students should be a valid list, found 7"),
        ({"config": {"data": 7}}, "config should be settings of a run: data should .*, found 7"),
        ({"config": {"data": {"name": [1]}}}, "data.name should be a valid string"),
        ({"config": {"squeeze": {"backbones": 3}}}, "squeeze.backbones should be a valid list"),
        ({"form": "other"}, "form must be one of"),
        ({"images": 10**12}, "images should be less than or equal to .*, found 10{12}"),
        ({"images": True}, "images should be a valid integer, found True"),
        ({"images": 10**9, "image_size": 4096}, "images should take at most .* bytes"),
        ({"image_size": 3}, r"has \(2, 2\) pixels, but gvbsm.json states \(3, 3\)"),
        ({"image_size": "2"}, "image_size should be a valid integer, found '2'"),
        ({"channels": 2, "mean": [0, 0], "std": [1, 1]}, "channels should be 1 or 3, found 2"),
        ({"images": 5}, "holds 4 images, .* states 5"),
        ({"class_names": ["a"]}, "at least 2 items"),
        ({"class_names": ["a", 2]}, "class_names.1 should be a valid string"),
        ({"mean": [0.5]}, "mean should be 3 numbers"),
        ({"std": [0.5, 0, 1]}, "std.1 should be greater than or equal to .*, found 0"),
        ({"folders": ["class 0"]}, "folders should name a folder for each class"),
        ({"folders": ["class 0", "../outside"]}, "should be the plain name"),
        ({"folders": ["class 0", ".."]}, "leads out of"),
        ({"folders": ["class 0", "/etc"]}, "should be the plain name"),
        ({"folders": ["class 0", "a\\b"]}, "should be the plain name"),
        ({"folders": ["class 0", "n" * 256]}, "should be the plain name"),
        ({"folders": ["class 0", "class 0"]}, "names folder 'class 0' for two classes"),
    ],
)
def test_what_a_folder_tells_is_checked(changes, message, workdir, tmp_path):
    folder = export(workdir, "folder", tmp_path / "e", quiet=True)
    Image.new("RGB", (2, 2)).save(tmp_path / "outside.png")
    edit(folder, **changes)
    with pytest.raises(ArtifactError, match=message):
        load(folder)


def test_links_out_of_the_folder_are_refused(workdir, tmp_path):
    folder = export(workdir, "folder", tmp_path / "e", quiet=True)
    secret = tmp_path / "secret.png"
    Image.new("RGB", (2, 2)).save(secret)
    picture = folder / "class 0" / "00000.png"
    picture.unlink()
    picture.symlink_to(secret)
    with pytest.raises(ArtifactError, match="leads out of"):
        load(folder)
    picture.unlink()
    picture.write_bytes(b"\x89PNG and nothing")
    with pytest.raises(DataError, match=r"cannot read .*00000\.png"):
        load(folder)


def test_an_index_of_labels_that_is_no_file_is_not_taken_for_none(workdir, tmp_path):
    folder = export(workdir, "hub", tmp_path / "e", quiet=True)
    index = folder / "soft_labels" / "index.json"
    index.unlink()
    for make in (
        index.mkdir,
        lambda: os.mkfifo(index),
        lambda: index.symlink_to("nowhere"),
        lambda: index.symlink_to(index.name),
    ):
        make()
        with pytest.raises(ArtifactError, match=r"index\.json"):
            load(folder)
        index.rmdir() if index.is_dir() else index.unlink()
    assert load(folder).soft_labels is None


def test_facts_that_are_too_long_are_not_read(workdir, tmp_path, monkeypatch):
    folder = export(workdir, "folder", tmp_path / "e", quiet=True)
    monkeypatch.setattr(exchange, "MOST_FACTS_BYTES", 10)
    with pytest.raises(ArtifactError, match="more than 10 bytes"):
        load(folder)


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"images": torch.zeros(4, 3, 2, 2)}, r"images of .* are F32"),
        (
            {"images": torch.zeros(5, 3, 2, 2, dtype=torch.uint8)},
            r"but its header states U8 \[4, 3, 2, 2\]",
        ),
        ({"labels": torch.tensor([0, 0, 1, 2])}, "labels of .* must be 0 to 1"),
        ({"labels": torch.zeros(4, dtype=torch.int32)}, "labels of .* are I32"),
        ({"labels": None}, "lacks images or labels"),
        ({"soft_labels/logits": torch.zeros(20, 2)}, r"logits is not torch.float16 of \[20, 2\]"),
        ({"soft_labels/logits": None}, "e.safetensors is damaged .logits is not"),
        ({"soft_labels/views": torch.zeros(20, 1, dtype=torch.uint8)}, "views is not torch.uint8"),
    ],
)
def test_what_a_file_holds_is_checked(tensors, message, workdir, tmp_path):
    path = export(workdir, "safetensors", tmp_path / "e.safetensors", quiet=True)
    found, header = load_tensors(path, "distilled")
    found = {name: part for name, part in {**found, **tensors}.items() if part is not None}
    save(path, found, header)
    with pytest.raises(ArtifactError, match=message):
        load(path, cache=tmp_path / "c")


def test_other_files_are_refused(workdir, tmp_path, monkeypatch):
    save(tmp_path / "t.safetensors", {}, {"kind": "teacher", "recipe": {}})
    with pytest.raises(ArtifactError, match="holds 'teacher', expected a distilled set"):
        load(tmp_path / "t.safetensors")
    description = export(workdir, "folder", tmp_path / "e", quiet=True) / FACTS
    with pytest.raises(ArtifactError, match=r"gvbsm\.json is no distilled set; name its folder"):
        load(description)
    (tmp_path / "x.safetensors").write_bytes(b"nothing")
    with pytest.raises(ArtifactError, match="damaged"):
        load(tmp_path / "x.safetensors")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(hub, "download", None)
    for name in (tmp_path / "nowhere", "w/slip", "../nowhere", "nowhere"):
        with pytest.raises(ArtifactError, match=r"there is no .*; name a work directory"):
            load(name)


def test_a_missing_folder_is_named_where_the_hub_has_none_either(tmp_path, monkeypatch):
    def download(name, folder):
        raise DataError(f"cannot fetch {name} from the Hugging Face Hub: no network")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(hub, "download", download)
    with pytest.raises(DataError, match=r"^there is no runs.none on this machine; cannot fetch"):
        load("runs/none")


@pytest.mark.parametrize("form", ["hub", "folder"])
def test_a_small_file_that_should_hold_many_pixels_is_refused(form, workdir, tmp_path):
    out = export(workdir, form, tmp_path / "e", quiet=True)
    facts = read_json(out / "gvbsm.json")
    write_json(out / "gvbsm.json", facts | {"images": 10**7})
    with pytest.raises(ArtifactError, match=r"e should unpack its \d+ bytes of pictures"):
        load(out)


def test_files_that_systems_put_beside_pictures_are_no_pictures(workdir, tmp_path):
    out = export(workdir, "folder", tmp_path / "e", quiet=True)
    for path in sorted(out.rglob("*.png")):
        for name in (f"._{path.name}", ".DS_Store", "Thumbs.db", "desktop.ini"):
            (path.parent / name).write_bytes(b"\0\5\x16\7")
    assert torch.equal(load(out).images, load_distilled(workdir).images)


def test_a_set_of_the_hub(workdir, tmp_path, monkeypatch):
    """A snapshot in the Hub's cache is links to blobs beside it; others lead out."""
    folder = export(workdir, "folder", tmp_path / "e", quiet=True)
    repository = tmp_path / "cache" / "datasets--user--name"
    snapshot, blobs = repository / "snapshots" / "1", repository / "blobs"
    blobs.mkdir(parents=True)
    for number, path in enumerate(sorted(p for p in folder.rglob("*") if p.is_file())):
        link = snapshot / path.relative_to(folder)
        link.parent.mkdir(parents=True, exist_ok=True)
        path.rename(blobs / str(number))
        link.symlink_to(blobs / str(number))
    monkeypatch.setattr(hub, "download", lambda name, folder: snapshot)
    assert torch.equal(load("user/name").images, load_distilled(workdir).images)
    link = next(snapshot.glob("*/*.png"))
    link.unlink()
    link.symlink_to(workdir / "synthesis" / "images.safetensors")
    with pytest.raises(ArtifactError, match="leads out of"):
        load("user/name")
    (snapshot / FACTS).unlink()
    with pytest.raises(ArtifactError, match=r"holds no gvbsm\.json"):
        load("user/name")
