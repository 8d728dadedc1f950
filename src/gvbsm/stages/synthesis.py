"""Synthesis: optimise pixels so that batch statistics match the real data's (DD, GBM, GSM).

Images are optimised in independent batches ("groups"): a group's images depend on nothing outside
of it. So groups may run in any order, be resumed alone, or be stacked and go through one forward
pass together: networks in eval mode keep the images of a batch apart.

Images may begin late (`synthesis.rounds`, DELT). All images of a group belong to one round, and it
is stacked with groups of its round alone. A late group enters the same loop at a later iteration:
draws, learning rate and stages are those of the iterations that it takes part in. So it still
depends on the seed and its number alone.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from gvbsm.config import SynthesisConfig
from gvbsm.data.datasets import ImageData
from gvbsm.data.pixels import Normalization
from gvbsm.data.views import resize
from gvbsm.engine.device import RunError, Runtime
from gvbsm.engine.optimizers import make_optimizer, schedule, set_lr
from gvbsm.files.artifacts import Recipe, is_current, save
from gvbsm.files.checkpoint import Checkpoint
from gvbsm.method.beyond.late_starts import late_begins, side_at, stage_begins
from gvbsm.method.capture import Observer, compile_observer, observing
from gvbsm.method.matching import Target, at_side, empty_state
from gvbsm.method.synthesis import TERMS, Stack, Terms, descend, make_stack, step_draws, step_terms
from gvbsm.stages.divergence import ADVICE, check_loss, check_pixels
from gvbsm.stages.group_files import Groups, Trace
from gvbsm.stages.selection.starts import Start
from gvbsm.stages.unfinished import Work
from gvbsm.store.film import frame_steps, is_filmed

log = logging.getLogger("gvbsm")

WORTH_COMPILING = 2e8  # pixels x iterations; a network of the paper compiles in about a minute
GPU_IMAGES = 1024  # images a launch on a GPU, unless told


def group_indices(
    classes: int, ipc: int, batch_size: int, loop: str, begins: Sequence[int] | None = None
) -> list[Tensor]:
    """Cut the class-major images into groups, int64 (at most batch_size,) each.

    The reorder loop takes them in class order, so that a group holds several images of few classes.
    The original loop (SRe2L) goes through the classes for each k, so that a group holds the k-th
    image of each of its classes and no other of them, and at most as many images as there are
    classes (figure 4).

    Args:
        classes: Number of classes.
        ipc: Images per class.
        batch_size: Most images in a group.
        loop: reorder or original.
        begins: The iteration at which a class's k-th image begins, (ipc,): a group holds images of
            one beginning, earlier ones come first. None lets all begin together.
    """
    table = torch.arange(classes * ipc).view(classes, ipc)
    rounds = [range(ipc)] if begins is None else [[*same] for _, same in itertools.groupby(begins)]
    groups: list[Tensor] = []
    for part in torch.split(table, [*map(len, rounds)], dim=1):
        passes = part.T if loop == "original" else part.reshape(1, -1)
        for images in passes:
            groups += torch.split(images, batch_size)
    return groups


def synthesize_stack(
    stack: Stack,
    initial: Tensor,
    targets: Sequence[Target],
    config: SynthesisConfig,
    observers: Mapping[str, Observer],
    normalization: Normalization,
    runtime: Runtime,
    checkpoint: Checkpoint,
    bar: tqdm[Any],
    filmed: Tensor,
) -> tuple[Tensor, list[Trace], Tensor]:
    """Optimise stacked groups of images (Eq. 2 with the losses of Eq. 5, 6 and 10).

    Args:
        stack: The groups.
        initial: Where the pixels start, normalized float (groups * batch, channels, height, width);
            real pictures of the data's side, or noise of the first stage's.
        targets: The teachers.
        config: The stage's settings.
        observers: One for each teacher.
        normalization: Mean and standard deviation of the data.
        runtime: Device, precision, seed.
        checkpoint: Where half-done work is kept.
        bar: Progress, in iterations of a group.
        filmed: Rows of the images that are filmed, int64 (filmed,).

    Returns:
        uint8 images of the last iteration (groups * batch, channels, height, width), each group's
        trace of the loss's terms, and the film, uint8 (filmed, frames, channels, height, width).

    Raises:
        RunError: If a group's loss is no longer finite.
    """
    side = config.stage_sizes[-1] if config.stage_sizes else initial.shape[-1]
    images = initial.to(runtime.device, copy=True)
    images = resize(images, side_at(config, stack.begin, side)).requires_grad_()
    solver = make_optimizer(config.optimizer, [images], config.optimizer.lr)
    low, high = (bound.to(runtime.device) for bound in normalization.bounds())
    filmed, frames = filmed.to(runtime.device), frame_steps(config.iterations)
    channels = initial.shape[1]
    film = images.new_zeros(len(filmed), len(frames), channels, side, side, dtype=torch.uint8)
    members = stack.members if config.weight_class else None
    state = empty_state(targets, len(stack.numbers), config.ema_start, members)
    average = images.detach().clone() if config.weight_flatness else None
    traces: list[Trace] = [[] for _ in stack.numbers]
    work = Work(images, solver, state, film, traces, average, stack.begin)
    work.resume(checkpoint)
    begins = stage_begins(config)
    others = {other for other in config.stage_sizes if other != side}
    matched = {other: [at_side(t, (channels, other, other)) for t in targets] for other in others}
    matched[side] = [*targets]
    bar.update((work.step - stack.begin) * len(stack.numbers))
    while (step := work.step) < config.iterations:
        if step in frames:
            now = resize(work.images.detach()[filmed], side)
            film[:, frames.index(step)] = normalization.denormalize(now, config.rounding)
        if step in begins:
            work.begin_stage(initial, config.residual, side_at(config, step, side))
        images, current = work.images, matched[work.images.shape[-1]]
        factor = schedule(config.optimizer, step, config.iterations)
        set_lr(solver, config.optimizer.lr * factor)
        draws = step_draws(runtime, stack.numbers, step)
        try:
            terms = step_terms(
                images, stack, current, observers, state, config, step, draws, runtime, work.average
            )
        except torch.linalg.LinAlgError as error:  # type: ignore[attr-defined]  # by L_DD
            check_pixels(step, images, stack)
            raise RunError(f"synthesis at iteration {step}: {error}; {ADVICE}") from None
        if _is_logged(step, stack.begin, config.iterations):
            loss = terms.loss(config)
            check_loss(step, terms.teacher, loss, images, stack, targets)
            _log(step, terms, loss, images, work.traces, bar)
            _tell(step, stack, work.traces, config, runtime)
        descend(terms, images, solver, (low, high), state, config)
        work.follow(config.flatness_decay)
        work.step += 1
        bar.update(len(stack.numbers))
        if work.step < config.iterations and checkpoint.due():
            check_pixels(work.step, images, stack)
            work.keep(checkpoint)
    check_pixels(work.step, work.images, stack)
    made = normalization.denormalize(work.images.detach(), config.rounding)
    film[:, -1] = made[filmed]
    return made.cpu(), work.traces, film.cpu()


def _is_logged(step: int, begin: int, iterations: int) -> bool:
    """About a hundred steps, and each of the first ten: DD acts in the first alone."""
    return step < begin + 10 or step % max(1, iterations // 100) == 0 or step == iterations - 1


def _log(
    step: int,
    terms: Terms,
    loss: Tensor,
    images: Tensor,
    traces: Sequence[Trace],
    bar: tqdm[Any],
) -> None:
    for trace, row in zip(traces, terms.read(images), strict=True):
        trace.append({"step": step, **row})
    bar.set_postfix(loss=f"{float(loss.detach().mean()):.3g}")


def _tell(
    step: int, stack: Stack, traces: Sequence[Trace], config: SynthesisConfig, runtime: Runtime
) -> None:
    """Log the groups' mean terms, at the iterations of all groups so far, skipped ones too."""
    if runtime.log is not None:
        rows = [trace[-1] for trace in traces]
        names = [name for name in (*TERMS, "flatness") if name in rows[0]]
        means = {name: fmean(row[name] for row in rows) for name in names}
        before = stack.numbers[0] * config.iterations
        runtime.log("synthesis", means, before + step * len(stack.numbers))


def synthesize(
    classes: int,
    ipc: int,
    initial: Start | None,
    targets: Sequence[Target],
    config: SynthesisConfig,
    n_p: int,
    data: ImageData,
    runtime: Runtime,
    directory: Path,
    recipe: Recipe,
) -> Groups:
    """Optimise all groups; each is kept in a file of its own, from which the set is put together.

    Several processes share the groups, whose content depends on nothing but their numbers.

    Args:
        classes: Number of classes.
        ipc: Images per class.
        initial: The real pictures, or crops of them, to start from; None starts from N(0, 1).
        targets: The teachers.
        config: The stage's settings.
        n_p: Side of a patch in pixels.
        data: The real data, for size, mean and deviation.
        runtime: Device, precision, seed, progress.
        directory: Where the groups' files go.
        recipe: What the images are made from.

    Returns:
        The groups, all of which are there for the first process; the others must leave their files
        to it.

    Raises:
        RunError: If a loss is no longer finite, or one group does not fit into the memory.
    """
    labels = torch.arange(classes).repeat_interleave(ipc)
    side = side_at(config, 0, data.image_size)  # of noise
    late = late_begins(config, ipc)
    groups = group_indices(classes, ipc, config.batch_size, config.loop, late)
    begins = [late[index[0] % ipc] for index in groups]
    made_of = Groups(directory, tuple(groups), ipc, config.iterations)
    paths = made_of.paths

    def start(group: int) -> Tensor:
        index = groups[group]
        if initial is not None:
            return data.normalization.normalize(initial.pixels(data, index))
        shape = (len(index), data.channels, side, side)
        return torch.randn(shape, generator=runtime.generator("noise", group))

    with (
        runtime.progress(_steps(begins, config), "synthesis", "it") as bar,
        ExitStack() as contexts,
    ):
        compiled = _compiled(targets, len(labels) * data.image_size**2, n_p, config)
        observers = {t.name: contexts.enter_context(_watched(t, n_p)) for t in targets}
        processes = runtime.processes
        missing = processes.same(
            lambda: [g for g in range(len(groups)) if not is_current(paths[g], recipe)]
        )
        bar.update(_steps(begins, config) - _steps([begins[g] for g in missing], config))
        at_once = processes.same(lambda: _groups_at_once(config, runtime, len(missing)))
        kinds = [(begin, len(index)) for begin, index in zip(begins, groups, strict=True)]
        usual = sum(len(groups[g]) for g in _stacks(range(len(groups)), kinds, at_once)[0])
        for dealt in processes.deal(_stacks(missing, kinds, at_once)):
            waiting = _stacks(dealt, kinds, at_once)
            while waiting:
                numbers = waiting.pop(0)
                index = torch.cat([groups[g] for g in numbers])
                stack = make_stack(numbers, labels[index], runtime.device, begins[numbers[0]])
                filmed = is_filmed(index, ipc)
                work = {**recipe, "groups": list(numbers), "filmed": int(filmed.sum())}
                checkpoint = Checkpoint(paths[numbers[0]], work, runtime.checkpoint_seconds)
                begun = bar.n
                try:
                    made = synthesize_stack(
                        stack, torch.cat([start(g) for g in numbers]), targets, config,
                        # A graph belongs to one batch size: not for the odd groups at the end.
                        compiled if compiled and len(index) == usual else observers,
                        data.normalization, runtime, checkpoint, bar,
                        filmed.nonzero().squeeze(1),
                    )  # fmt: skip
                except torch.OutOfMemoryError:
                    at_once = _fewer(numbers, config)
                    waiting = _stacks([*numbers, *itertools.chain(*waiting)], kinds, at_once)
                    bar.update(begun - bar.n)
                    continue
                _save_groups([paths[g] for g in numbers], recipe, *made, filmed)
                checkpoint.clear()
    processes.barrier()
    return made_of


def _save_groups(
    paths: Sequence[Path],
    recipe: Recipe,
    images: Tensor,
    traces: Sequence[Trace],
    film: Tensor,
    filmed: Tensor,
) -> None:
    """Write each group of a stack to a file of its own; `filmed` is bool (groups * batch,)."""
    counts = filmed.view(len(paths), -1).sum(dim=1).tolist()
    parts = (torch.split(images, len(images) // len(paths)), traces, torch.split(film, counts))
    for path, part, trace, frames in zip(paths, *parts, strict=True):
        header = {"kind": "group", "recipe": recipe, "trace": trace}
        save(path, {"images": part, "film": frames}, header)


def _watched(target: Target, n_p: int) -> AbstractContextManager[Observer]:
    return observing(target.model, {*target.batchnorm, *target.conv}, n_p)


def _compiled(
    targets: Sequence[Target], pixels: int, n_p: int, config: SynthesisConfig
) -> dict[str, Observer]:
    """Compiled networks, if they are asked for or the work is long enough to repay compiling."""
    worth = pixels * config.iterations >= WORTH_COMPILING
    if config.compile == "never" or (config.compile == "auto" and not worth):
        return {}
    log.info("synthesis: networks are compiled at first use")
    return {
        target.name: compile_observer(target.model, {*target.batchnorm, *target.conv}, n_p)
        for target in targets
    }


def _groups_at_once(config: SynthesisConfig, runtime: Runtime, missing: int) -> int:
    """Groups a launch: on the CPU one, as more were measured not to be faster there.

    On GPUs no more than gives every process some of the missing ones.
    """
    if config.groups is not None:
        return config.groups
    if runtime.device.type == "cpu":
        return 1
    limit, world = GPU_IMAGES // config.batch_size, runtime.processes.world
    return max(1, limit if world == 1 else min(limit, -(-missing // world)))


def _steps(begins: Sequence[int], config: SynthesisConfig) -> int:
    """Iterations of groups that begin at these ones."""
    return len(begins) * config.iterations - sum(begins)


def _stacks(
    missing: Sequence[int], kinds: Sequence[tuple[int, int]], limit: int
) -> list[tuple[int, ...]]:
    """Groups of one kind, at most `limit` a stack.

    A group's kind is the iteration at which it begins and its size: the last one may be smaller.
    """
    stacks = []
    for _, equal in itertools.groupby(missing, key=lambda group: kinds[group]):
        same = tuple(equal)
        stacks += [same[start : start + limit] for start in range(0, len(same), limit)]
    return stacks


def _fewer(numbers: Sequence[int], config: SynthesisConfig) -> int:
    """Groups a launch after it ran out of memory: half as many."""
    if len(numbers) == 1:
        raise RunError(
            f"out of memory with {config.batch_size} images at once; lower synthesis.batch_size, "
            "or use another device"
        ) from None
    half = len(numbers) // 2
    log.warning("out of memory with %d groups at once: going on with %d", len(numbers), half)
    return half
