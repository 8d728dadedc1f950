"""The paper's loop: views -> a teacher (GBM) -> CE + matching (GSM) + DD -> a step of the pixels.

Stacked groups of images share each forward pass. In an iteration all groups have the same teacher
and dropped layers, and each draws its own views, so that a group's images do not depend on the
groups that it is stacked with.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from gvbsm.config import SynthesisConfig
from gvbsm.data.views import Views, apply_views, sample_views
from gvbsm.engine.device import Runtime
from gvbsm.engine.optimizers import make_optimizer, schedule, set_lr
from gvbsm.method.groups import Stack
from gvbsm.method.losses import densify
from gvbsm.method.matching import Averages, LevelSums, Teacher, empty_averages, matching_loss

TERMS = ("cross_entropy", "batchnorm", "conv", "densification")


@dataclass
class State:
    """Everything that an iteration changes: saved, it resumes a synthesis with the same result.

    Attributes:
        images: The pixels, normalized float (groups * batch, channels, height, width), a leaf.
        bounds: Least and largest valid pixel of each channel; the images never leave them.
        solver: The optimizer of the pixels.
        averages: The EMA of each teacher's statistics, by its name.
        copies: Tensors of the images' shape that extras keep, by name.
        step: Number of iterations done.
    """

    images: Tensor
    bounds: tuple[Tensor, Tensor]
    solver: torch.optim.Optimizer
    averages: dict[str, Averages]
    copies: dict[str, Tensor] = field(default_factory=dict)
    step: int = 0

    def change_images(self, change: Callable[[Tensor], Tensor]) -> None:
        """Replace the images and their copies by `change(pixels)`; see `set_images`."""
        self.copies = {name: change(pixels) for name, pixels in self.copies.items()}
        self.set_images(change(self.images.detach()))

    def set_images(self, images: Tensor) -> None:
        """Replace the pixels that are optimized; the optimizer's moments begin anew."""
        self.images = images.requires_grad_()
        self.solver.param_groups[0]["params"] = [self.images]
        self.solver.state.clear()


class Extra:
    """What a later paper adds to an iteration; a method that is not overridden changes nothing.

    Attributes:
        name: Name of the extra and of its loss term.
        weight: Weight of its term in the loss.
        per_image: Whether `adjust` is called, which needs the sums of each image.
    """

    name: str = ""
    weight: float = 0.0
    per_image: bool = False

    def before(self, state: State, teachers: Sequence[Teacher]) -> Sequence[Teacher]:
        """Called when an iteration starts; returns the teachers to draw from."""
        return teachers

    def adjust(self, state: State, teacher: Teacher, sums: LevelSums, distances: Tensor) -> Tensor:
        """Change the distances of a level's layers, float64 (groups, layers)."""
        return distances

    def term(self, state: State, views: Views, teacher: Teacher, logits: Tensor) -> Tensor | None:
        """Return a further term of the loss, float (groups * batch,), or None."""
        return None

    def after(self, state: State) -> None:
        """Called after the step of the pixels."""


@dataclass(frozen=True)
class LossTerms:
    """The terms of an iteration's loss, unweighted (groups,), and the teacher's new EMA.

    Attributes:
        teacher: Name of the teacher.
        extra: Terms of extras, by name.
        averages: The teacher's EMA after this iteration.
    """

    teacher: str
    cross_entropy: Tensor
    batchnorm: Tensor
    conv: Tensor
    densification: Tensor
    averages: Averages
    extra: dict[str, Tensor] = field(default_factory=dict)
    weights: dict[str, float] = field(default_factory=dict)

    def loss(self, config: SynthesisConfig) -> Tensor:
        """Return the weighted sum of each group, which is minimized: (groups,)."""
        total = (
            config.weight_cross_entropy * self.cross_entropy
            + config.weight_batchnorm * self.batchnorm
            + config.weight_conv * self.conv
            + config.weight_densification * self.densification
        )
        return sum((self.weights[name] * term for name, term in self.extra.items()), start=total)

    def values(self) -> dict[str, list[float]]:
        """Return each group's values, by term."""
        groups = len(self.cross_entropy)
        terms = {name: getattr(self, name) for name in TERMS} | self.extra
        return {name: term.detach().expand(groups).tolist() for name, term in terms.items()}


class Iteration(NamedTuple):
    """The outcome of one iteration.

    Attributes:
        number: The iteration, from 0.
        teacher: Name of the teacher that was drawn.
        loss: The loss of each group before the step, (groups,).
        terms: Each group's values, by term; of measured iterations only.
        densification_gradient: Norm of L_DD's gradient at the images of each group, 0 where L_DD
            has no effect; of measured iterations only.
    """

    number: int
    teacher: str
    loss: Tensor
    terms: dict[str, list[float]]
    densification_gradient: list[float]


class DivergedError(ArithmeticError):
    """The loss (groups,) of a measured iteration, whose teacher is named, is not finite."""

    def __init__(self, step: int, teacher: str, loss: Tensor) -> None:
        super().__init__(f"the loss is not finite at iteration {step}")
        self.step, self.teacher, self.loss = step, teacher, loss


def step_draws(
    runtime: Runtime, numbers: Sequence[int], step: int
) -> tuple[Generator, list[Generator]]:
    """Return the generator of an iteration, and a generator for each group.

    A group's generator does not depend on the groups that it is stacked with.
    """
    of_groups = [runtime.generator("synthesis", step, number) for number in numbers]
    return runtime.generator("synthesis", step), of_groups


def begin_synthesis(
    images: Tensor,
    bounds: tuple[Tensor, Tensor],
    stack: Stack,
    teachers: Sequence[Teacher],
    config: SynthesisConfig,
) -> State:
    """Return the state before the first iteration.

    Args:
        images: Initial pixels, normalized float (groups * batch, channels, height, width).
        bounds: Least and largest valid pixel of each channel, (channels, 1, 1) each.
        stack: The groups of the images.
        teachers: The teachers.
        config: The settings.
    """
    pixels = images.detach().clone().requires_grad_()
    low, high = (bound.to(pixels.device) for bound in bounds)
    solver = make_optimizer(config.optimizer, [pixels], config.optimizer.lr)
    averages = {t.name: empty_averages(t, stack.groups, config.ema_start) for t in teachers}
    return State(pixels, (low, high), solver, averages, step=stack.begin)


def synthesize(
    state: State,
    stack: Stack,
    teachers: Sequence[Teacher],
    config: SynthesisConfig,
    runtime: Runtime,
    extras: Sequence[Extra] = (),
    measured: Collection[int] = (),
) -> Iterator[Iteration]:
    """Optimize the pixels of stacked groups (Eq. 2 with the losses of Eq. 5, 6 and 10).

    Yields after every iteration. The caller may then log, save `state` to resume from it, or stop.

    Args:
        state: The state to start or resume from; changed in place.
        stack: The groups.
        teachers: The teachers.
        config: The settings.
        runtime: Device, precision, seed.
        extras: What later papers add.
        measured: Iterations whose terms are returned and whose loss is checked.

    Raises:
        DivergedError: If a measured loss is not finite; `state` is that before the iteration.
        torch.linalg.LinAlgError: If the pixels are not finite (from L_DD).
    """
    while state.step < config.iterations:
        candidates = teachers
        for extra in extras:
            candidates = extra.before(state, candidates)
        factor = schedule(config.optimizer, state.step, config.iterations)
        set_lr(state.solver, config.optimizer.lr * factor)
        terms = step_terms(state, stack, candidates, config, runtime, extras)
        loss = terms.loss(config)
        values, gradient = {}, []
        if state.step in measured:
            if not bool(torch.isfinite(loss.detach()).all()):
                raise DivergedError(state.step, terms.teacher, loss.detach())
            values = terms.values()
            gradient = _gradient_norms(terms.densification, state.images, stack.groups)
        descend(loss, terms, state)
        for extra in extras:
            extra.after(state)
        state.step += 1
        yield Iteration(state.step - 1, terms.teacher, loss.detach(), values, gradient)


def step_terms(
    state: State,
    stack: Stack,
    teachers: Sequence[Teacher],
    config: SynthesisConfig,
    runtime: Runtime,
    extras: Sequence[Extra] = (),
) -> LossTerms:
    """Compute the loss terms of an iteration: views -> a teacher (GBM) -> CE, matching (GSM), DD.

    For the arguments see `synthesize`; `state` is not changed.
    """
    images, groups = state.images, stack.groups
    shared, of_groups = step_draws(runtime, stack.numbers, state.step)
    views = _sample_views(stack, images, config, of_groups)
    pictures = apply_views(images, views)
    teacher = teachers[choose_teacher(len(teachers), state.step, config.backbone_order, shared)]
    drops = torch.rand(len(teacher.conv), generator=shared).tolist()
    kept = [path for path, drop in zip(teacher.conv, drops, strict=True) if drop >= config.beta_dr]
    adjusting = [extra for extra in extras if extra.per_image]
    with runtime.of(teacher.name, "pixels").autocast():
        logits, sums = teacher.observe(
            pictures, {*teacher.batchnorm, *kept}, len(pictures) if adjusting else groups
        )

    def adjust(level_sums: LevelSums, distances: Tensor) -> Tensor:
        for extra in adjusting:
            distances = extra.adjust(state, teacher, level_sums, distances)
        return distances

    batchnorm, conv, averages = matching_loss(
        sums,
        teacher,
        state.averages[teacher.name],
        stack.batch,
        config.alpha,
        adjust if adjusting else None,
    )
    densification = images.new_zeros(groups)
    if config.weight_densification:
        densification = densify(pictures, stack.classes, groups, config.tau, config.densification)
    cross_entropy = F.cross_entropy(logits.float(), stack.labels, reduction="none")
    terms = {extra.name: extra.term(state, views, teacher, logits) for extra in extras}
    return LossTerms(
        teacher.name,
        _by_group(cross_entropy, groups),
        batchnorm,
        conv,
        densification,
        averages,
        {name: _by_group(term, groups) for name, term in terms.items() if term is not None},
        {extra.name: extra.weight for extra in extras},
    )


def choose_teacher(
    count: int, step: int, order: Literal["uniform", "round_robin"], generator: Generator
) -> int:
    """Draw the index of an iteration's teacher (GBM, Eq. 7); the authors' code is round-robin."""
    drawn = int(torch.randint(count, (), generator=generator))
    return drawn if order == "uniform" else step % count


def descend(loss: Tensor, terms: LossTerms, state: State) -> None:
    """Take a gradient step, clamp the pixels to their bounds, and keep the new EMA."""
    state.solver.zero_grad(set_to_none=True)
    loss.sum().backward()  # type: ignore[no-untyped-call]
    state.solver.step()
    with torch.no_grad():
        state.images.copy_(state.images.maximum(state.bounds[0]).minimum(state.bounds[1]))
    state.averages[terms.teacher] |= terms.averages


def _sample_views(
    stack: Stack, images: Tensor, config: SynthesisConfig, generators: Sequence[Generator]
) -> Views:
    height, width = images.shape[2:]
    by_group = [
        sample_views(stack.batch, height, width, generator, config.views)
        for generator in generators
    ]
    return Views(*map(torch.cat, zip(*by_group, strict=True)))


def _by_group(values: Tensor, groups: int) -> Tensor:
    """Mean over the images of each group: (groups * batch,) -> (groups,)."""
    return values.view(groups, -1).mean(dim=1)


def _gradient_norms(term: Tensor, images: Tensor, groups: int) -> list[float]:
    """Norm of a term's gradient at the images of each group; 0 if the term is constant."""
    if not term.requires_grad:  # off, or one image of each class
        return [0.0] * groups
    (gradient,) = torch.autograd.grad(term.sum(), images, retain_graph=True)
    norms: list[float] = torch.linalg.vector_norm(gradient.view(groups, -1), dim=1).tolist()
    return norms
