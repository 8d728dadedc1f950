"""Synthesis: optimize all images of a set, in groups that are resumed and shared independently.

A group is a batch of images that are optimized together. Its images depend on the seed and the
group's number alone. So groups may run in any order, in several processes, or stacked in one
forward pass, since networks in eval mode do not mix the images of a batch.

Images may begin late (`synthesis.rounds`, DELT). All images of a group begin at one iteration, and
only groups that begin together are stacked. A late group has the draws, the learning rate and the
stages of the iterations that it takes part in.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from gvbsm.config import SynthesisConfig
from gvbsm.data.views import resize
from gvbsm.engine.device import RunError, Runtime
from gvbsm.engine.progress.bars import Bar
from gvbsm.engine.progress.shared import SharedBar
from gvbsm.files.checkpoint import Checkpoint
from gvbsm.method.beyond.residual import side_at
from gvbsm.method.fast.compiled import CompiledObserver
from gvbsm.method.groups import Stack, make_stack
from gvbsm.method.matching import Teacher
from gvbsm.method.synthesis import (
    DivergedError,
    Iteration,
    begin_synthesis,
    synthesize,
)
from gvbsm.stages.divergence import check_pixels, diverged, eigenvalues_failed
from gvbsm.stages.group_files import Groups, longest_trace, trace_row
from gvbsm.stages.synthesis_checkpoint import Work
from gvbsm.stages.synthesis_task import SynthesisTask
from gvbsm.store.film import frame_steps, is_filmed
from gvbsm.store.workdir import await_files

log = logging.getLogger("gvbsm")

GPU_IMAGES = 1024  # images in a stack on a GPU, unless `synthesis.groups` is set


@dataclass(frozen=True)
class _Plan:
    """The groups of a set: image positions, first iterations, and stacks."""

    groups: list[Tensor]
    begins: list[int]
    iterations: int

    def stacks(self, numbers: Sequence[int], limit: int) -> list[tuple[int, ...]]:
        """Stack at most `limit` groups of equal size that begin together.

        The last group may be smaller than the others.
        """
        stacks = []
        kinds = [(begin, len(g)) for begin, g in zip(self.begins, self.groups, strict=True)]
        for _, equal in itertools.groupby(numbers, key=lambda group: kinds[group]):
            groups = tuple(equal)
            stacks += [groups[start : start + limit] for start in range(0, len(groups), limit)]
        return stacks

    def steps(self, numbers: Sequence[int]) -> int:
        """Count the iterations of groups."""
        return sum(self.iterations - self.begins[number] for number in numbers)


def synthesize_set(
    task: SynthesisTask, runtime: Runtime, path: Path, header: Mapping[str, Any]
) -> Groups:
    """Optimize all groups that are not finished, and write their images into the set's draft.

    Several processes share the groups. The images of a group depend on the seed and its number.

    Args:
        task: Settings, teachers and data.
        runtime: Device, precision, seed, progress.
        path: The file of the set.
        header: Its header (`images_header`).

    Returns:
        The groups. All are finished when process 0 returns, which then calls `Groups.finish`.

    Raises:
        RunError: If a loss is no longer finite, or one group does not fit into the memory.
        ArtifactError: If a file is in the way.
    """
    config, processes = task.config, runtime.processes
    plan = _plan(task)
    files, everything = _group_files(task, plan, path, header), range(len(plan.groups))
    with runtime.shared_progress(plan.steps(everything), "synthesis", "iteration") as bar:
        missing = processes.same(files.missing)
        await_files([files.draft.path])
        if processes.leads:
            bar.skip(plan.steps(everything) - plan.steps(missing))
        at_once = processes.same(lambda: _groups_at_once(config, runtime, len(missing)))
        usual = sum(len(plan.groups[g]) for g in plan.stacks(everything, at_once)[0])
        compiled = _compiled(task, runtime)
        pieces = len(plan.stacks(everything, at_once))
        for dealt in processes.deal(plan.stacks(missing, at_once), pieces):
            waiting = plan.stacks(dealt, at_once)
            while waiting:
                numbers = waiting.pop(0)
                size, done = sum(len(plan.groups[g]) for g in numbers), bar.n
                # A compiled graph has one batch size, so other sizes use the teachers as they are.
                teachers = compiled if size == usual else task.teachers
                try:
                    _make_stack(
                        replace(task, teachers=teachers), plan, files, numbers, runtime, bar
                    )
                except torch.OutOfMemoryError:
                    at_once = _fewer(numbers, config)
                    waiting = plan.stacks([*numbers, *itertools.chain(*waiting)], at_once)
                    bar.update(int(done - bar.n))
    return files


def _plan(task: SynthesisTask) -> _Plan:
    begins = [int(task.begins[index[0]]) for index in task.groups]
    return _Plan(task.groups, begins, task.config.iterations)


def _group_files(task: SynthesisTask, plan: _Plan, path: Path, header: Mapping[str, Any]) -> Groups:
    config, data = task.config, task.data
    names = [teacher.name for teacher in task.teachers]
    longest = {
        begin: longest_trace(_measured(begin, config.iterations), names, task.terms)
        for begin in set(plan.begins)
    }
    shape = (data.channels, data.image_size, data.image_size)
    traces = [longest[begin] for begin in plan.begins]
    return Groups(path, header, plan.groups, task.counts, config.iterations, shape, traces)


def _make_stack(
    task: SynthesisTask,
    plan: _Plan,
    files: Groups,
    numbers: Sequence[int],
    runtime: Runtime,
    bar: Bar | SharedBar,
) -> None:
    """Optimize a stack of groups, and write their images and files."""
    index = torch.cat([plan.groups[g] for g in numbers])
    labels = task.counts.labels[index]
    stack = make_stack(numbers, labels, runtime.device, plan.begins[numbers[0]])
    start = torch.cat([task.start(plan.groups[g], runtime) for g in numbers])
    filmed = is_filmed(index, task.counts)
    recipe = {
        **files.header["recipe"],
        "groups": list(numbers),
        "filmed": int(filmed.sum()),
    }
    checkpoint = Checkpoint(files.paths[numbers[0]], recipe, runtime.checkpoint_seconds)
    images, work = optimize_stack(task, stack, index, start, runtime, checkpoint, bar)
    films = torch.split(work.film.cpu(), filmed.view(len(numbers), -1).sum(dim=1).tolist())
    for group, pixels, film, trace in zip(
        numbers, images.chunk(len(numbers)), films, work.traces, strict=True
    ):
        files.save(group, pixels, film, trace)
    checkpoint.clear()


def optimize_stack(
    task: SynthesisTask,
    stack: Stack,
    index: Tensor,
    start: Tensor,
    runtime: Runtime,
    checkpoint: Checkpoint,
    bar: Bar | SharedBar,
) -> tuple[Tensor, Work]:
    """Run the loop over a stack of groups: log and check its steps, film, and save checkpoints.

    Args:
        task: Settings, teachers and data.
        stack: The groups.
        index: Positions of their images in the set, int64 (groups * batch,).
        start: Initial pixels, normalized float (groups * batch, channels, height, width): real
            pictures of the data's side, or noise of the first stage's side.
        runtime: Device, precision, seed.
        checkpoint: Checkpoint of the stack.
        bar: Progress, in iterations of a group.

    Returns:
        The images after the last iteration, uint8 (groups * batch, channels, height, width) on the
        CPU; and the work, with film and traces.

    Raises:
        RunError: If a group's loss is no longer finite.
    """
    config, data = task.config, task.data
    filmed = is_filmed(index, task.counts).nonzero().squeeze(1)
    work = _begin(task, stack, start.to(runtime.device), filmed, runtime)
    work.resume(checkpoint)
    state, frames = work.state, frame_steps(config.iterations)
    bar.skip((state.step - stack.begin) * stack.groups)
    measured = _measured(stack.begin, config.iterations)
    extras = task.extras(stack, index, start, runtime)
    _film(work, frames, filmed, task)
    try:
        for step in synthesize(state, stack, task.teachers, config, runtime, extras, measured):
            if step.number in measured:
                _log_step(step, stack, work, task, runtime, bar)
            bar.update(stack.groups)
            if state.step < config.iterations:
                _film(work, frames, filmed, task)
                if checkpoint.due():
                    check_pixels(state.step, state.images, stack)
                    work.save(checkpoint)
    except DivergedError as error:
        raise diverged(error, state.images, stack, task.teachers) from None
    except torch.linalg.LinAlgError as error:  # type: ignore[attr-defined]  # by L_DD
        check_pixels(state.step, state.images, stack)
        raise eigenvalues_failed(state.step, error) from None
    check_pixels(state.step, state.images, stack)
    images = data.normalization.denormalize(state.images.detach(), config.rounding)
    work.film[:, -1] = images[filmed.to(images.device)]
    return images.cpu(), work


def _begin(
    task: SynthesisTask, stack: Stack, start: Tensor, filmed: Tensor, runtime: Runtime
) -> Work:
    """Return the work on a stack before its first iteration; `start` is on the device."""
    config, data = task.config, task.data
    images = resize(start, side_at(config, stack.begin, data.image_size))
    bounds = data.normalization.bounds()
    state = begin_synthesis(images, bounds, stack, task.teachers, config)
    size = (len(filmed), len(frame_steps(config.iterations)), data.channels)
    film = images.new_zeros(*size, data.image_size, data.image_size, dtype=torch.uint8)
    return Work(state, film, [[] for _ in stack.numbers])


def _film(work: Work, frames: Sequence[int], filmed: Tensor, task: SynthesisTask) -> None:
    """Add a frame to the film, if the present iteration has one."""
    if work.state.step in frames:
        data, images = task.data, work.state.images.detach()
        shown = resize(images[filmed.to(images.device)], data.image_size)
        frame = data.normalization.denormalize(shown, task.config.rounding)
        work.film[:, frames.index(work.state.step)] = frame


def _measured(begin: int, iterations: int) -> set[int]:
    """Choose about 100 iterations to measure, with the first ten, in which alone DD acts."""
    every = max(1, iterations // 100)
    return {
        step
        for step in range(begin, iterations)
        if step < begin + 10 or step % every == 0 or step == iterations - 1
    }


def _log_step(
    step: Iteration,
    stack: Stack,
    work: Work,
    task: SynthesisTask,
    runtime: Runtime,
    bar: Bar | SharedBar,
) -> None:
    """Log an iteration to each group's trace, the progress bar and the trackers."""
    for group, trace in enumerate(work.traces):
        trace.append(trace_row(step, group))
    bar.set_postfix(loss=f"{float(step.loss.mean()):.3g}")
    if runtime.log is not None:
        means = {name: fmean(values) for name, values in step.terms.items()}
        before = stack.numbers[0] * task.config.iterations  # of all groups so far, skipped ones too
        runtime.log("synthesis", means, before + step.number * stack.groups)


def _compiled(task: SynthesisTask, runtime: Runtime) -> list[Teacher]:
    """Compile the teachers whose form asks for it, or all if the settings do."""
    choice = task.config.compile

    def is_compiled(name: str) -> bool:
        form = runtime.forms.of(name, "pixels")
        return choice == "always" or (choice == "auto" and form is not None and form.compiled)

    return [
        replace(teacher, observe=_compile(teacher, task.n_p))
        if is_compiled(teacher.name)
        else teacher
        for teacher in task.teachers
    ]


def _compile(teacher: Teacher, n_p: int) -> CompiledObserver:
    def warn(text: str) -> None:
        name = type(teacher.model).__name__
        log.warning("%s cannot be compiled, which is slower: %s", name, text)

    return CompiledObserver(teacher.model, {*teacher.batchnorm, *teacher.conv}, n_p, warn)


def _groups_at_once(config: SynthesisConfig, runtime: Runtime, missing: int) -> int:
    """Choose the number of groups in a stack.

    On the CPU it is 1, since larger stacks were not faster. On GPUs it is limited so that every
    process gets some of the missing groups.
    """
    if config.groups is not None:
        return config.groups
    if runtime.device.type == "cpu":
        return 1
    limit, world = GPU_IMAGES // config.batch_size, runtime.processes.world
    return max(1, limit if world == 1 else min(limit, -(-missing // world)))


def _fewer(numbers: Sequence[int], config: SynthesisConfig) -> int:
    """Halve the number of groups in a stack after running out of memory."""
    if len(numbers) == 1:
        raise RunError(
            f"out of memory with {config.batch_size} images at once; lower synthesis.batch_size, "
            "or use another device"
        ) from None
    half = len(numbers) // 2
    log.warning("out of memory with %d groups at once: going on with %d", len(numbers), half)
    return half
