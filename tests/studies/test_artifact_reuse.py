"""Artefacts that several work directories share."""

import shutil

import pytest
import torch

from gvbsm.files.artifacts import read_json, write_json
from gvbsm.files.tensors import save
from gvbsm.pipeline.artifacts import Artifact
from gvbsm.store.workdir import Workspace
from gvbsm.studies import artifact_reuse as sharing
from gvbsm.studies.artifact_reuse import Library, exists

TEACHER = {"stage": "squeeze", "backbone": "convnet8_d1"}
IMAGES = {"stage": "synthesis", "ipc": 2}
LABELS = {"stage": "labels", "epochs": 3}
STUDENT = {"stage": "evaluation", "student": "convnet8_d1"}


def needed(directory):
    """What a run in `directory` needs."""
    return [
        Artifact(
            None, directory / "squeeze/convnet8_d1.safetensors", TEACHER, "squeeze/convnet8_d1"
        ),
        Artifact(None, directory / "synthesis/images.safetensors", IMAGES, "synthesis/gvbsm"),
        Artifact(None, directory / "labels/index.json", LABELS, "labels/gvbsm"),
        Artifact(None, directory / "evaluation/gvbsm-0.json", STUDENT, "evaluation/gvbsm/0"),
    ]


def tensor_file(path, recipe, value):
    save(path, {"x": torch.full((2,), float(value))}, {"kind": "toy", "recipe": recipe})


def fill(directory, value=1):
    """Make all of it, and unfinished work beside."""
    for _, path, recipe, _ in needed(directory):
        if path.suffix == ".json":
            write_json(path, {"recipe": recipe, "value": value})
        else:
            tensor_file(path, recipe, value)
    tensor_file(directory / "synthesis/film.safetensors", IMAGES, value)
    for shard in range(2):
        tensor_file(directory / f"labels/shard-0000{shard}.safetensors", LABELS, value)
    for unfinished in ("group-00000.safetensors", "group-00001.partial.safetensors"):
        tensor_file(directory / "synthesis" / unfinished, IMAGES, value)
    tensor_file(directory / "squeeze/wrn10_1.partial.safetensors", {"stage": "half"}, value)
    write_json(directory / "seconds.json", {"synthesis/gvbsm": 12.5, "labels/gvbsm": None})


@pytest.fixture
def first(tmp_path):
    fill(tmp_path / "first")
    return tmp_path / "first"


def files(directory):
    return {str(path.relative_to(directory)): path for path in directory.rglob("*.*")}


def test_lend__links_what_is_the_same_and_nothing_unfinished(first, tmp_path):
    second = tmp_path / "second"
    assert Library(tmp_path).link(Workspace(second), needed(second)) == 4
    there = files(second)
    assert set(there) == {
        "squeeze/convnet8_d1.safetensors",
        "synthesis/images.safetensors",
        "synthesis/film.safetensors",
        "labels/index.json",
        "labels/shard-00000.safetensors",
        "labels/shard-00001.safetensors",
        "evaluation/gvbsm-0.json",
        "seconds.json",
    }
    for name in set(there) - {"seconds.json"}:
        assert there[name].samefile(first / name)
    assert Workspace(second).seconds() == {"synthesis/gvbsm": 12.5}


def test_lend__again_does_nothing(first, tmp_path):
    second = tmp_path / "second"
    library = Library(tmp_path)
    library.link(Workspace(second), needed(second))
    assert library.link(Workspace(second), needed(second)) == 0
    assert library.link(Workspace(first), needed(first)) == 0


def test_lend__only_by_recipe(first, tmp_path):
    second = tmp_path / "second"
    other = [item._replace(recipe={**item.recipe, "seed": 1}) for item in needed(second)]
    assert Library(tmp_path).link(Workspace(second), other) == 0
    assert not second.exists()


def test_lend__replaces_what_is_out_of_date_and_leaves_the_owner_s_file(first, tmp_path):
    second = tmp_path / "second"
    fill(second, value=2)
    for path in (second / "squeeze/convnet8_d1.safetensors", second / "labels/index.json"):
        path.unlink()
    tensor_file(second / "squeeze/convnet8_d1.safetensors", {"stage": "old"}, 2)
    tensor_file(second / "labels/shard-00002.safetensors", {"stage": "old"}, 2)
    before = {name: path.read_bytes() for name, path in files(first).items()}
    library = Library(tmp_path)
    assert library.link(Workspace(second), needed(second)) == 2  # the others are current
    assert not (second / "labels/shard-00002.safetensors").exists()
    assert (second / "squeeze/convnet8_d1.safetensors").samefile(
        first / "squeeze/convnet8_d1.safetensors"
    )
    tensor_file(second / "squeeze/convnet8_d1.safetensors", {"stage": "new"}, 3)
    assert {name: path.read_bytes() for name, path in files(first).items()} == before


def test_lend__copies_where_there_are_no_links(first, tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError("no hard links here")

    monkeypatch.setattr(sharing.os, "link", refuse)
    second = tmp_path / "second"
    assert Library(tmp_path).link(Workspace(second), needed(second)) == 4
    for _, path, _, _ in needed(second):
        source = first / path.relative_to(second)
        assert path.read_bytes() == source.read_bytes()
        assert not path.samefile(source)
    assert not list((second / "labels").glob(".*"))


def test_library__leaves_out_what_is_damaged_or_gone(first, tmp_path):
    (first / "squeeze/convnet8_d1.safetensors").write_bytes(b"no tensors")
    write_json(first / "evaluation/gvbsm-0.json", {"value": 1})
    library = Library(tmp_path)
    shutil.rmtree(first / "synthesis")
    second = tmp_path / "second"
    assert library.link(Workspace(second), needed(second)) == 1
    assert read_json(second / "labels/index.json")["recipe"] == LABELS


def test_library__has_the_students_of_all_pictures(tmp_path):
    recipe, name = {"stage": "full", "student": "convnet8_d1"}, "baselines/full/convnet8_d1-0.json"
    write_json(tmp_path / "first" / name, {"recipe": recipe})
    second = tmp_path / "second"
    student = Artifact(None, second / name, recipe, "full/convnet8_d1/0")
    assert Library(tmp_path).link(Workspace(second), [student]) == 1
    assert exists(student)


def test_add__offers_what_is_there_by_now(tmp_path):
    library = Library(tmp_path)
    fill(tmp_path / "first")
    second = tmp_path / "second"
    assert library.link(Workspace(second), needed(second)) == 0
    library.add(
        [*needed(tmp_path / "first"), Artifact(None, tmp_path / "none.json", {"x": 1}, "x")]
    )
    assert library.link(Workspace(second), needed(second)) == 4


def test_labels_are_lent_once_all_their_shards_are_there(first, tmp_path):
    index, shard = first / "labels/index.json", first / "labels/shard-00001.safetensors"
    files = ["shard-00000.safetensors", shard.name]
    write_json(index, {**read_json(index), "files": files})
    content = shard.read_bytes()
    shard.unlink()
    second = tmp_path / "second"
    assert Library(tmp_path).link(Workspace(second), needed(second)) == 3
    assert not (second / "labels").exists()
    shard.write_bytes(content)
    assert Library(tmp_path).link(Workspace(second), needed(second)) == 1
    assert sorted(path.name for path in (second / "labels").iterdir()) == ["index.json", *files]
