"""Shared by the tests of loops and stages: a toy set of four classes, and two teachers of it."""

import copy
import itertools
import logging
import os
import site
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from hypothesis import settings
from PIL import Image
from torch import nn

from gvbsm.backbones import build_backbone
from gvbsm.data.datasets import ImageData
from gvbsm.data.pictures import Split
from gvbsm.data.pixels import Normalization
from gvbsm.engine.device import Runtime
from gvbsm.files.checkpoint import Checkpoint
from gvbsm.method.matching import make_teacher
from gvbsm.method.moments import Moments
from gvbsm.method.statistics import Statistics
from support.toy import (
    CLASSES,
    CONVNET,
    IMAGE,
    N_P,
    WRN,
    direct_statistics,
    drawn_split,
    of_classes,
)

settings.register_profile("untimed", deadline=None)  # a busy machine must not fail a test
settings.load_profile("untimed")


@pytest.fixture(autouse=True, scope="session")
def _home(tmp_path_factory):
    """A home of the session's own: measurements of a busy machine must not reach the user's cache.

    Packages of the user's own home stay: the commands that tests start import them too.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONUSERBASE", os.environ.get("PYTHONUSERBASE") or site.getuserbase())
        patch.setenv("HOME", str(tmp_path_factory.mktemp("home")))
        yield


@pytest.fixture(autouse=True, scope="session")
def _one_thread():
    """Tensors are tiny here: on a busy machine threads that wait for each other cost 18-fold."""
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _log_as_before():
    """Commands set the level of the log, and add a handler; a test must not do so for the next."""
    log = logging.getLogger("gvbsm")
    level, handlers, propagates = log.level, [*log.handlers], log.propagate
    yield
    log.setLevel(level)
    log.handlers[:], log.propagate = handlers, propagates


@pytest.fixture(scope="session")
def data():
    """40 training and 16 test pictures, uint8 of 3 x 8 x 8, in memory."""
    train, test = drawn_split(10, seed=2), drawn_split(4, seed=3)
    pixels = train.images.double() / 255
    mean, std = pixels.mean(dim=(0, 2, 3)).tolist(), pixels.std(dim=(0, 2, 3)).tolist()
    normalization = Normalization(tuple(mean), tuple(std))
    return ImageData("toy", CLASSES, 3, 8, train, test, normalization, "toy")


@pytest.fixture
def streamed(data, tmp_path):
    """The same pictures as PNG files."""

    def on_disk(split, name):
        paths = [tmp_path / f"{name}-{index}.png" for index in range(len(split))]
        for path, picture in zip(paths, split.images, strict=True):
            Image.fromarray(picture.permute(1, 2, 0).numpy()).save(path)
        return Split(split.labels, paths=tuple(paths))

    return replace(data, train=on_disk(data.train, "train"), test=on_disk(data.test, "test"))


@pytest.fixture(scope="session")
def runtime():
    """The CPU in float32, without bars and, as no test takes an hour, without checkpoints."""
    return Runtime(torch.device("cpu"), "fp32", seed=7, checkpoint_seconds=3600, quiet=True)


@pytest.fixture
def checkpoint_every(monkeypatch):
    """Call it with n to have a checkpoint fall due at every n-th chance, whatever the clock."""

    def set_interval(n):
        chances = itertools.count(1)
        monkeypatch.setattr(Checkpoint, "due", lambda _: next(chances) % n == 0)

    return set_interval


@pytest.fixture(scope="session")
def _trained(data):
    pictures, models = data.normalization.normalize(data.train.images), {}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for name in (CONVNET, WRN):
            model = build_backbone(name, len(CLASSES), 8)
            solver = torch.optim.Adam(model.parameters(), lr=0.01)
            for _ in range(25):
                solver.zero_grad()
                F.cross_entropy(model(pictures), data.train.labels).backward()
                solver.step()
            models[name] = model.eval().requires_grad_(False)
    for model in models.values():
        model.zero_grad(set_to_none=True)
    return models


@pytest.fixture
def teachers(_trained) -> dict[str, nn.Module]:
    """Name -> teacher in eval mode, trained by a plain loop; a test's own copies."""
    return copy.deepcopy(_trained)


@pytest.fixture
def statistics(teachers, data):
    """Name -> module path -> [CM, CV, PM, PV] of the real pictures."""
    pictures = data.normalization.normalize(data.train.images)
    return {name: direct_statistics(model, pictures, N_P) for name, model in teachers.items()}


@pytest.fixture
def targets_for(teachers, statistics, data):
    """Call it with the settings of synthesis for what is matched through the teachers."""

    def made(config, names=(CONVNET, WRN)):
        targets = []
        for name in names:
            found = statistics[name].items()
            channel = {path: Moments(*values[:2]) for path, values in found}
            patch = {path: Moments(*values[2:]) for path, values in found}
            both = Statistics(channel, patch) if config.weight_conv else None
            if config.weight_class:
                both = Statistics(channel, patch, *of_classes(teachers[name], data, N_P))
            targets.append(make_teacher(name, teachers[name], both, config, N_P, IMAGE))
        return targets

    return made
