"""A toy set of four classes, two teachers of it, and their statistics by the slow reference."""

import itertools
from contextlib import ExitStack

import torch
from torch import nn

from gvbsm.backbones import build_backbone
from gvbsm.data.pictures import Split
from gvbsm.method.moments import Moments
from support import reference

CLASSES = ("ant", "bee", "cat", "dog")


CONVNET, WRN = "convnet8_d1", "wrn10_1"  # without BatchNorm and with; one convolution and nine


N_P = 3  # side of a patch; the last one of 8, 4 and 2 pixels is partial


IMAGE = (3, 8, 8)  # channels and size of a picture


FIRST = {CONVNET: "block1.conv", WRN: "stem"}  # the layers that see the picture


class StoppedError(Exception):
    """Stands for Ctrl-C, or for a crash in the middle of the work."""


def stop_after(calls, *models):
    """Let the models answer `calls` times in all, and stop the work at the next question.

    One picture alone is no work but a first look at a network (`input_shapes`), and is not counted.

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


def keep_built(monkeypatch, module, *, calls=None):
    """The networks that a module builds from now on; each stops at its `calls`-th question."""
    built = []

    def build(*arguments, **options):
        built.append(build_backbone(*arguments, **options))
        if calls is not None:
            stop_after(calls, built[-1])
        return built[-1]

    monkeypatch.setattr(module, "build_backbone", build)
    return built


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


def of_classes(model, data, n_p, numbers=None):
    """The two tables of `Statistics` that are by class, or by other numbers of the pictures."""
    pictures = data.normalization.normalize(data.train.images)
    numbers = data.train.labels if numbers is None else numbers
    by_class = class_statistics(model, pictures, numbers, n_p)
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


def slow_part_matching(target, inputs, wanted, kept, history, config):
    """L'_BN and L'_Conv of images that have an EMA of their own, against recorded statistics.

    Args:
        target: The teacher.
        inputs: Module path -> what the layer saw of the images.
        wanted: Module path -> statistics of a class or a difficulty group of real pictures.
        kept: Paths of the convolutions that are not dropped.
        history: mu_total by layer; is updated.
        config: The settings of synthesis.
    """
    batchnorm = conv = torch.zeros((), dtype=torch.float64)
    for path, x in inputs.items():
        is_conv = isinstance(target.model.get_submodule(path), nn.Conv2d)
        if path not in (kept if is_conv else target.batchnorm):
            continue
        found = reference.conv_moments(x, N_P) if is_conv else reference.channel_moments(x)
        past = history.get(path, [part.detach() for part in found])
        history[path] = reference.update_totals(past, found, config.alpha)
        term = reference.sds_matching(found, wanted[path], history[path])
        if path == FIRST[target.name]:
            term = term * config.first_layer_multiplier
        batchnorm, conv = (batchnorm, conv + term) if is_conv else (batchnorm + term, conv)
    return batchnorm, conv


def checked_gradient(ours, images, slow, twin):
    """The gradient of two losses of two groups by the images, once it is the slow twin's.

    Each of the four losses has a weight of its own, so that one in the place of another is seen.
    """
    weights = torch.tensor([[1.0, 2.0], [3.0, 5.0]], dtype=torch.float64)
    (gradient,) = torch.autograd.grad((weights * ours).sum(), images)
    (wanted,) = torch.autograd.grad((weights * slow).sum(), twin)
    largest = float(wanted.abs().max())
    torch.testing.assert_close(gradient, wanted, rtol=1e-7, atol=1e-9 * largest)
    return gradient


def drawn_split(per_class, seed):
    """Four scenes of coloured noise; every picture is its class's scene and noise of its own."""
    scenes = 60 + 130 * torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    labels = torch.arange(4 * per_class) % 4
    noise = torch.randn(len(labels), 3, 8, 8, generator=torch.Generator().manual_seed(seed))
    return Split(labels, (scenes[labels] + 40 * noise).round().clamp(0, 255).to(torch.uint8))
