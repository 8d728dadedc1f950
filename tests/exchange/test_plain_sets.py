"""Plain sets of somebody's: class folders and arrays are sets with hard labels."""

import logging

import numpy as np
import pytest
import torch
from PIL import Image

from gvbsm.cli import main
from gvbsm.config import ConfigError
from gvbsm.data.pictures import DataError
from gvbsm.exchange.export import export
from gvbsm.exchange.load import load
from gvbsm.files.artifacts import ArtifactError, read_json, write_json
from gvbsm.store.distilled import load_distilled
from support.distilled_files import write_images
from support.picture_files import draw, draw_classes
from support.workdirs import write_arrays


def test_class_folders_are_a_set_with_hard_labels(tmp_path):
    root = draw_classes(tmp_path / "a", {"cat": 1, "dog": 2}, size=(9, 9))
    found = load(root)
    assert (found.class_names, found.labels.tolist()) == (("cat", "dog"), [0, 1, 1])
    for image, path in zip(found.images, sorted(root.rglob("*.png")), strict=True):
        assert np.array_equal(image.permute(1, 2, 0), np.asarray(Image.open(path)))
    pixels = found.images.double() / 255
    assert found.normalization.mean == pytest.approx(pixels.mean((0, 2, 3)).tolist())
    assert found.soft_labels is None
    (tmp_path / "b").mkdir()
    root.rename(tmp_path / "b" / "train")
    assert torch.equal(load(tmp_path / "b").images, found.images)


def test_pictures_of_several_sizes_are_brought_to_one_and_it_is_said(tmp_path, caplog):
    root = draw_classes(tmp_path / "a", {"cat": 2, "dog": 2}, mode="L")
    draw(root / "cat" / "large.png", size=(20, 12), mode="L")
    assert load(root).images.shape == (5, 1, 8, 8)
    assert "several sizes: they are resized to 8 px" in caplog.text


def test_their_side_is_that_of_most_pictures_whatever_a_single_one_has(tmp_path):
    root = draw_classes(tmp_path / "a", {"cat": 2, "dog": 2}, size=(16, 16))
    draw(root / "cat" / "small.png", size=(8, 8))
    assert load(root).images.shape[2:] == (16, 16)


def test_a_picture_of_a_set_is_repaired_not_skipped(tmp_path):
    root = draw_classes(tmp_path / "set", {"ant": 1, "bee": 1}, size=(32, 32))
    (path,) = (root / "bee").iterdir()
    path.write_bytes(path.read_bytes()[:-200])  # its head is whole
    with pytest.raises(DataError, match=r"cannot read .*; repair it or take it out$"):
        load(root)


def test_an_npz_is_a_set_with_hard_labels(tmp_path, caplog):
    path = write_arrays(tmp_path / "a.npz", train=3, test=1)
    with np.load(path) as arrays:
        images, labels = arrays["train_images"], arrays["train_labels"]
    found = load(path)
    assert found.labels.tolist() == sorted(labels.tolist())
    assert np.array_equal(found.images.permute(0, 2, 3, 1), images)
    np.savez(tmp_path / "t.npz", train_images=images, train_labels=labels)
    alone = load(tmp_path / "t.npz")
    assert torch.equal(alone.images, found.images)
    assert alone.class_names == ("0", "1", "2", "3")
    np.savez(tmp_path / "b.npz", images=images, labels=labels)
    with pytest.raises(DataError, match=r"it holds 'images', 'labels'; .*, train_labels$"):
        load(tmp_path / "b.npz")
    np.savez(tmp_path / "f.npz", train_images=images / 255, train_labels=labels)
    assert torch.equal(load(tmp_path / "f.npz").images, found.images)
    assert "taken as 0 to 1" in caplog.text


def test_a_class_or_a_file_with_a_name_of_ours_makes_no_work_directory(tmp_path):
    root = draw_classes(tmp_path / "a", {"music": 2, "synthesis": 2})
    (root / "data.json").write_text('{"license": "CC0"}')
    assert load(root).class_names == ("music", "synthesis")


def test_a_work_directory_without_its_manifest_is_no_plain_set(tmp_path):
    write_json(tmp_path / "w" / "data.json", {"name": "x", "classes": 2, "image_size": 2})
    draw_classes(tmp_path / "w" / "report", {"figures": 1})
    with pytest.raises(ArtifactError, match="run the stage that makes it first"):
        load(tmp_path / "w")


def test_a_set_of_one_class_is_not_exported_since_none_is_read(tmp_path):
    root = draw_classes(tmp_path / "a", {"cat": 2})
    with pytest.raises(ConfigError, match="a has a single class"):
        export(root, "folder", tmp_path / "e", quiet=True)
    assert not (tmp_path / "e").exists()


def test_other_things_are_not_taken_for_plain_sets(tmp_path):
    write_images(tmp_path / "w")
    assert torch.equal(load(tmp_path / "w").images, load_distilled(tmp_path / "w").images)
    out = export(tmp_path / "w", "folder", tmp_path / "e", quiet=True)
    assert load(out).header["form"] == "folder"
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no class folders"):
        load(tmp_path / "empty")
    (tmp_path / "x.txt").write_text("x")
    with pytest.raises(ArtifactError, match=r"x\.txt"):
        load(tmp_path / "x.txt")
    torch.save({"images": torch.zeros(2, 1, 8, 8)}, tmp_path / "res_DC.pt")
    with pytest.raises(DataError, match=r"DC\.pt is a pickle.*numpy\.savez as train_images"):
        load(tmp_path / "res_DC.pt")


@pytest.mark.parametrize("form", ["folder", "npz"])
def test_a_network_is_trained_on_a_plain_set(form, tmp_path, monkeypatch):
    monkeypatch.setattr(logging.getLogger("gvbsm"), "handlers", [])
    if form == "npz":
        source = write_arrays(tmp_path / "a.npz", train=3, test=2)
    else:
        source = draw_classes(tmp_path / "a", {"cat": 3, "dog": 3})
    out = tmp_path / "model.safetensors"
    command = ["train", str(source), "--model", "convnet8_d1", "--labels.epochs", "2"]
    assert main([*command, "--threads", "1", "--out", str(out), "--quiet"]) == 0
    assert out.is_file()


def test_training_arrays_alone_are_trained_on_and_judged_by_other_data(tmp_path):
    whole = write_arrays(tmp_path / "whole.npz", train=3, test=2)
    with np.load(whole) as arrays:
        alone = {name: arrays[name] for name in ("train_images", "train_labels", "class_names")}
    np.savez(tmp_path / "alone.npz", **alone)
    command = ["train", str(tmp_path / "alone.npz"), "--model", "convnet8_d1", "--threads", "1"]
    command += ["--labels.epochs", "2", "--quiet"]
    assert main([*command, "--out", str(tmp_path / "a.safetensors")]) == 0
    assert read_json(tmp_path / "a.json")["top1"] == []
    judged = ["--data.name", "npz", "--data.root", str(whole)]
    assert main([*command, *judged, "--out", str(tmp_path / "b.safetensors")]) == 0
    assert len(read_json(tmp_path / "b.json")["top1"]) > 0
    judged[-1] = str(tmp_path / "alone.npz")
    assert main([*command, *judged, "--out", str(tmp_path / "c.safetensors")]) == 2
