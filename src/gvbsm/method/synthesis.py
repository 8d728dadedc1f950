"""One step of synthesis: views, a teacher (GBM), the loss's terms, and the pixels' descent.

Groups of images that are stacked go through one forward pass together. The teacher and the dropped
layers of a step are the same for all groups, the views a group's own, so that what a group becomes
does not depend on what it is stacked with.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from gvbsm.config import SynthesisConfig
from gvbsm.data.views import Views, apply_views, sample_views
from gvbsm.engine.device import Runtime
from gvbsm.method.capture import Observer
from gvbsm.method.losses import Block, class_blocks, densify, flatness
from gvbsm.method.matching import Average, Members, State, Target, find_members, matching_loss


def choose_teacher(
    count: int, step: int, order: Literal["uniform", "round_robin"], generator: Generator
) -> int:
    """Index of the teacher of this step (GBM, Eq. 7); the authors' code takes turns."""
    drawn = int(torch.randint(count, (), generator=generator))
    return drawn if order == "uniform" else step % count


@dataclass(frozen=True)
class Stack:
    """Groups of equal size that share each forward and backward pass.

    Attributes:
        numbers: The groups' numbers, to which their random draws belong.
        labels: Classes of the images, group after group, int64 (groups * batch,).
        blocks: The images of each class, for L_DD.
        members: The classes in each group, for their statistics.
        begin: The iteration at which their images begin.
    """

    numbers: tuple[int, ...]
    labels: Tensor
    blocks: list[Block]
    members: Members
    begin: int = 0

    @property
    def batch(self) -> int:
        """Images in a group."""
        return len(self.labels) // len(self.numbers)


def make_stack(
    numbers: Sequence[int], labels: Tensor, device: torch.device, begin: int = 0
) -> Stack:
    """Stack groups whose images have these classes, int64 (groups * batch,) on the CPU.

    All begin at the same iteration.
    """
    blocks = [
        Block(*(part.to(device) for part in block)) for block in class_blocks(labels, len(numbers))
    ]
    members = Members(*(part.to(device) for part in find_members(labels, len(numbers))))
    return Stack(tuple(numbers), labels.to(device), blocks, members, begin)


TERMS = ("cross_entropy", "batchnorm", "conv", "densification")


@dataclass(frozen=True)
class Terms:
    """The terms of one step's loss, unweighted (groups,), and the EMA's changed entries.

    `flatness` is None where the images have no EMA copy.
    """

    teacher: str
    cross_entropy: Tensor
    batchnorm: Tensor
    conv: Tensor
    densification: Tensor
    changed: State
    flatness: Tensor | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """The terms there are."""
        return TERMS if self.flatness is None else (*TERMS, "flatness")

    def loss(self, config: SynthesisConfig) -> Tensor:
        """The weighted sum that is minimised, for each group: (groups,)."""
        total = (
            config.weight_cross_entropy * self.cross_entropy
            + config.weight_batchnorm * self.batchnorm
            + config.weight_conv * self.conv
            + config.weight_densification * self.densification
        )
        return total if self.flatness is None else total + config.weight_flatness * self.flatness

    def read(self, images: Tensor) -> list[dict[str, Any]]:
        """Each group's values for its trace.

        The norm of L_DD's gradient at the images tells whether DD acts.
        """
        groups = len(self.cross_entropy)
        norms = [0.0] * groups
        if self.densification.requires_grad:  # off, or one image of each class, it is a constant
            (gradient,) = torch.autograd.grad(self.densification.sum(), images, retain_graph=True)
            norms = torch.linalg.vector_norm(gradient.view(groups, -1), dim=1).tolist()
        columns = {
            name: getattr(self, name).detach().expand(groups).tolist() for name in self.names
        }
        return [
            {
                "teacher": self.teacher,
                **{name: values[group] for name, values in columns.items()},
                "densification_gradient": norms[group],
            }
            for group in range(groups)
        ]


@dataclass(frozen=True)
class Draws:
    """Sources of one step's randomness: one that all groups share, and one for each group."""

    shared: Generator
    groups: list[Generator]


def step_draws(runtime: Runtime, numbers: Sequence[int], step: int) -> Draws:
    """The generators of a step; a group's own is the same whatever it is stacked with."""
    return Draws(
        runtime.generator("synthesis", step),
        [runtime.generator("synthesis", step, number) for number in numbers],
    )


def _sample_views(stack: Stack, images: Tensor, config: SynthesisConfig, draws: Draws) -> Views:
    _, _, height, width = images.shape
    drawn = [
        sample_views(stack.batch, height, width, generator, config.views)
        for generator in draws.groups
    ]
    return Views(*(torch.cat(parts) for parts in zip(*drawn, strict=True)))


def step_terms(
    images: Tensor,
    stack: Stack,
    targets: Sequence[Target],
    observers: Mapping[str, Observer],
    state: Mapping[str, Average],
    config: SynthesisConfig,
    step: int,
    draws: Draws,
    runtime: Runtime,
    average: Tensor | None = None,
) -> Terms:
    """The loss's terms of one step: views -> a teacher (GBM) -> CE, matching (GSM), DD.

    Args:
        images: Normalized pixels with gradient, (groups * batch, channels, height, width).
        stack: The groups that the images are of.
        targets: The teachers.
        observers: One for each of them.
        state: The EMA so far.
        config: The stage's settings.
        step: The iteration, for backbones in turns.
        draws: This step's randomness.
        runtime: Device and precision.
        average: An EMA copy of the images, if their logits are to stay near its own.
    """
    groups = len(stack.numbers)
    views = _sample_views(stack, images, config, draws)
    seen = apply_views(images, views)
    target = targets[choose_teacher(len(targets), step, config.backbone_order, draws.shared)]
    drops = torch.rand(len(target.conv), generator=draws.shared).tolist()
    kept = [path for path, drop in zip(target.conv, drops, strict=True) if drop >= config.beta_dr]
    with runtime.autocast():
        logits, sums = observers[target.name](
            seen, {*target.batchnorm, *kept}, len(seen) if config.weight_class else groups
        )
    members = stack.members if config.weight_class else None
    batchnorm, conv, changed = matching_loss(
        sums, target, state, stack.batch, config.alpha, members, config.weight_class
    )
    densification = images.new_zeros(groups)
    if config.weight_densification:
        densification = densify(seen, stack.blocks, groups, config.tau, config.densification)
    cross_entropy = F.cross_entropy(logits.float(), stack.labels, reduction="none")
    cross_entropy = cross_entropy.view(groups, -1).mean(dim=1)
    flat = None
    if average is not None:
        with torch.no_grad(), runtime.autocast():
            past = target.model(apply_views(average, views))
        flat = flatness(logits.float(), past.float(), config.flatness_tau)
        flat = flat.view(groups, -1).mean(dim=1)
    return Terms(target.name, cross_entropy, batchnorm, conv, densification, changed, flat)


def descend(
    terms: Terms,
    images: Tensor,
    solver: torch.optim.Optimizer,
    bounds: tuple[Tensor, Tensor],
    state: State,
    config: SynthesisConfig,
) -> None:
    """Step down the loss's gradient and back into the range of valid pixels; `state` is updated."""
    solver.zero_grad(set_to_none=True)
    terms.loss(config).sum().backward()  # type: ignore[no-untyped-call]
    solver.step()
    with torch.no_grad():
        images.copy_(images.maximum(bounds[0]).minimum(bounds[1]))
    state |= terms.changed
