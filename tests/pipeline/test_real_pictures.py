"""Real pictures that are kept to be shown; the picture itself is looked at in test_plots.py."""

import pytest
import torch

from gvbsm.config import Config
from gvbsm.engine.processes import ALONE
from gvbsm.pipeline.context import RunContext
from gvbsm.pipeline.selected_sets import sample_real
from gvbsm.pipeline.work_sharing import Teamwork
from gvbsm.store.distilled import load_images
from gvbsm.store.recipes import Recipes
from gvbsm.store.workdir import Workspace


def context_of(config, data, runtime, folder):
    team = Teamwork(Workspace(folder), ALONE)
    return RunContext(config, data, runtime, Recipes(config, "toy", "fp32"), None, team)


@pytest.mark.parametrize(("ipc", "kept"), [(1, 8), (9, 8)])  # the smallest class has 8
def test_real_pictures__are_kept_to_be_shown(ipc, kept, data, runtime, tmp_path):
    config = Config(ipc=ipc)
    keep = data.train.labels.ne(3) | (data.train.labels.eq(3).cumsum(0) <= 8)
    train = type(data.train)(data.train.labels[keep], data.train.images[keep])
    few = type(data)(**{**vars(data), "train": train})
    context = context_of(config, few, runtime, tmp_path)
    path = sample_real(context)
    assert path == tmp_path / "real.safetensors"
    real = load_images(path)
    assert real.header["method"] == "real"
    assert torch.equal(real.labels, torch.arange(4).repeat_interleave(kept))
    for image, label in zip(real.images[::7], real.labels[::7], strict=True):
        same = (train.images == image).flatten(1).all(dim=1)
        assert label in train.labels[same]
    before = path.stat().st_mtime_ns
    assert sample_real(context).stat().st_mtime_ns == before  # made once


@pytest.mark.parametrize(("ipc", "kept"), [(1, 10), (20, 20), (60, 50)])
def test_real_pictures__are_as_many_as_the_images_but_10_to_50(ipc, kept, data, runtime, tmp_path):
    labels, images = data.train.labels.repeat(6), data.train.images.repeat(6, 1, 1, 1)
    many = type(data)(**{**vars(data), "train": type(data.train)(labels, images)})
    config = Config(ipc=ipc)
    path = sample_real(context_of(config, many, runtime, tmp_path))
    assert len(load_images(path).labels) == 4 * kept
