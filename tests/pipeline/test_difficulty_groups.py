"""Difficulty groups in whole runs: starts and statistics (work_sharing has several processes)."""

import pytest
import torch

from gvbsm.config.build import as_config
from gvbsm.data.loading import plain_batches
from gvbsm.files.tensors import load_tensors
from gvbsm.method.beyond.difficulty_groups import group_numbers
from gvbsm.pipeline import run as pipeline
from gvbsm.pipeline.selection import start_of
from gvbsm.store.image_set import ImageSet
from support.toy import direct_statistics
from support.workdirs import quick_settings, write_arrays

SYNTHESIS = {
    "synthesis.init": "group_back",
    "synthesis.difficulty_groups": True,
    "synthesis.loop": "original",
    "synthesis.iterations": 3,
    "synthesis.batch_size": 2,
    "synthesis.views": {"crop": "none", "flip": False, "roll": 0},
}


def settings_of(root):
    return quick_settings({"name": "npz", "root": str(root)}, baselines={"methods": []})


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return write_arrays(tmp_path_factory.mktemp("data") / "toy.npz")


@pytest.fixture(scope="module")
def run(root, tmp_path_factory):
    """With teachers and statistics."""
    settings = settings_of(root) | SYNTHESIS
    run = pipeline.Run(as_config(settings), tmp_path_factory.mktemp("one") / "run", quiet=True)
    with run.at_work():
        run.squeeze()
        run.statistics()
    return run


def begun(run, init, **counts):
    """A run without groups in the same work directory, and what its images start from."""
    changes = {"synthesis.difficulty_groups": False, "synthesis.init": init, "ipc_of": counts}
    later = pipeline.Run(as_config(run.config, changes), run.workdir, quiet=True)
    return later, start_of(later.context, ImageSet(later.config, later.workdir))


def test_groups__statistics_are_those_of_the_pictures_of_each_group(run):
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
def test_starts__are_the_ends_of_the_images_groups(end, run):
    """The classes have other numbers of images; the difficulty is not measured again."""
    before = run.workspace.difficulty.stat()
    later, start = begun(run, f"group_{end}", b=5)
    assert run.workspace.difficulty.stat() == before
    values = load_tensors(later.workspace.difficulty, "difficulty")[0]["difficulty"]
    expected = []
    for label, count in enumerate((2, 5, 2, 2)):
        members = (run.data.train.labels == label).nonzero().flatten()
        ordered = members[values[members].argsort(stable=True)]
        groups = torch.tensor_split(ordered, count)
        expected += [group[0 if end == "front" else -1] for group in groups]
    shown = start.pixels(run.data, torch.arange(11))
    assert torch.equal(shown, run.data.train.images[torch.stack(expected)])


def test_starts__of_more_images_than_pictures_use_them_again(run):
    """A class of 30 pictures with 33 images, of which three are squares of pictures once more."""
    _, start = begun(run, "group_back", b=33)
    assert start.pictures[2:35, 0].bincount(minlength=60)[30:].sort().values.tolist() == (
        [1] * 27 + [2] * 3
    )
    assert int((start.boxes[2:35, 0, 2] == 0).sum()) == 30
