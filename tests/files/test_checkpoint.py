"""Checkpoints: half-done work that a stopped run goes on from."""

import pytest
import torch

from gvbsm.files import checkpoint
from gvbsm.files.artifacts import ArtifactError
from gvbsm.files.checkpoint import Checkpoint
from gvbsm.files.manifest import claim
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


def test_a_checkpoint_of_results_in_json_has_its_own_name(tmp_path):
    Checkpoint(tmp_path / "gvbsm-resnet18-0.json", RECIPE, 0).save({}, {"step": 1})
    assert leftovers(tmp_path) == ["gvbsm-resnet18-0.json.partial.safetensors"]


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
