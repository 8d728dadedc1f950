"""Time a few real steps of a network and measure their memory, with the code that a run calls."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gvbsm.config import LabelsConfig, OptimizerConfig, SynthesisConfig
from gvbsm.data.class_sizes import ImageCounts
from gvbsm.data.starts import Start
from gvbsm.engine.accuracy import count_predictions
from gvbsm.engine.device import Runtime
from gvbsm.engine.fit import Training, fit
from gvbsm.engine.forms.race import clock, timed
from gvbsm.engine.out_of_memory import Step
from gvbsm.method.capture import HookedObserver
from gvbsm.method.fast.batches import Ensemble
from gvbsm.method.groups import group_indices, make_stack
from gvbsm.method.matching import make_teacher
from gvbsm.method.moments import Moments
from gvbsm.method.statistics import Statistics, picture_counts
from gvbsm.method.synthesis import begin_synthesis, synthesize
from gvbsm.pipeline.forms.works import prepare
from gvbsm.pipeline.planning.peak_memory import PeakMemory
from gvbsm.pipeline.planning.timing_task import TimingTask, picture_cost
from gvbsm.pipeline.planning.work import KINDS, Cost, Work
from gvbsm.stages.labels import PIXELS
from gvbsm.stages.synthesis import GPU_IMAGES
from gvbsm.stages.synthesis_task import SynthesisTask


def _placed(task: TimingTask, work: Work) -> tuple[nn.Module, Runtime]:
    """Build a network as a task calls it, on the device; return it with the runtime of its form."""
    kind = KINDS[work.task]
    runtime = task.quiet(task.runtime.of(work.network, kind))
    in_eval_mode = work.task == "testing"  # in the form that it is trained in
    prepared = "pixels" if in_eval_mode else kind
    network, _ = prepare(task.network(work), prepared, task.shape(work))
    return runtime.place(network), runtime


def time_training(task: TimingTask, work: Work, memory: PeakMemory) -> Cost:
    """Return the cost of a picture of a training step, with its optimizer."""
    settings = dict(work.settings)
    model, runtime = _placed(task, work)
    optimizer = OptimizerConfig(name=settings["optimizer"], lr=1e-6)  # type: ignore[arg-type]
    averaged = 0.99 if settings["averaged"] else 0.0
    pictures, labels = task.pictures(work, work.batch)

    def loss(net: nn.Module, rows: slice) -> Tensor:
        with runtime.autocast():
            logits = net(pictures[rows])
        return F.cross_entropy(logits.float(), labels[rows])

    def times(steps: int, size: int) -> list[float]:
        ticks: list[float] = []

        def batches(_epoch: int, start: int) -> Iterator[Step]:
            for _ in range(start, steps):
                ticks.append(clock(runtime))
                yield Step(size, loss)
            ticks.append(clock(runtime))

        training = Training("cost", "evaluation", 1, steps, 0, optimizer, None, averaged)
        fit(model, batches, None, training, runtime, None)
        return [end - start for start, end in pairwise(ticks)]

    return picture_cost(times, work.batch, memory)


def time_pixels(task: TimingTask, work: Work, memory: PeakMemory) -> Cost:
    """Return the cost of a picture of an iteration of the synthesis."""
    settings = dict(work.settings)
    shape, n_p, ipc = task.shape(work), int(settings["n_p"]), int(settings["ipc"])  # type: ignore[call-overload]
    model, runtime = _placed(task, work)
    config = _synthesis_config(settings)
    statistics = _made_up_statistics(model, n_p, shape, task.classes)
    teacher = make_teacher(work.network, model, statistics, config, n_p, shape)
    data = replace(task.data, image_size=work.side)
    counts = ImageCounts.even(task.classes, ipc)
    start_of_set = Start(torch.zeros(counts.total, config.crop_tiles**2, dtype=torch.int64))
    synthesis = SynthesisTask(
        config, [teacher], {work.network: statistics}, data, counts, n_p, start_of_set
    )
    groups = group_indices(counts, work.batch, config.loop)
    at_once = config.groups or (1 if runtime.device.type == "cpu" else GPU_IMAGES // work.batch)
    at_once = max(1, min(at_once, len(groups)))

    def times(iterations: int, size: int) -> list[float]:
        index = groups[0][:size]
        count = at_once if size == len(groups[0]) else 1
        numbers = range(count)
        stack = make_stack(numbers, counts.labels[index].repeat(count), runtime.device)
        start = task.pictures(work, len(index) * count)[0]
        bounds = data.normalization.bounds()
        state = begin_synthesis(start, bounds, stack, [teacher], config)
        extras = synthesis.extras(stack, index.repeat(count), start.cpu(), runtime)
        measured = range(iterations) if settings["logged"] else ()
        longer = replace(config, iterations=iterations)
        ticks = [clock(runtime)]
        for _ in synthesize(state, stack, [teacher], longer, runtime, extras, measured):
            ticks.append(clock(runtime))
        return [(end - start) / count for start, end in pairwise(ticks)]

    return picture_cost(times, len(groups[0]), memory)


def _synthesis_config(settings: Mapping[str, Any]) -> SynthesisConfig:
    """The settings of a synthesis that its time depends on."""
    others = {
        name: settings[name] for name in settings.keys() - {"optimizer", "n_p", "ipc", "logged"}
    }
    optimizer = OptimizerConfig(name=settings["optimizer"], lr=1e-3)
    return replace(SynthesisConfig(), optimizer=optimizer, **others)


def _made_up_statistics(
    model: nn.Module, n_p: int, shape: Sequence[int], classes: int
) -> Statistics:
    """Statistics of a network for the sake of their shapes: means of 0, variances of 1."""
    tables: dict[str, dict[str, Moments]] = {"channel": {}, "patch": {}}
    by_class: dict[str, dict[str, Moments]] = {"channel": {}, "patch": {}}
    convolutions = picture_counts(model, n_p, shape)
    for (path, level), count in picture_counts(model, n_p, shape, with_batchnorm=True).items():
        zeros = torch.zeros_like(count)
        if (path, level) in convolutions:
            tables[level][path] = Moments(zeros, zeros + 1)
        rows = zeros.expand(classes, *zeros.shape)
        by_class[level][path] = Moments(rows, rows + 1)
    return Statistics(**tables, class_channel=by_class["channel"], class_patch=by_class["patch"])


def time_labeling(task: TimingTask, work: Work, memory: PeakMemory) -> Cost:
    """Return the cost of a picture of a teacher that labels, several small batches at once."""
    model, runtime = _placed(task, work)
    ensemble = Ensemble([model], LabelsConfig(), runtime)
    together = max(1, PIXELS // (work.batch * work.side**2)) if dict(work.settings)["stored"] else 1

    def step(pictures: Tensor) -> object:
        return ensemble.label(pictures, [*map(len, torch.split(pictures, work.batch))])

    return _forward(task, work._replace(batch=together * work.batch), runtime, step, memory)


def time_testing(task: TimingTask, work: Work, memory: PeakMemory) -> Cost:
    """Return the cost of a picture of a test."""
    model, runtime = _placed(task, work)

    def step(pictures: Tensor) -> object:
        labels = torch.zeros(len(pictures), dtype=torch.int64, device=pictures.device)
        return count_predictions(model, iter([(pictures, labels)]), runtime)

    return _forward(task, work, runtime, step, memory)


def time_recording(task: TimingTask, work: Work, memory: PeakMemory) -> Cost:
    """Return the cost of a picture of a forward pass that records statistics."""
    settings = dict(work.settings)
    model, runtime = _placed(task, work)
    n_p, by_part = int(settings["n_p"]), bool(settings["by_part"])  # type: ignore[call-overload]
    counts = picture_counts(model, n_p, task.shape(work), with_batchnorm=by_part)
    paths = {path for path, _ in counts}
    observer = HookedObserver(model, paths, n_p, exact=True)

    def step(pictures: Tensor) -> object:
        with torch.no_grad(), runtime.autocast():
            return observer(pictures, paths, len(pictures) if by_part else 1)

    return _forward(task, work, runtime, step, memory)


def _forward(
    task: TimingTask,
    work: Work,
    runtime: Runtime,
    step: Callable[[Tensor], object],
    memory: PeakMemory,
) -> Cost:
    """Cost of a picture in a step without gradients."""
    pictures, _ = task.pictures(work, work.batch)

    def times(steps: int, size: int) -> list[float]:
        return [timed(partial(step, pictures[:size]), runtime) for _ in range(steps)]

    return picture_cost(times, work.batch, memory)
