"""Shared by the tests of loops and stages: a toy set of four classes, and two teachers of it."""

import copy
import itertools
from contextlib import ExitStack
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

import reference
from gvbsm.backbones import build_backbone
from gvbsm.checkpoint import Checkpoint
from gvbsm.datasets import ImageData
from gvbsm.moments import Moments
from gvbsm.pictures import Split, normalize
from gvbsm.runtime import Runtime
from gvbsm.targets import Statistics, make_target

CLASSES = ("ant", "bee", "cat", "dog")
CONVNET, WRN = "convnet8_d1", "wrn10_1"  # without BatchNorm and with; one convolution and nine
N_P = 3  # side of a patch; the last one of 8, 4 and 2 pixels is partial
IMAGE = (3, 8, 8)  # channels and size of a picture
FIRST = {CONVNET: "block1.conv", WRN: "stem"}  # the layers that see the picture


class StoppedError(Exception):
    """Stands for Ctrl-C, or for a crash in the middle of the work."""


def stop_after(calls, *models):
    """Let the models answer `calls` times in all, and stop the work at the next question.

    One picture alone is no work but a first look at a network (`observing`), and is not counted.

    Returns the hooks, as a context manager that takes them away.
    """
    left = itertools.count(calls, -1)

    def stop(_module, arguments):
        if len(arguments[0]) > 1 and next(left) <= 0:
            raise StoppedError

    hooks = ExitStack()
    for model in models:
        hooks.enter_context(model.register_forward_pre_hook(stop))
    return hooks


def captured(model, x):
    """Logits and the input of every BatchNorm and convolution, by hooks of our own."""
    inputs, hooks = {}, []
    for path, module in model.named_modules():
        if isinstance(module, (nn.BatchNorm2d, nn.Conv2d)):

            def keep(_module, arguments, path=path):
                inputs[path] = arguments[0]

            hooks.append(module.register_forward_pre_hook(keep))
    logits = model(x)
    for hook in hooks:
        hook.remove()
    return logits, inputs


def direct_statistics(model, pictures, n_p):
    """Module path of each convolution -> [CM, CV, PM, PV] of all pictures, by the slow twin."""
    return {
        path: reference.conv_moments(x.double(), n_p)
        for path, x in captured(model, pictures)[1].items()
        if isinstance(model.get_submodule(path), nn.Conv2d)
    }


def class_statistics(model, pictures, labels, n_p):
    """Class -> module path -> statistics of its pictures, of BatchNorm layers [CM, CV] alone."""
    found = {}
    for label in sorted(set(labels.tolist())):
        found[label] = {}
        for path, x in captured(model, pictures[labels == label])[1].items():
            conv = isinstance(model.get_submodule(path), nn.Conv2d)
            moments = reference.conv_moments(x.double(), n_p) if conv else None
            found[label][path] = moments or reference.channel_moments(x.double())
    return found


def of_classes(model, data, n_p):
    """The two tables of `Statistics` that are by class."""
    pictures = normalize(data.train.images, data.mean, data.std)
    by_class = class_statistics(model, pictures, data.train.labels, n_p)
    channel, patch = {}, {}
    for path, values in by_class[0].items():
        rows = [
            torch.stack(part) for part in zip(*(by_class[c][path] for c in by_class), strict=True)
        ]
        channel[path] = Moments(*rows[:2])
        if len(values) == 4:
            patch[path] = Moments(*rows[2:])
    return channel, patch


def slow_matching(target, inputs, real, kept, history, config, first=None):
    """L'_BN (Eq. 6) and L'_Conv (Eq. 10) of one group of images, by the slow twin.

    Args:
        target: The teacher.
        inputs: Module path -> what the layer saw of the group's images.
        real: Module path -> four statistics of the real data.
        kept: Paths of the convolutions that are not dropped.
        history: mu_total by layer, "PATH bn" or "PATH conv"; is updated.
        config: The settings of synthesis.
        first: Path of the layer with extra weight; None is the one that sees the picture.
    """
    first = FIRST[target.name] if first is None else first

    def eq_6(key, found, wanted):
        if key not in history and config.ema_start == "zero":
            history[key] = [torch.zeros_like(part) for part in found]
        past = history.get(key, [part.detach() for part in found])  # the first batch is the start
        history[key] = reference.update_totals(past, found, config.alpha)
        return reference.sds_matching(found, wanted, history[key])

    def weight(path):
        return config.first_layer_multiplier if path == first else 1

    batchnorm = conv = torch.zeros((), dtype=torch.float64)
    for path, module in target.model.named_modules():
        if isinstance(module, nn.BatchNorm2d) and config.weight_batchnorm:
            wanted = [module.running_mean, module.running_var]
            found = reference.channel_moments(inputs[path])
            batchnorm = batchnorm + weight(path) * eq_6(f"{path} bn", found, wanted)
    for path in kept:
        found = reference.conv_moments(inputs[path], N_P)
        conv = conv + weight(path) * eq_6(f"{path} conv", found, real[path])
    return batchnorm, conv


def drawn_split(per_class, seed):
    """Four scenes of coloured noise; every picture is its class's scene and noise of its own."""
    scenes = 60 + 130 * torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    labels = torch.arange(4 * per_class) % 4
    noise = torch.randn(len(labels), 3, 8, 8, generator=torch.Generator().manual_seed(seed))
    return Split(labels, (scenes[labels] + 40 * noise).round().clamp(0, 255).to(torch.uint8))


@pytest.fixture(autouse=True, scope="session")
def _one_thread():
    """Tensors are tiny here: on a busy machine threads that wait for each other cost 18-fold."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def data():
    """40 training and 16 test pictures, uint8 of 3 x 8 x 8, in memory."""
    train, test = drawn_split(10, seed=2), drawn_split(4, seed=3)
    pixels = train.images.double() / 255
    mean, std = pixels.mean(dim=(0, 2, 3)).tolist(), pixels.std(dim=(0, 2, 3)).tolist()
    return ImageData("toy", CLASSES, 3, 8, train, test, tuple(mean), tuple(std), "toy")


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
    pictures, models = normalize(data.train.images, data.mean, data.std), {}
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
    pictures = normalize(data.train.images, data.mean, data.std)
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
            targets.append(make_target(name, teachers[name], both, config, N_P, IMAGE))
        return targets

    return made
