"""The paper's loop: views -> a teacher (GBM) -> CE + matching (GSM) + DD -> a step of the pixels.

Groups of images that are stacked go through one forward pass together. The teacher and the dropped
layers of an iteration are the same for all groups, the views a group's own, so that what a group
becomes does not depend on what it is stacked with.
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
from gvbsm.method.matching import Averages, SeenLevel, Teacher, empty_averages, matching_loss

TERMS = ("cross_entropy", "batchnorm", "conv", "densification")


@dataclass
class State:
    """All that an iteration changes: with it, a stopped synthesis goes on to the same end.

    Attributes:
        images: The pixels, normalized float (groups * batch, channels, height, width), a leaf.
        bounds: Least and largest valid pixel of each channel; the images never leave them.
        solver: The optimizer of the pixels.
        averages: The EMA of each teacher's statistics, by its name.
        copies: What extras keep of the images, of the same shape, by name.
        step: Iterations done.
    """

    images: Tensor
    bounds: tuple[Tensor, Tensor]
    solver: torch.optim.Optimizer
    averages: dict[str, Averages]
    copies: dict[str, Tensor] = field(default_factory=dict)
    step: int = 0

    def change_images(self, change: Callable[[Tensor], Tensor]) -> None:
        """Put `change(pixels)` in place of the images and of their copies."""
        self.copies = {name: change(pixels) for name, pixels in self.copies.items()}
        self.set_images(change(self.images.detach()))

    def set_images(self, images: Tensor) -> None:
        """Optimize other pixels from now on; the optimizer's moments stay."""
        self.images = images.requires_grad_()
        self.solver.param_groups[0]["params"] = [self.images]


class Extra:
    """What a later paper adds to an iteration; all that it does not override changes nothing.

    Attributes:
        name: Of the extra, and of its term.
        weight: Weight of its term in the loss.
        per_image: Whether `adjust` needs the sums of each image, and is called at all.
    """

    name: str = ""
    weight: float = 0.0
    per_image: bool = False

    def before(self, state: State, teachers: Sequence[Teacher]) -> Sequence[Teacher]:
        """Called as an iteration begins; returns the teachers that it draws from."""
        return teachers

    def adjust(self, state: State, teacher: Teacher, seen: SeenLevel, distances: Tensor) -> Tensor:
        """Change the distances of a level's layers, float64 (groups, layers)."""
        return distances

    def term(self, state: State, views: Views, teacher: Teacher, logits: Tensor) -> Tensor | None:
        """A further term of the loss, float (groups * batch,), if there is one."""
        return None

    def after(self, state: State) -> None:
        """Called after the pixels' step."""


@dataclass(frozen=True)
class Terms:
    """The terms of an iteration's loss, unweighted (groups,), and the teacher's new EMA.

    Attributes:
        teacher: Name of the teacher.
        extra: Terms of extras, by name.
        changed: The teacher's EMA after this iteration.
    """

    teacher: str
    cross_entropy: Tensor
    batchnorm: Tensor
    conv: Tensor
    densification: Tensor
    changed: Averages
    extra: dict[str, Tensor] = field(default_factory=dict)
    weights: dict[str, float] = field(default_factory=dict)

    def loss(self, config: SynthesisConfig) -> Tensor:
        """The weighted sum that is minimized, for each group: (groups,)."""
        total = (
            config.weight_cross_entropy * self.cross_entropy
            + config.weight_batchnorm * self.batchnorm
            + config.weight_conv * self.conv
            + config.weight_densification * self.densification
        )
        for name, term in self.extra.items():
            total = total + self.weights[name] * term
        return total

    def values(self) -> dict[str, list[float]]:
        """Each group's values, by term."""
        groups = len(self.cross_entropy)
        terms = {name: getattr(self, name) for name in TERMS} | self.extra
        return {name: term.detach().expand(groups).tolist() for name, term in terms.items()}


class Step(NamedTuple):
    """An iteration that is done.

    Attributes:
        number: The iteration, from 0.
        teacher: Name of the teacher that was drawn.
        loss: The loss of each group before the step, (groups,).
        terms: Each group's values, by term; of measured iterations alone.
        densification_gradient: Norm of L_DD's gradient at the images of each group, which tells
            whether DD acts; of measured iterations alone.
    """

    number: int
    teacher: str
    loss: Tensor
    terms: dict[str, list[float]]
    densification_gradient: list[float]


class DivergedError(ArithmeticError):
    """The loss, (groups,), of a measured iteration is not finite, with the teacher drawn there."""

    def __init__(self, step: int, teacher: str, loss: Tensor) -> None:
        super().__init__(f"the loss is not finite at iteration {step}")
        self.step, self.teacher, self.loss = step, teacher, loss


def step_draws(
    runtime: Runtime, numbers: Sequence[int], step: int
) -> tuple[Generator, list[Generator]]:
    """The generator that all groups of an iteration share, and one of each group's own.

    A group's own is the same whatever it is stacked with.
    """
    own = [runtime.generator("synthesis", step, number) for number in numbers]
    return runtime.generator("synthesis", step), own


def begin_synthesis(
    images: Tensor,
    bounds: tuple[Tensor, Tensor],
    stack: Stack,
    teachers: Sequence[Teacher],
    config: SynthesisConfig,
) -> State:
    """The state before the first iteration.

    Args:
        images: Where the pixels start, normalized float (groups * batch, channels, height, width).
        bounds: Least and largest valid pixel of each channel, (channels, 1, 1) each.
        stack: The groups that the images are of.
        teachers: The teachers.
        config: The settings.
    """
    pixels = images.detach().clone().requires_grad_()
    low, high = (bound.to(pixels.device) for bound in bounds)
    solver = make_optimizer(config.optimizer, [pixels], config.optimizer.lr)
    averages = {
        each.name: empty_averages(each, stack.groups, config.ema_start) for each in teachers
    }
    return State(pixels, (low, high), solver, averages, step=stack.begin)


def synthesize(
    state: State,
    stack: Stack,
    teachers: Sequence[Teacher],
    config: SynthesisConfig,
    runtime: Runtime,
    extras: Sequence[Extra] = (),
    measured: Collection[int] = (),
) -> Iterator[Step]:
    """Optimize the pixels of stacked groups (Eq. 2 with the losses of Eq. 5, 6 and 10).

    Yields after every iteration, when `state` holds all that is needed to go on: whoever iterates
    may log, film, save or stop.

    Args:
        state: Where the work begins or goes on; changed in place.
        stack: The groups.
        teachers: The teachers.
        config: The settings.
        runtime: Device, precision, seed.
        extras: What later papers add.
        measured: Iterations whose terms are read and whose loss is checked.

    Raises:
        DivergedError: If a measured loss is not finite; `state` is that before the iteration.
        torch.linalg.LinAlgError: If the pixels are not finite (from L_DD).
    """
    while state.step < config.iterations:
        drawn_from = teachers
        for extra in extras:
            drawn_from = extra.before(state, drawn_from)
        factor = schedule(config.optimizer, state.step, config.iterations)
        set_lr(state.solver, config.optimizer.lr * factor)
        terms = step_terms(state, stack, drawn_from, config, runtime, extras)
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
        yield Step(state.step - 1, terms.teacher, loss.detach(), values, gradient)


def step_terms(
    state: State,
    stack: Stack,
    teachers: Sequence[Teacher],
    config: SynthesisConfig,
    runtime: Runtime,
    extras: Sequence[Extra] = (),
) -> Terms:
    """The loss's terms of one iteration: views -> a teacher (GBM) -> CE, matching (GSM), DD.

    For the arguments see `synthesize`; `state` is left as it is.
    """
    images, groups = state.images, stack.groups
    shared, own = step_draws(runtime, stack.numbers, state.step)
    views = _sample_views(stack, images, config, own)
    seen = apply_views(images, views)
    teacher = teachers[choose_teacher(len(teachers), state.step, config.backbone_order, shared)]
    drops = torch.rand(len(teacher.conv), generator=shared).tolist()
    kept = [path for path, drop in zip(teacher.conv, drops, strict=True) if drop >= config.beta_dr]
    adjusting = [extra for extra in extras if extra.per_image]
    with runtime.autocast():
        logits, sums = teacher.observe(
            seen, {*teacher.batchnorm, *kept}, len(seen) if adjusting else groups
        )

    def adjust(level: SeenLevel, distances: Tensor) -> Tensor:
        for extra in adjusting:
            distances = extra.adjust(state, teacher, level, distances)
        return distances

    batchnorm, conv, changed = matching_loss(
        sums,
        teacher,
        state.averages[teacher.name],
        stack.batch,
        config.alpha,
        adjust if adjusting else None,
    )
    densification = images.new_zeros(groups)
    if config.weight_densification:
        densification = densify(seen, stack.classes, groups, config.tau, config.densification)
    cross_entropy = F.cross_entropy(logits.float(), stack.labels, reduction="none")
    terms = {extra.name: extra.term(state, views, teacher, logits) for extra in extras}
    return Terms(
        teacher.name,
        _by_group(cross_entropy, groups),
        batchnorm,
        conv,
        densification,
        changed,
        {name: _by_group(term, groups) for name, term in terms.items() if term is not None},
        {extra.name: extra.weight for extra in extras},
    )


def choose_teacher(
    count: int, step: int, order: Literal["uniform", "round_robin"], generator: Generator
) -> int:
    """Index of the teacher of this iteration (GBM, Eq. 7); the authors' code takes turns."""
    drawn = int(torch.randint(count, (), generator=generator))
    return drawn if order == "uniform" else step % count


def descend(loss: Tensor, terms: Terms, state: State) -> None:
    """Step down the loss's gradient and back into the range of valid pixels; take the new EMA."""
    state.solver.zero_grad(set_to_none=True)
    loss.sum().backward()  # type: ignore[no-untyped-call]
    state.solver.step()
    with torch.no_grad():
        state.images.copy_(state.images.maximum(state.bounds[0]).minimum(state.bounds[1]))
    state.averages[terms.teacher] |= terms.changed


def _sample_views(
    stack: Stack, images: Tensor, config: SynthesisConfig, generators: Sequence[Generator]
) -> Views:
    height, width = images.shape[2:]
    of_groups = [
        sample_views(stack.batch, height, width, generator, config.views)
        for generator in generators
    ]
    return Views(*map(torch.cat, zip(*of_groups, strict=True)))


def _by_group(values: Tensor, groups: int) -> Tensor:
    """Mean over the images of each group: (groups * batch,) -> (groups,)."""
    return values.view(groups, -1).mean(dim=1)


def _gradient_norms(term: Tensor, images: Tensor, groups: int) -> list[float]:
    """Norm of a term's gradient at the images of each group; 0 where it is a constant."""
    if not term.requires_grad:  # off, or one image of each class
        return [0.0] * groups
    (gradient,) = torch.autograd.grad(term.sum(), images, retain_graph=True)
    norms: list[float] = torch.linalg.vector_norm(gradient.view(groups, -1), dim=1).tolist()
    return norms
