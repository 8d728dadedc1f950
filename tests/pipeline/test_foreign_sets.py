"""Sets of other methods as rows: how they fit, and a run with them."""

import logging
from dataclasses import replace

import numpy as np
import pytest
import torch

from gvbsm import api
from gvbsm.cli import main
from gvbsm.config import ConfigError
from gvbsm.data.class_sizes import ImageCounts
from gvbsm.files.artifacts import read_header, read_json
from gvbsm.pipeline.foreign_sets import fitting_images
from gvbsm.pipeline.work_sharing import Teamwork
from gvbsm.store.distilled import DistilledDataset, load_images
from support.toy import CLASSES
from support.workdirs import quick_settings, write_arrays


@pytest.fixture
def foreign(data):
    """A set of two images of each class of the data, whose first pixel is the class."""
    labels = torch.arange(4).repeat_interleave(2)
    images = torch.zeros(8, *data.train.images.shape[1:], dtype=torch.uint8)
    images[:, 0, 0, 0] = labels
    return DistilledDataset(images, labels, CLASSES, data.normalization, None, {})


def test_classes_are_matched_by_name(foreign, data):
    renamed = replace(foreign, class_names=(*CLASSES[1:], CLASSES[0]))
    images, labels = fitting_images(renamed, data, ImageCounts.even(4, 2), "x")
    assert labels.tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    assert images[:, 0, 0, 0].tolist() == [3, 3, 0, 0, 1, 1, 2, 2]


def test_other_names_are_taken_in_their_order(foreign, data, caplog):
    renamed = replace(foreign, class_names=("0", "1", "2", "3"))
    with caplog.at_level(logging.WARNING):
        images, labels = fitting_images(renamed, data, ImageCounts.even(4, 2), "x")
    assert torch.equal(labels, foreign.labels)
    assert torch.equal(images, foreign.images)
    assert "x: its class names differ, so the order of classes is assumed" in caplog.text
    listed = replace(foreign, class_names=("0", "1", "10", "2"))  # as by folders
    images, labels = fitting_images(listed, data, ImageCounts.even(4, 2), "x")
    assert labels.tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    assert images[:, 0, 0, 0].tolist() == [0, 0, 1, 1, 3, 3, 2, 2]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"class_names": CLASSES[:3]}, r"x has 3 classes, the pictures 4"),
        ({"images": torch.zeros(8, 3, 9, 9)}, r"images of \[3, 9, 9\] .* pictures are \[3, 8, 8\]"),
        ({"images": torch.zeros(8, 1, 8, 8)}, r"x has images of \[1, 8, 8\]"),
        ({"labels": torch.tensor([0, 0, 0, 1, 2, 2, 3, 3])}, r"has 1 to 3 images per class, the r"),
    ],
)
def test_a_set_that_does_not_fit_is_refused_in_one_line(foreign, data, change, words):
    with pytest.raises(ConfigError, match=words) as caught:
        fitting_images(replace(foreign, **change), data, ImageCounts.even(4, 2), "x")
    assert "\n" not in str(caught.value)
    for counts, words in ((ImageCounts.even(4, 3), "3"), (ImageCounts((2, 3, 1, 2)), "1 to 3")):
        with pytest.raises(ConfigError, match=rf"has 2 images per class, the run {words}: choose"):
            fitting_images(foreign, data, counts, "x")


def test_a_set_with_other_numbers_for_single_classes_fits_a_run_of_the_same(foreign, data):
    uneven = replace(foreign, labels=torch.tensor([0, 0, 0, 1, 2, 2, 3, 3]))
    assert fitting_images(uneven, data, ImageCounts((3, 1, 2, 2)), "x")[1].tolist() == [
        *[0, 0, 0, 1],
        *[2, 2, 3, 3],
    ]
    with pytest.raises(ConfigError, match=r"x has 1 to 3 images per class, the run 1 to 3: "):
        fitting_images(uneven, data, ImageCounts((1, 3, 2, 2)), "x")


def test_a_set_is_a_row_with_the_labels_of_random_pictures(tmp_path, monkeypatch):
    file = tmp_path / "dm.npz"
    images = np.random.default_rng(3).integers(0, 256, (8, 8, 8, 3), dtype=np.uint8)
    np.savez(file, train_images=images, train_labels=np.arange(8) % 4)
    data = {"name": "npz", "root": str(write_arrays(tmp_path / "data.npz"))}
    settings = quick_settings(
        data,
        ipc=2,
        evaluation={"students": ["convnet8_d1"], "seeds": 1, "tests": 1},
        baselines={"methods": ["random-soft"], "sets": {"dm": str(file)}},
    )
    workdir, awaited = tmp_path / "w", []
    monkeypatch.setattr(Teamwork, "meet", lambda _, paths: awaited.extend(paths))
    results = api.run(settings, workdir, quiet=True)
    assert [row["method"] for row in results["rows"]] == ["gvbsm", "random-soft", "dm"]
    path = workdir / "baselines/set-dm/synthesis/images.safetensors"
    assert awaited[0] == path  # other processes may not see it at once
    copied = load_images(path)
    assert copied.labels.tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    order = np.argsort(np.arange(8) % 4, kind="stable")
    assert np.array_equal(copied.images.permute(0, 2, 3, 1).numpy(), images[order])
    recipes = [
        read_json(workdir / f"baselines/{folder}/labels/index.json")["recipe"]
        for folder in ("set-dm", "random-0")
    ]
    assert recipes[0]["labels"] == recipes[1]["labels"]
    assert recipes[0]["images"] != recipes[1]["images"]

    before = read_header(path)["recipe"]
    api.run(settings, workdir, quiet=True)
    assert read_header(path)["recipe"] == before
    np.savez(file, train_images=255 - images, train_labels=np.arange(8) % 4)
    api.run(settings, workdir, quiet=True)
    assert read_header(path)["recipe"] != before
    assert main(["show", str(workdir)]) == 0


@pytest.mark.parametrize("name", ["gvbsm", "random-soft", "full", "real", "hard", "a-b", "a/b", ""])
def test_a_set_takes_no_name_of_a_method(name, tmp_path):
    settings = {"preset": "digits", "baselines": {"sets": {name: "x"}}}
    with pytest.raises(ConfigError, match="take letters, digits and _, and no method"):
        api.run(settings, tmp_path / "w")


def test_a_set_that_is_not_there(tmp_path):
    missing = tmp_path / "nowhere"
    settings = {
        "preset": "digits",
        "squeeze": {"backbones": ["convnet8_d1"]},
        "evaluation": {"students": ["convnet8_d1"]},
        "baselines": {"methods": [], "sets": {"dm": missing}},
    }
    with pytest.raises(ConfigError, match=f"sets dm: there is no {missing}; name class folders"):
        api.run(settings, tmp_path / "w", quiet=True)
    assert not (tmp_path / "w").exists()
