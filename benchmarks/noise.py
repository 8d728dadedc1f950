"""Pictures of noise and networks with random weights: they cost what real ones do."""

from __future__ import annotations

import sys
from dataclasses import replace
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gvbsm.backbones import build_backbone
from gvbsm.config import SynthesisConfig
from gvbsm.data.datasets import ImageData
from gvbsm.data.pictures import Split
from gvbsm.data.pixels import Normalization
from gvbsm.engine.device import Runtime
from gvbsm.engine.seeds import seeded
from gvbsm.method.beyond.class_matching import ClassMatching, class_moments
from gvbsm.method.capture import HookedObserver
from gvbsm.method.fast.compiled import CompiledObserver
from gvbsm.method.groups import make_stack
from gvbsm.method.layers import input_shapes, matched_layers
from gvbsm.method.matching import make_teacher
from gvbsm.method.moments import Moments, Sums, counts, finalize
from gvbsm.method.statistics import Statistics
from gvbsm.method.synthesis import begin_synthesis, synthesize
from timing import Work

N_P = 4  # side of a patch in pixels


def noise_data(count: int, classes: int = 10, size: int = 32) -> ImageData:
    """Pictures of noise in memory; few to test on."""
    generator = torch.Generator().manual_seed(0)

    def split(pictures: int) -> Split:
        shape = (pictures, 3, size, size)
        pixels = torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)
        return Split(torch.arange(pictures) % classes, pixels)

    names = tuple(map(str, range(classes)))
    half = Normalization((0.5,) * 3, (0.5,) * 3)
    return ImageData("noise", names, 3, size, split(count), split(classes), half, "noise")


def network(name: str, runtime: Runtime, classes: int = 10, size: int = 32) -> nn.Module:
    """A network with random weights, the same each time, on the device."""
    with seeded(0, "benchmark", name):
        model = build_backbone(name, classes, size)
    return runtime.place(model)


def teacher(name: str, runtime: Runtime, classes: int = 10, size: int = 32) -> nn.Module:
    """A network in eval mode without gradients of its parameters."""
    return network(name, runtime, classes, size).eval().requires_grad_(False)


def noise_statistics(
    model: nn.Module, classes: int, size: int, by_class: bool, n_p: int = N_P
) -> Statistics:
    """Statistics of two pictures of noise, the same for all classes.

    The cost of a step does not depend on their values.
    """
    channel: dict[str, Moments] = {}
    patch: dict[str, Moments] = {}
    layers, shape = matched_layers(model), (3, size, size)
    shapes = input_shapes(model, {*layers.conv, *layers.batchnorm}, shape)
    observer = HookedObserver(model, shapes, n_p, exact=True)
    pictures = torch.randn(2, *shape).to(next(model.parameters()).device)
    with torch.no_grad():
        _, layer_sums = observer(pictures, shapes)
    for path, layer in layer_sums.items():
        per_picture = counts(shapes[path], n_p)
        for table, sums, count in zip((channel, patch), layer, per_picture, strict=True):
            table[path] = finalize(Sums(2 * count.to(sums.device), sums[0, 0], sums[1, 0]))
    if not by_class:
        return Statistics(channel, patch)
    return Statistics(channel, patch, _repeat(channel, classes), _repeat(patch, classes))


def _repeat(table: dict[str, Moments], classes: int) -> dict[str, Moments]:
    """Repeat moments (n,) for each class: (classes, n)."""
    return {
        path: Moments(*(values.expand(classes, *values.shape) for values in moments))
        for path, moments in table.items()
    }


class Synthesis:
    """The bare step and the complete step of one network on `groups` batches of images.

    Args:
        name: Name of the network.
        config: Settings of the synthesis; no layer is dropped.
        runtime: Device and precision.
        classes: Number of classes.
        size: Side of the images in pixels.
        groups: Batches that share a pass.
        n_p: Side of a patch in pixels.
    """

    def __init__(
        self,
        name: str,
        config: SynthesisConfig,
        runtime: Runtime,
        classes: int = 10,
        size: int = 32,
        groups: int = 1,
        n_p: int = N_P,
    ) -> None:
        self.config = replace(config, beta_dr=0.0)
        self.runtime, self.classes = runtime, classes
        self.size, self.n_p = size, n_p
        self.model = teacher(name, runtime, classes, size)
        ipc = max(1, config.batch_size // classes)
        labels = (torch.arange(config.batch_size) // ipc % classes).repeat(groups)
        self.stack = make_stack(range(groups), labels, runtime.device)
        start = torch.randn(len(labels), 3, size, size)
        self.images: Tensor = start.to(runtime.device).requires_grad_()

    def bare(self) -> None:
        """Forward, cross-entropy, backward to the input."""
        with self.runtime.autocast():
            logits = self.model(self.images)
        F.cross_entropy(logits.float(), self.stack.labels).backward()
        self.images.grad = None

    def full(self, compiled: bool) -> Work:
        """Return the complete iteration; a compiled network is compiled in its first call."""
        shape, settings = (3, self.size, self.size), replace(self.config, iterations=sys.maxsize)
        by_class = bool(self.config.weight_class)
        statistics = noise_statistics(self.model, self.classes, self.size, by_class, self.n_p)
        target = make_teacher("noise", self.model, statistics, settings, self.n_p, shape)
        if compiled:
            paths = {*target.batchnorm, *target.conv}
            target = replace(target, observe=CompiledObserver(self.model, paths, self.n_p))
        bounds = Normalization((0.0,) * 3, (1.0,) * 3).bounds()
        state = begin_synthesis(self.images, bounds, self.stack, [target], settings)
        self.images = state.images  # the bare step takes those that are optimized
        extras = []
        if by_class:
            moments = {"noise": class_moments(target, statistics)}
            extras.append(ClassMatching(settings, self.stack.classes, moments))
        steps = synthesize(state, self.stack, [target], settings, self.runtime, extras)
        return partial(next, steps)
