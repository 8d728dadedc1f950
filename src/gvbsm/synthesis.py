"""Synthesis: optimise pixels so that batch statistics match the real data's (DD, GBM, GSM).

Images are optimised in independent batches ("groups"): a group's images, EMA and random draws
depend on nothing outside of it, so groups may run in any order and be resumed alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn
from tqdm import tqdm

from gvbsm.artifacts import Checkpoint, Recipe, Statistics, is_current, load_tensors, save
from gvbsm.backbones import capture_inputs, matched_layers
from gvbsm.config import SynthesisConfig
from gvbsm.datasets import ImageData
from gvbsm.loading import view_arguments
from gvbsm.losses import densify, match
from gvbsm.moments import Moments, channel_moments, conv_moments, ema_moments
from gvbsm.pictures import denormalize, normalize, pixel_bounds
from gvbsm.runtime import Runtime, check_finite
from gvbsm.training import (
    make_optimizer,
    pack_optimizer,
    schedule,
    set_lr,
    unpack_optimizer,
    with_prefix,
    without_prefix,
)
from gvbsm.views import Views, apply_views, sample_views

State = dict[str, Moments]
"""EMA of each teacher's, layer's and level's moments: "TEACHER|LEVEL|MODULE PATH" -> moments."""


@dataclass(frozen=True)
class Target:
    """A teacher and the statistics that its layers are to see.

    Attributes:
        name: The teacher's name.
        model: The network in eval mode, parameters without gradients.
        batchnorm: Running moments of each BatchNorm (module path).
        channel: Channel moments of each convolution's input; empty if they are not matched.
        patch: Patch moments of each convolution's input, likewise.
    """

    name: str
    model: nn.Module
    batchnorm: dict[str, Moments]
    channel: dict[str, Moments]
    patch: dict[str, Moments]


def make_target(
    name: str, model: nn.Module, statistics: Statistics | None, config: SynthesisConfig
) -> Target:
    """Collect what is matched through one teacher; terms of weight 0 are left out.

    Args:
        name: The teacher's name.
        model: The teacher.
        statistics: Its convolutions' statistics; None if `config.weight_conv` is 0.
        config: The stage's settings.
    """
    batchnorm: dict[str, Moments] = {}
    if config.weight_batchnorm:
        for path, layer in matched_layers(model).batchnorm.items():
            # The running variance is the unbiased one, larger by n/(n-1): below 1.001 for n > 1000.
            mean, variance = layer.get_buffer("running_mean"), layer.get_buffer("running_var")
            batchnorm[path] = Moments(mean.double(), variance.double())
    channel: dict[str, Moments] = {}
    patch: dict[str, Moments] = {}
    if statistics is not None:
        device = next(model.parameters()).device
        for path in matched_layers(model).conv:  # the network's order; a file's is alphabetical
            channel[path] = Moments(*(part.to(device) for part in statistics.channel[path]))
            patch[path] = Moments(*(part.to(device) for part in statistics.patch[path]))
    return Target(name, model, batchnorm, channel, patch)


def group_indices(classes: int, ipc: int, batch_size: int, loop: str) -> list[Tensor]:
    """Cut the class-major images into groups, int64 (at most batch_size,) each.

    The reorder loop takes them in class order, so that a group holds several images of few classes;
    the original loop (SRe2L) takes the k-th image of every class before the next k (figure 4).
    """
    order = torch.arange(classes * ipc)
    if loop == "original":
        order = order.view(classes, ipc).T.flatten()
    return list(torch.split(order, batch_size))


def choose_teacher(
    count: int, step: int, order: Literal["uniform", "round_robin"], generator: Generator
) -> int:
    """Index of the teacher of this step (GBM, Eq. 7); the authors' code takes turns."""
    drawn = int(torch.randint(count, (), generator=generator))
    return drawn if order == "uniform" else step % count


def matching_loss(
    inputs: Mapping[str, Tensor],
    target: Target,
    state: Mapping[str, Moments],
    kept: Sequence[str],
    n_p: int,
    config: SynthesisConfig,
) -> tuple[Tensor, Tensor, State]:
    """L'_BN (Eq. 6) and L'_Conv (Eq. 10) through one teacher, and the new EMA.

    Args:
        inputs: What the matched layers saw, (batch, channels, height, width) by module path.
        target: The teacher and its global statistics.
        state: The EMA so far.
        kept: Convolutions whose matching is not dropped in this step.
        n_p: Side of a patch in pixels.
        config: The stage's settings.

    Returns:
        The two losses, unweighted, and the EMA's changed entries; a dropped layer keeps its own.
    """
    # The authors' code weighs the first hooked layer tenfold: the image's own statistics.
    first = next(iter(target.channel or target.batchnorm), None)
    changed: State = {}

    def blended(level: str, path: str, current: Moments) -> Moments:
        key = f"{target.name}|{level}|{path}"
        previous = state.get(key)
        if previous is None and config.ema_start == "zero":
            previous = Moments(*(torch.zeros_like(part) for part in current))
        blend = ema_moments(previous, current, config.alpha)
        changed[key] = Moments(*(part.detach() for part in blend))
        return blend

    device = next(target.model.parameters()).device
    batchnorm = conv = torch.zeros((), dtype=torch.float64, device=device)
    for path, wanted in target.batchnorm.items():
        factor = config.first_layer_multiplier if path == first else 1.0
        current = channel_moments(inputs[path])
        batchnorm = batchnorm + factor * match(blended("batchnorm", path, current), wanted)
    for path in kept:
        factor = config.first_layer_multiplier if path == first else 1.0
        channel, patch = conv_moments(inputs[path], n_p)
        conv = conv + factor * (
            match(blended("channel", path, channel), target.channel[path])
            + match(blended("patch", path, patch), target.patch[path])
        )
    return batchnorm, conv, changed


@dataclass(frozen=True)
class Terms:
    """The terms of one step's loss, unweighted scalars, and the EMA's changed entries."""

    teacher: str
    cross_entropy: Tensor
    batchnorm: Tensor
    conv: Tensor
    densification: Tensor
    changed: State

    def loss(self, config: SynthesisConfig) -> Tensor:
        """The weighted sum that is minimised."""
        return (
            config.weight_cross_entropy * self.cross_entropy
            + config.weight_batchnorm * self.batchnorm
            + config.weight_conv * self.conv
            + config.weight_densification * self.densification
        )

    def read(self, images: Tensor) -> dict[str, Any]:
        """Values for the trace; the norm of L_DD's gradient at the images tells whether DD acts."""
        norm = 0.0
        if self.densification.requires_grad:  # off, or one image of each class, it is a constant
            (gradient,) = torch.autograd.grad(self.densification, images, retain_graph=True)
            norm = float(torch.linalg.vector_norm(gradient))
        names = ("cross_entropy", "batchnorm", "conv", "densification")
        values = {name: float(getattr(self, name).detach()) for name in names}
        return {"teacher": self.teacher, **values, "densification_gradient": norm}


def step_terms(
    images: Tensor,
    labels: Tensor,
    targets: Sequence[Target],
    state: Mapping[str, Moments],
    config: SynthesisConfig,
    n_p: int,
    step: int,
    generator: Generator,
    runtime: Runtime,
) -> Terms:
    """The loss's terms of one step: views -> a teacher (GBM) -> CE, matching (GSM), DD.

    Args:
        images: Normalized pixels with gradient, (images, channels, height, width).
        labels: Their classes, int64 (images,).
        targets: The teachers.
        state: The EMA so far.
        config: The stage's settings.
        n_p: Side of a patch in pixels.
        step: The iteration, for backbones in turns.
        generator: Source of this step's randomness.
        runtime: Device and precision.
    """
    count, _, height, width = images.shape
    views = sample_views(count, height, width, generator, **view_arguments(config.views))
    seen = apply_views(images, Views(*(part.to(images.device) for part in views)))
    target = targets[choose_teacher(len(targets), step, config.backbone_order, generator)]
    draws = torch.rand(len(target.channel), generator=generator)
    kept = [
        path
        for path, draw in zip(target.channel, draws.tolist(), strict=True)
        if draw >= config.beta_dr
    ]
    with capture_inputs(target.model, {*target.batchnorm, *kept}) as inputs:
        with runtime.autocast():
            logits = target.model(seen)
        batchnorm, conv, changed = matching_loss(inputs, target, state, kept, n_p, config)
    densification = images.new_zeros(())
    if config.weight_densification:
        densification = densify(seen, labels, config.tau, config.densification)
    cross_entropy = F.cross_entropy(logits.float(), labels)
    return Terms(target.name, cross_entropy, batchnorm, conv, densification, changed)


def synthesize_group(
    group: int,
    labels: Tensor,
    initial: Tensor,
    targets: Sequence[Target],
    config: SynthesisConfig,
    n_p: int,
    normalization: tuple[Sequence[float], Sequence[float]],
    runtime: Runtime,
    checkpoint: Checkpoint,
    bar: tqdm[Any],
) -> tuple[Tensor, list[dict[str, Any]]]:
    """Optimise one group of images (Eq. 2 with the losses of Eq. 5, 6 and 10).

    Args:
        group: Its number, to which its random draws belong.
        labels: Classes of the images, int64 (images,).
        initial: Where the pixels start, normalized float (images, channels, height, width).
        targets: The teachers.
        config: The stage's settings.
        n_p: Side of a patch in pixels.
        normalization: Mean and deviation of the data.
        runtime: Device, precision, seed.
        checkpoint: Where half-done work is kept.
        bar: Progress, in iterations.

    Returns:
        uint8 images of the last iteration (images, channels, height, width), and the trace of the
        loss's terms.

    Raises:
        RunError: If the loss is no longer finite.
    """
    images = initial.to(runtime.device, copy=True).requires_grad_()
    labels = labels.to(runtime.device)
    solver = make_optimizer(config.optimizer, [images], config.optimizer.lr)
    low, high = (bound.to(runtime.device) for bound in pixel_bounds(*normalization))
    step, trace, state = _resume(images, solver, checkpoint, runtime)
    bar.update(step)
    while step < config.iterations:
        done = step / config.iterations
        set_lr(solver, config.optimizer.lr * schedule(config.optimizer.schedule, done))
        generator = runtime.generator("synthesis", group, step)
        terms = step_terms(images, labels, targets, state, config, n_p, step, generator, runtime)
        loss = terms.loss(config)
        if _is_logged(step, config.iterations):
            check_finite(loss, f"synthesis of batch {group}", "lower synthesis.optimizer.lr")
            trace.append({"step": step, **terms.read(images)})
            bar.set_postfix(loss=f"{float(loss.detach()):.3g}")
        solver.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        solver.step()
        with torch.no_grad():
            images.copy_(images.maximum(low).minimum(high))  # valid pixels
        state |= terms.changed
        step += 1
        bar.update()
        if step < config.iterations and checkpoint.due():
            checkpoint.save(_pack(images, solver, state), {"step": step, "trace": trace})
    return denormalize(images.detach(), *normalization).cpu(), trace


def _is_logged(step: int, iterations: int) -> bool:
    """About a hundred steps, and each of the first ten: DD acts in the first alone."""
    return step < 10 or step % max(1, iterations // 100) == 0 or step == iterations - 1


def _pack(images: Tensor, solver: torch.optim.Optimizer, state: State) -> dict[str, Tensor]:
    average = {
        f"{key}|{name}": value
        for key, moments in state.items()
        for name, value in moments._asdict().items()
    }
    return {
        "images": images,
        **with_prefix("optimizer", pack_optimizer(solver)),
        **with_prefix("ema", average),
    }


def _resume(
    images: Tensor, solver: torch.optim.Optimizer, checkpoint: Checkpoint, runtime: Runtime
) -> tuple[int, list[dict[str, Any]], State]:
    """Steps done, trace and EMA from the checkpoint, or fresh; fills images and optimiser."""
    if (found := checkpoint.load()) is None:
        return 0, [], {}
    tensors, saved = found
    with torch.no_grad():
        images.copy_(tensors["images"])
    unpack_optimizer(solver, without_prefix("optimizer", tensors))
    average = without_prefix("ema", tensors)
    keys = [name.removesuffix("|mean") for name in average if name.endswith("|mean")]
    state = {
        key: Moments(*(average[f"{key}|{name}"].to(runtime.device) for name in Moments._fields))
        for key in keys
    }
    return saved["step"], saved["trace"], state


def synthesize(
    classes: int,
    ipc: int,
    initial: Tensor | None,
    targets: Sequence[Target],
    config: SynthesisConfig,
    n_p: int,
    data: ImageData,
    runtime: Runtime,
    directory: Path,
    recipe: Recipe,
) -> tuple[Tensor, Tensor, list[list[dict[str, Any]]]]:
    """Optimise all groups; each is kept in a file of its own until all are done.

    Args:
        classes: Number of classes.
        ipc: Images per class.
        initial: uint8 images to start from, class-major (classes * ipc, channels, height, width);
            None starts from N(0, 1).
        targets: The teachers.
        config: The stage's settings.
        n_p: Side of a patch in pixels.
        data: The real data, for size, mean and deviation.
        runtime: Device, precision, seed, progress.
        directory: Where the groups' files go.
        recipe: What the images are made from.

    Returns:
        uint8 images (classes * ipc, channels, size, size), labels int64 (classes * ipc,), and each
        group's trace.

    Raises:
        RunError: If a loss is no longer finite.
    """
    labels = torch.arange(classes).repeat_interleave(ipc)
    shape = (data.channels, data.image_size, data.image_size)
    images = torch.empty(len(labels), *shape, dtype=torch.uint8)
    groups = group_indices(classes, ipc, config.batch_size, config.loop)
    traces = []
    with runtime.progress(len(groups) * config.iterations, "synthesis", "it") as bar:
        for group, index in enumerate(groups):
            path = directory / f"group-{group:05d}.safetensors"
            if is_current(path, recipe):
                tensors, header = load_tensors(path, "group")
                images[index] = tensors["images"]
                traces.append(header["trace"])
                bar.update(config.iterations)
                continue
            if initial is None:
                start = torch.randn(len(index), *shape, generator=runtime.generator("noise", group))
            else:
                start = normalize(initial[index], data.mean, data.std)
            checkpoint = Checkpoint(path, recipe, runtime.checkpoint_seconds)
            images[index], trace = synthesize_group(
                group, labels[index], start, targets, config, n_p, (data.mean, data.std),
                runtime, checkpoint, bar,
            )  # fmt: skip
            traces.append(trace)
            header = {"kind": "group", "recipe": recipe, "trace": trace}
            save(path, {"images": images[index]}, header)
            checkpoint.clear()
    return images, labels, traces
