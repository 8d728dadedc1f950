"""Difficulty groups in whole runs: starts, statistics and images, by one process and by two."""

import json

import pytest
import torch

from gvbsm.config.build import as_config
from gvbsm.data.loading import plain_batches
from gvbsm.files.tensors import load_tensors
from gvbsm.method.beyond.difficulty_groups import group_numbers
from gvbsm.pipeline import run as pipeline
from gvbsm.store.distilled import load_distilled
from support.launch import torchrun
from support.toy import direct_statistics
from support.workdirs import digests, quick_settings, write_arrays

SYNTHESIS = {
    "synthesis.init": "group_back",
    "synthesis.difficulty_groups": True,
    "synthesis.loop": "original",
    "synthesis.iterations": 3,
    "synthesis.batch_size": 2,
    "synthesis.views": {"crop": "none", "flip": False, "roll": 0},
}
WORK = """
import json, sys
from pathlib import Path
from gvbsm.config.build import as_config
from gvbsm.pipeline.run import Run
run = Run(as_config(json.loads(sys.argv[1])), Path(sys.argv[2]), quiet=True)
with run.at_work():
    run.squeeze(); run.statistics(); run.synthesis()
"""


def settings_of(root):
    return quick_settings({"name": "npz", "root": str(root)}, baselines={"methods": []})


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return write_arrays(tmp_path_factory.mktemp("data") / "toy.npz")


def made(settings, workdir):
    run = pipeline.Run(as_config(settings), workdir, quiet=True)
    with run.at_work():
        run.squeeze()
        run.statistics()
        run.synthesis()
    return run


@pytest.fixture(scope="module")
def whole(root, tmp_path_factory):
    settings = settings_of(root) | SYNTHESIS
    return made(settings, tmp_path_factory.mktemp("one") / "run"), settings


def test_groups__statistics_are_those_of_the_pictures_of_each_group(whole):
    run, _ = whole
    values = load_tensors(run.workspace.difficulty, "difficulty")[0]["difficulty"]
    numbers = group_numbers(values, run.data.train.labels, (2,) * 4)
    assert numbers.bincount().tolist() == [60, 60]
    ((shown, _),) = plain_batches(run.data, run.data.train, 120, run.runtime, 0)
    for name in run.config.squeeze.backbones:
        tensors, _ = load_tensors(run.workspace.statistics(name), "statistics")
        for group in range(2):
            own = direct_statistics(run.teachers[name], shown[numbers == group], 4)
            for path, (mean, variance, *_) in own.items():
                for key, expected in (("mean", mean), ("variance", variance)):
                    found = tensors[f"{path}/group_channel/{key}"][group]
                    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("end", ["front", "back"])
def test_starts__are_the_ends_of_the_images_groups(end, whole, root, tmp_path):
    """Without steps of any size the images are the start; classes have other numbers of images."""
    changes = {
        "synthesis.init": f"group_{end}",
        "synthesis.iterations": 1,
        "synthesis.optimizer.lr": 1e-9,
        "ipc_of": {"b": 5},
    }
    run = made(settings_of(root) | changes, tmp_path / "w")
    values, same = (
        load_tensors(one.workspace.difficulty, "difficulty")[0]["difficulty"]
        for one in (run, whole[0])
    )
    assert torch.equal(values, same)
    expected = []
    for label, count in enumerate((2, 5, 2, 2)):
        members = (run.data.train.labels == label).nonzero().flatten()
        ordered = members[values[members].argsort(stable=True)]
        groups = torch.tensor_split(ordered, count)
        expected += [group[0 if end == "front" else -1] for group in groups]
    assert torch.equal(
        load_distilled(tmp_path / "w").images, run.data.train.images[torch.stack(expected)]
    )


def test_starts__of_more_images_than_pictures_use_them_again(root, tmp_path):
    """A class of 30 pictures with 33 images, of which three are squares of pictures once more."""
    changes = {
        "synthesis.init": "group_back",
        "synthesis.iterations": 1,
        "synthesis.optimizer.lr": 1e-9,
        "ipc_of": {"b": 33},
    }
    run = made(settings_of(root) | changes, tmp_path / "w")
    images = load_distilled(tmp_path / "w").images[2:35]
    own = run.data.train.images[run.data.train.labels == 1]
    same = (images[:, None] == own[None]).flatten(2).all(dim=2)
    assert int(same.any(dim=1).sum()) >= 30
    assert bool(same.any(dim=0).all())


def test_two_processes__make_the_same_bytes_as_one(whole, tmp_path):
    run, settings = whole
    script, workdir = tmp_path / "work.py", tmp_path / "run"
    script.write_text(WORK)
    done = torchrun(2, script, json.dumps(settings), workdir)
    assert done.returncode == 0, done.stderr
    ours, theirs = digests(workdir), digests(run.workdir)
    assert ours == theirs
    assert "difficulty.safetensors" in ours
