"""Files that are not what they were: each is an `ArtifactError` of one line.

Damage is made with a fixed seed: whatever a byte does, loading returns or raises `ArtifactError`,
and no pickle is ever opened.
"""

import pickle
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from gvbsm import artifacts
from gvbsm.artifacts import (
    ArtifactError,
    Checkpoint,
    Statistics,
    is_current,
    load_tensors,
    read_header,
    save,
)
from gvbsm.distilled import load_distilled, load_labels
from gvbsm.moments import Moments
from test_artifacts import RECIPE, tensors, write
from test_distilled import write_images, write_labels

# Random damage


def one_line(error):
    assert isinstance(error, ArtifactError)
    assert str(error)
    assert "\n" not in str(error)


def attempt(load):
    """What a load gives; an `ArtifactError` must be one line, anything else fails the test."""
    try:
        return load()
    except ArtifactError as error:
        one_line(error)
        return None


def damaged(content, trials, start=0):
    """`content` with one to three bytes from `start` on replaced, and cut at random places."""
    rng = np.random.default_rng(0)
    for _ in range(trials):
        mutated = bytearray(content)
        for place in rng.integers(start, len(content), rng.integers(1, 4)):
            mutated[place] = rng.integers(256)
        yield bytes(mutated)
        yield content[: rng.integers(len(content))]


def loaders(root):
    """A valid file of each kind with the function that reads it."""
    checkpoint = Checkpoint(root / "c.safetensors", RECIPE, 0)
    checkpoint.save(tensors(), {"step": 3})
    statistics = Statistics({"a": Moments(torch.zeros(2), torch.ones(2))}, {})
    save(root / "s.safetensors", statistics.tensors(), {"kind": "statistics", "recipe": RECIPE})
    labels = write_labels(root / "labels", epochs=1, shard_epochs=1)
    return {
        "tensors": (write(root / "x.safetensors"), lambda p: load_tensors(p, "kind")),
        "header": (write(root / "h.safetensors"), read_header),
        "current": (write(root / "i.safetensors"), lambda p: is_current(p, RECIPE)),
        "checkpoint": (root / "c.partial.safetensors", lambda _: checkpoint.load()),
        "statistics": (
            root / "s.safetensors",
            lambda p: Statistics.from_tensors(load_tensors(p, "statistics")[0]),
        ),
        "images": (write_images(root), lambda p: load_distilled(p.parent.parent)),
        "shard": (labels.shards[0].path, lambda p: load_labels(p.parent).read(0)),
        "index": (root / "labels" / "index.json", lambda p: load_labels(p.parent)),
    }


NAMES = ("tensors", "header", "current", "checkpoint", "statistics", "images", "shard", "index")


@pytest.mark.parametrize("name", NAMES)
def test_damage_is_an_artifact_error_or_goes_unnoticed(tmp_path, name):
    path, load = loaders(tmp_path)[name]
    content = path.read_bytes()
    assert load(path)
    started = time.monotonic()
    refused = 0
    for mutated in damaged(content, 150):
        path.write_bytes(mutated)
        refused += not attempt(lambda: load(path))
    assert refused > 75
    assert time.monotonic() - started < 60


def test_every_truncation_is_refused(tmp_path):
    path = tmp_path / "x.safetensors"
    save(path, {"x": torch.arange(3)}, {"kind": "kind", "recipe": RECIPE})
    content = path.read_bytes()
    for length in range(len(content)):
        path.write_bytes(content[:length])
        with pytest.raises(ArtifactError) as caught:
            load_tensors(path, "kind")
        one_line(caught.value)
        assert not is_current(path, RECIPE)
    path.write_bytes(content)
    assert is_current(path, RECIPE)


class Trap:
    """Would make a file if it were unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


# Foreign, newer and incomplete files


@pytest.mark.parametrize("content", ["pickle", "torch", "npz", "text", "foreign", "folder"])
def test_foreign_files_are_refused_and_no_pickle_is_opened(tmp_path, content):
    path, trap = tmp_path / "x.safetensors", tmp_path / "sprung"
    if content == "pickle":
        path.write_bytes(pickle.dumps(Trap(trap)))
    elif content == "torch":
        torch.save({"x": Trap(trap)}, path)
    elif content == "npz":
        with path.open("wb") as file:
            np.savez(file, x=np.array([Trap(trap)], dtype=object), allow_pickle=True)
    elif content == "text":
        path.write_text("hello")
    elif content == "foreign":
        save_file({"x": torch.zeros(1)}, path, metadata={"other": "program"})
    else:
        path.mkdir()
    for load in (read_header, lambda p: load_tensors(p, "kind")):
        with pytest.raises(ArtifactError, match=r"x\.safetensors") as caught:
            load(path)
        one_line(caught.value)
    assert not trap.exists()


@pytest.mark.parametrize("text", ["", "1", "null", "[]", "{}", '"format"', '{"format": "x"}', "{"])
def test_a_header_that_is_not_ours_is_refused(tmp_path, text):
    path = tmp_path / "x.safetensors"
    save_file({"x": torch.zeros(1)}, path, metadata={artifacts.KEY: text})
    for load in (read_header, lambda p: is_current(p, RECIPE), lambda p: load_tensors(p, "kind")):
        with pytest.raises(ArtifactError, match="not written by gvbsm"):
            load(path)


@pytest.mark.parametrize("missing", ["class_names", "mean", "std"])
def test_a_header_that_lacks_an_entry_is_refused(tmp_path, missing):
    path = write_images(tmp_path)
    found, header = load_tensors(path, "images")
    save(path, found, {key: value for key, value in header.items() if key != missing})
    with pytest.raises(ArtifactError):
        load_distilled(tmp_path)


def test_a_newer_format_names_both_sides(tmp_path):
    path = write(tmp_path / "x.safetensors", format=artifacts.FORMAT + 1, version="9.8")
    for load in (read_header, lambda p: is_current(p, RECIPE), lambda p: load_tensors(p, "kind")):
        with pytest.raises(ArtifactError, match=r"format 2 of gvbsm 9\.8.*up to format 1: upgrade"):
            load(path)


def test_another_kind_names_both_sides(tmp_path):
    path = write(tmp_path / "x.safetensors", kind="teacher")
    with pytest.raises(ArtifactError, match="holds 'teacher', expected 'images'"):
        load_tensors(path, "images")


@pytest.mark.parametrize("text", ["{}", '{"epochs": 1}', "[]", "nonsense", '{"epochs": "many"}'])
def test_a_damaged_label_index_is_named(tmp_path, text):
    (tmp_path / "index.json").write_text(text)
    with pytest.raises(ArtifactError, match=r"index\.json"):
        load_labels(tmp_path)
