"""Checkpoints: half-done work that a stopped run goes on from."""

import pytest
import torch

from gvbsm.files import checkpoint
from gvbsm.files.artifacts import ArtifactError, write_json
from gvbsm.files.checkpoint import Checkpoint, remove_finished
from gvbsm.files.manifest import claim
from gvbsm.files.tensors import save
from support.artifact_files import RECIPE, leftovers, tensors


def test_a_checkpoint_belongs_to_its_recipe(tmp_path):
    path = tmp_path / "x.safetensors"
    checkpoint = Checkpoint(path, RECIPE, 60)
    assert checkpoint.load() is None
    checkpoint.save(tensors(), {"step": 3, "losses": [0.5]})
    assert leftovers(tmp_path) == ["x.partial.safetensors"]
    found, state = Checkpoint(path, dict(RECIPE), 60).load()
    assert state == {"step": 3, "losses": [0.5]}
    assert all(torch.equal(found[name], tensor) for name, tensor in tensors().items())
    assert Checkpoint(path, {**RECIPE, "seed": 1}, 60).load() is None
    checkpoint.save({"x": torch.ones(1)}, {"step": 4})
    assert checkpoint.load()[1] == {"step": 4}
    checkpoint.clear()
    checkpoint.clear()
    assert checkpoint.load() is None
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize("name", ["x.safetensors", "x.partial.safetensors", "x.json"])
def test_what_cannot_be_written_is_known_before_the_work(name, tmp_path):
    claim(tmp_path)
    (tmp_path / name).write_bytes(b"of the user")
    artifact = name.replace(".partial", "")
    with pytest.raises(ArtifactError, match=f"{name} is in the way"):
        Checkpoint(tmp_path / artifact, RECIPE, 60)


def test_a_checkpoint_of_results_in_json_has_its_own_name(tmp_path):
    Checkpoint(tmp_path / "gvbsm-resnet18-0.json", RECIPE, 0).save({}, {"step": 1})
    assert leftovers(tmp_path) == ["gvbsm-resnet18-0.json.partial.safetensors"]


@pytest.mark.parametrize(
    "name", ["squeeze/x.safetensors", "baselines/random-0/evaluation/x-0.json"]
)
def test_checkpoints_of_finished_artifacts_are_removed(name, tmp_path):
    claim(tmp_path)
    path = tmp_path / name
    write = {
        ".json": lambda recipe: write_json(path, {"recipe": recipe}),
        ".safetensors": lambda recipe: save(path, tensors(), {"kind": "x", "recipe": recipe}),
    }[path.suffix]
    path.parent.mkdir(parents=True)
    Checkpoint(path, RECIPE, 0).save({}, {"step": 1})
    remove_finished(tmp_path)  # there is no artifact yet
    write({**RECIPE, "seed": 1})
    remove_finished(tmp_path)  # the artifact is an older one, which will be replaced
    assert Checkpoint(path, RECIPE, 0).load()[1] == {"step": 1}
    write(RECIPE)
    remove_finished(tmp_path)
    assert [found.name for found in path.parent.iterdir()] == [path.name]


def test_a_damaged_checkpoint_stays_for_those_who_need_it(tmp_path):
    path = tmp_path / "x.partial.safetensors"
    path.write_bytes(b"?")
    remove_finished(tmp_path)
    assert path.is_file()


def test_a_checkpoint_is_due_now_and_then(tmp_path, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(checkpoint.time, "monotonic", lambda: now[0])
    minutely = Checkpoint(tmp_path / "x.safetensors", RECIPE, 60)
    assert not minutely.due()
    now[0] = 159.9
    assert not minutely.due()
    now[0] = 160.0
    assert minutely.due()
    minutely.save({}, {"step": 1})
    assert not minutely.due()
    assert Checkpoint(tmp_path / "y.safetensors", RECIPE, 0).due()


def test_a_checkpoint_that_was_exchanged_is_refused_before_the_work(tmp_path):
    claim(tmp_path)
    Checkpoint(tmp_path / "x.safetensors", RECIPE, 0).save({}, {"step": 1})
    Checkpoint(tmp_path / "x.safetensors", RECIPE, 0)
    path = tmp_path / "x.partial.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    with pytest.raises(ArtifactError, match=r"x\.partial\.safetensors is in the way.*move it away"):
        Checkpoint(tmp_path / "x.safetensors", RECIPE, 0)
