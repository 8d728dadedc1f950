"""The dataset card tells what the set's files tell, and says what they do not."""

import ast
import re
import shlex

import pytest
import yaml

from gvbsm.exchange.card import dataset_card, extraction
from gvbsm.pipeline.results import spread


@pytest.fixture
def facts():
    return {
        "form": "hub",
        "method": "gvbsm",
        "dataset": "toy",
        "gvbsm": "0.1.0",
        "images": 4,
        "ipc": 2,
        "class_names": ["ant", "bee"],
        "image_size": 8,
        "channels": 3,
        "mean": [0.5, 0.25, 0.125],
        "std": [0.25, 0.5, 1.0],
        "labels": {"epochs": 5, "bytes": 2_500_000, "stored": "5 epochs", "first": 0},
        "teachers": [{"backbone": "convnet8_d1", "top1": 91.25}],
        "results": [
            {"method": "gvbsm", "student": "s", "ipc": 2, "top1": spread([50.0, 60.0])},
            {"method": "full", "student": "t", "ipc": None, "top1": spread([91.25])},
        ],
        "config": {"ipc": 2},
        "versions": {"torch": "2"},
    }


def head_of(card):
    _, head, text = card.split("---\n", 2)
    return yaml.safe_load(head), text


def test_card(facts):
    head, text = head_of(dataset_card(facts))
    assert head["task_categories"] == ["image-classification"]
    assert (head["license"], head["size_categories"]) == ("unknown", ["n<1K"])
    (files,) = head["configs"][0]["data_files"]
    assert files == {"split": "train", "path": "data/*.parquet"}
    for words in (
        "4 synthetic images of 2 classes, 8 x 8 pixels, 3 channels",
        "convnet8_d1 (91.2 %)",
        "in 5 epochs, 2.5 MB.",
        "mean (0.5000, 0.2500, 0.1250) and deviation (0.2500, 0.5000, 1.0000)",
        "| gvbsm | s | 2 | 55.0 ± 7.1 | 2 |",
        "| full | t | all | 91.2 | 1 |",
        "Random real pictures with soft labels were not measured",
        "```yaml\n{ipc: 2}\n```",
        "torch 2",
        "soft_labels.read(epoch=0)",
    ):
        assert words in text, words


@pytest.mark.parametrize(
    ("name", "command"),
    [
        ("folder", "`gvbsm run settings.yaml`, where"),
        ("memory", '`gvbsm.run("settings.yaml", data=(X, y))`, where'),
    ],
)
def test_the_card_has_the_command_that_made_the_set(name, command, facts):
    assert command in dataset_card(facts | {"config": {"data": {"name": name}}})


@pytest.mark.parametrize("form", ["hub", "folder"])
def test_settings_of_a_stranger_are_shown_as_they_are(form, facts):
    evil = "a\n```\n</details>\n<b>"
    config = {"note": evil, "backbones": ["<img src=x>.py:Net"]}
    text = dataset_card(facts | {"form": form, "config": config})
    block = re.search(r"^(`{4,})yaml\n(.*?)^\1$", text, re.DOTALL | re.MULTILINE)
    assert yaml.safe_load(block[2]) == config
    outside = text.replace(block[0], "")
    assert "<b>" not in outside
    assert r"\<img src=x\>.py:Net" in outside


def test_the_card_of_the_hub_has_a_picture_and_a_training(facts):
    _, text = head_of(dataset_card(facts | {"title": "my birds"}))
    assert "# my birds, distilled: 2 images per class" in text
    assert "derived from the pictures of my birds" in text
    assert "![The first images of each class](images.png)" in text
    assert "python train_plain.py TEST" in text
    assert "loss = loader.loss(model(batch.views), batch)" in text


@pytest.mark.parametrize(
    ("form", "named", "absent"),
    [
        ("folder", ["One folder per class", "`index.json`", "train_plain.py TEST"], ["parquet"]),
        ("safetensors", ["`soft_labels/...`", "`README`", "python -c"], ["`gvbsm.json`: names"]),
        ("dd-ranking", ["`score.py`", "`teachers/`"], ["train_plain", "soft_labels"]),
    ],
)
def test_the_readme_of_other_forms_lists_what_they_hold(form, named, absent, facts):
    text = dataset_card(facts | {"form": form})
    assert text.startswith("# toy, distilled")
    for words in named:
        assert words in text
    for words in absent:
        assert words not in text


def test_the_readme_of_a_folder_shows_the_first_image_of_each_class(facts):
    text = dataset_card(facts | {"form": "folder", "folders": ["ant", 'a "<b>']})
    assert '<img src="ant/00000.png" width="96" alt="ant">' in text
    assert '<img src="a%20%22%3Cb%3E/00000.png" width="96" alt="a &quot;&lt;b&gt;">' in text


@pytest.mark.parametrize("form", ["hub", "folder", "safetensors"])
def test_without_soft_labels_none_are_listed(form, facts):
    text = dataset_card(facts | {"form": form, "labels": None})
    assert "shard-" not in text
    assert "soft_labels/" not in text
    assert "student on the images as gvbsm does" in text


def test_what_is_not_known_is_said(facts):
    facts |= {"labels": None, "teachers": [], "results": None, "config": None, "versions": None}
    facts |= {"method": "herding", "images": 5000}
    head, text = head_of(dataset_card(facts))
    assert head["size_categories"] == ["1K<n<10K"]
    assert "5000 real images" in text
    assert "Not measured, or not recorded." in text
    assert "No soft labels are stored" in text
    for word in ("soft_labels.read", "Teachers", "Made by", "None"):
        assert word not in text


@pytest.mark.parametrize(
    ("method", "words"),
    [
        ("gvbsm-hard", "4 synthetic images of 2 classes, 8 x 8 pixels, 3 channels, made by the "),
        ("herding-soft", "4 real images of 2 classes, 8 x 8 pixels, 3 channels, made by the "),
        ("mixed", "4 images of 2 classes, 8 x 8 pixels, 3 channels, made by several methods"),
        ("plain", "4 images of 2 classes, 8 x 8 pixels, 3 channels, found in class folders"),
    ],
)
def test_images_are_called_real_or_synthetic_where_that_is_known(method, words, facts):
    assert words in dataset_card(facts | {"method": method})


@pytest.mark.parametrize("name", ["set.safetensors", 'it\'s a "set".safetensors'])
def test_the_command_that_extracts_the_script_is_one_of_a_shell(name):
    python, option, code, *rest = shlex.split(extraction(name))
    assert (python, option, rest) == ("python", "-c", [">", "train_plain.py"])
    texts = {node.value for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Constant)}
    assert name in texts


def test_names_are_text_whatever_they_hold(facts):
    hostile = "x\n# y <img src=z> [a](b) `c` | d"
    facts |= {"dataset": hostile, "teachers": [{"backbone": hostile}], "method": "m`<b>"}
    facts["results"][0]["student"] = hostile
    _, text = head_of(dataset_card(facts))
    plain = re.sub(r"\\.", "", text)  # without what is escaped
    assert "<img" not in plain
    assert "[a]" not in plain
    assert "\n# y" not in text
    (row,) = [line for line in plain.splitlines() if line.startswith("| m")]
    assert row.count("|") == 6
