"""What the method costs beside the bare networks, on this machine: the numbers of `gvbsm bench`.

Each number is a ratio of two things that were timed in one run, in alternating order. Networks have
random weights and data are noise: they cost as much as real ones. "Bare" is the network alone:
forward, cross-entropy and backward to the input with frozen parameters (synthesis); forward
(labels); training steps on a batch that is ready (squeeze, evaluation).
"""

from __future__ import annotations

import ctypes
import logging
import math
import multiprocessing
import os
import platform
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gvbsm.artifacts import SoftLabels, Statistics
from gvbsm.backbones import build_backbone, matched_layers
from gvbsm.config import BenchConfig, LabelsConfig
from gvbsm.datasets import ImageData
from gvbsm.descent import descend, make_stack, step_draws, step_terms
from gvbsm.evaluation import Labeller, train_student
from gvbsm.labels import generate_labels
from gvbsm.moments import Moments, Sums, counts, finalize
from gvbsm.observe import compile_observer, input_shapes, observing
from gvbsm.performance import SIZES, predict
from gvbsm.pictures import Split, pixel_bounds
from gvbsm.results import versions
from gvbsm.runtime import Runtime, resolve_runtime, seeded
from gvbsm.settings import as_config
from gvbsm.squeeze import squeeze_teacher
from gvbsm.targets import empty_state, make_target
from gvbsm.training import make_optimizer

log = logging.getLogger("gvbsm")

Work = Callable[[], object]

CLEAR_REFS = Path("/proc/self/clear_refs")
STEPS = 12  # of a training that is timed
# The fastest of the paper's networks: anything beside it shows most.
STUDENT = as_config("cifar10").evaluation.students[0]


@dataclass(frozen=True)
class Pair:
    """Two things timed in turns; seconds are medians, `low` and `high` the ratios' range."""

    bare: float
    full: float
    ratio: float
    low: float
    high: float


def _timed(work: Work, runtime: Runtime) -> float:
    if runtime.device.type == "cuda":
        torch.cuda.synchronize(runtime.device)
    start = time.perf_counter()
    work()
    if runtime.device.type == "cuda":
        torch.cuda.synchronize(runtime.device)
    return time.perf_counter() - start


def compare(bare: Work, full: Work, repeats: int, runtime: Runtime) -> Pair:
    """Time two things in alternating order, after one round that does not count."""
    rounds = []
    for number in range(repeats + 1):
        order = (bare, full) if number % 2 else (full, bare)
        seconds = {work: _timed(work, runtime) for work in order}
        rounds.append((seconds[bare], seconds[full]))
    ratios = [b / a for a, b in rounds[1:]]
    first, second = (median(column) for column in zip(*rounds[1:], strict=True))
    return Pair(first, second, median(ratios), min(ratios), max(ratios))


class Bench:
    """One network at one size: the bare step and the complete step on `groups` batches of images.

    Args:
        setting: The preset, cifar10 or imagenet-1k.
        backbone: Name of the network.
        runtime: Device and precision.
        groups: Batches that share a pass.
        batch: Images in a batch; None takes the preset's.
    """

    def __init__(
        self,
        setting: str,
        backbone: str,
        runtime: Runtime,
        groups: int = 1,
        batch: int | None = None,
    ) -> None:
        preset = as_config(setting)
        self.config = replace(preset.synthesis, beta_dr=0.0)  # no layer is left out
        self.runtime = runtime
        classes, _, size, _ = SIZES[setting]
        self.shape = (3, size, size)
        self.n_p = preset.statistics.n_p
        with seeded(0, "bench", backbone):
            model = build_backbone(backbone, classes, size)
        self.model = runtime.place(model).eval().requires_grad_(False)
        batch = batch or self.config.batch_size
        labels = (torch.arange(batch) // preset.ipc).repeat(groups)
        self.stack = make_stack(range(groups), labels, runtime.device)
        start = torch.randn(batch * groups, *self.shape)
        self.images = start.to(runtime.device).requires_grad_()
        self._step = 0

    def forward(self) -> Tensor:
        """The network alone."""
        with torch.no_grad(), self.runtime.autocast():
            logits: Tensor = self.model(self.images)
        return logits

    def bare(self) -> None:
        """Forward, cross-entropy, backward to the input."""
        with self.runtime.autocast():
            logits = self.model(self.images)
        F.cross_entropy(logits.float(), self.stack.labels).backward()  # type: ignore[no-untyped-call]
        self.images.grad = None

    def full(self) -> Work:
        """The complete iteration, as `synthesis` runs long work: on a compiled copy."""
        target = make_target(
            "bench", self.model, self._statistics(), self.config, self.n_p, self.shape
        )
        solver = make_optimizer(self.config.optimizer, [self.images], self.config.optimizer.lr)
        zero, one = [0.0] * 3, [1.0] * 3
        low, high = (bound.to(self.runtime.device) for bound in pixel_bounds(zero, one))
        state = empty_state([target], len(self.stack.numbers), self.config.ema_start)
        paths = {*target.batchnorm, *target.conv}
        observer = compile_observer(self.model, paths, self.n_p)

        def iterate() -> None:
            draws = step_draws(self.runtime, self.stack.numbers, self._step)
            terms = step_terms(
                self.images, self.stack, [target], {"bench": observer}, state, self.config,
                self._step, draws, self.runtime,
            )  # fmt: skip
            descend(terms, self.images, solver, (low, high), state, self.config)
            self._step += 1

        return iterate

    def _statistics(self) -> Statistics:
        """Those of two pictures of noise; what they are does not change what a step costs."""
        channel: dict[str, Moments] = {}
        patch: dict[str, Moments] = {}
        shapes = input_shapes(self.model, matched_layers(self.model).conv, self.shape)
        with torch.no_grad(), observing(self.model, shapes, self.n_p, exact=True) as observer:
            _, found = observer(self.images.detach()[:2], shapes)
        for path, layer in found.items():
            per_picture = counts(shapes[path], self.n_p)
            for table, sums, count in zip((channel, patch), layer, per_picture, strict=True):
                table[path] = finalize(Sums(2 * count.to(sums.device), sums[0, 0], sums[1, 0]))
        return Statistics(channel, patch)


def measure_synthesis(setting: str, config: BenchConfig, runtime: Runtime) -> dict[str, Any]:
    """Full iteration against the bare network, for each backbone of a setting and their sum."""
    rows: dict[str, Any] = {}
    for backbone in as_config(setting).squeeze.backbones:
        bench = Bench(setting, backbone, runtime)
        log.info("synthesis as in %s: %s", setting, backbone)
        pair = compare(bench.bare, bench.full(), config.repeats, runtime)
        forward = median(_timed(bench.forward, runtime) for _ in range(config.repeats))
        rows[backbone] = {**vars(pair), "forward": forward, "images": len(bench.images)}
    totals = {key: sum(row[key] for row in rows.values()) for key in ("bare", "full")}
    backbone = next(iter(rows))
    bare, full_peak = (_peak(setting, backbone, runtime, kind) for kind in ("bare", "full"))
    memory = None if bare is None or full_peak is None else full_peak / bare
    return {
        "backbones": rows,
        "sum": {**totals, "ratio": totals["full"] / totals["bare"]},
        "memory": {"backbone": backbone, "bare": bare, "full": full_peak, "ratio": memory},
    }


def _peak(setting: str, backbone: str, runtime: Runtime, kind: str) -> float | None:
    """Bytes that two iterations take at most, in a fresh process; None where it cannot be known."""
    arguments = (setting, backbone, runtime, kind, torch.get_num_threads())
    if runtime.device.type == "cuda":
        return _peak_of(*arguments)
    if not os.access(CLEAR_REFS, os.W_OK):
        return None
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_peak_of, *arguments).result()


def _peak_of(setting: str, backbone: str, runtime: Runtime, kind: str, threads: int) -> float:
    torch.set_num_threads(threads)

    def run(batch: int | None) -> float:
        bench = Bench(setting, backbone, runtime, batch=batch)
        work = bench.full() if kind == "full" else bench.bare
        with _high_water(runtime) as peak:
            for _ in range(2):
                work()
            return peak()

    run(2)  # all that is compiled and loaded at first use
    return run(None)


@contextmanager
def _high_water(runtime: Runtime) -> Iterator[Callable[[], float]]:
    """Yield a function that tells the most bytes in use since now, beyond those in use now."""
    if runtime.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(runtime.device)
        before = torch.cuda.memory_allocated(runtime.device)
        yield lambda: torch.cuda.max_memory_allocated(runtime.device) - before
        return
    with suppress(AttributeError):  # another C library than glibc
        ctypes.CDLL(None).malloc_trim(0)  # what is free already must not hide what is taken
    CLEAR_REFS.write_text("5")  # resets the high-water mark (Linux)
    resident = _status("VmRSS")
    yield lambda: _status("VmHWM") - resident


def _status(field: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(float(line.split()[1]) * 1024 for line in lines if line.startswith(field))


def measure_groups(config: BenchConfig, runtime: Runtime) -> dict[str, Any]:
    """Images x iterations a second against the number of batches that share a pass."""
    rows = {}
    for groups in config.groups:
        bench = Bench("cifar10", STUDENT, runtime, groups=groups)
        full = bench.full()
        full()
        seconds = median(_timed(full, runtime) for _ in range(config.repeats))
        rows[str(groups)] = len(bench.images) / seconds
    return {"backbone": STUDENT, "images_per_second": rows}


def measure_labels(config: BenchConfig, runtime: Runtime) -> Pair:
    """Labels of a few epochs of 100 CIFAR images against the five teachers' forward passes."""
    preset = as_config("cifar10")
    names, labels = preset.squeeze.backbones, replace(preset.labels, epochs=3)
    teachers = [Bench("cifar10", name, runtime, batch=100) for name in names]
    data = _noise_data()

    def forward() -> None:
        for _ in range(labels.epochs):
            for teacher in teachers:
                teacher.forward()

    with tempfile.TemporaryDirectory() as name:

        def label() -> None:
            with tempfile.TemporaryDirectory(dir=name) as folder:
                _label(data, [teacher.model for teacher in teachers], labels, runtime, folder)

        return compare(forward, label, config.repeats, runtime)


def measure_evaluation(config: BenchConfig, runtime: Runtime) -> Pair:
    """Training a ConvNet-128 on 100 labelled CIFAR images against its bare training steps."""
    preset = as_config("cifar10")
    labels = replace(preset.labels, epochs=STEPS)
    data = _noise_data()
    teacher = Bench("cifar10", STUDENT, runtime).model
    with tempfile.TemporaryDirectory() as name:
        store = _label(data, [teacher], labels, runtime, name)
        labeller = Labeller(100, 32, labels, runtime, store, [])
        path = Path(name) / "student.json"

        def evaluate() -> None:
            images, hard = _distilled(data)
            train_student(
                STUDENT, 0, images, hard, labeller, data, replace(preset.evaluation, tests=1),
                labels, runtime, path, {},
            )  # fmt: skip

        return compare(_training(100, runtime), evaluate, config.repeats, runtime)


def measure_squeeze(config: BenchConfig, runtime: Runtime) -> Pair:
    """Training a ConvNet-128 on CIFAR-sized pictures against its bare training steps."""
    squeeze = replace(as_config("cifar10").squeeze, epochs=1, tests=1)
    data = _noise_data(STEPS * squeeze.batch_size)
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "teacher.safetensors"
        train = partial(squeeze_teacher, STUDENT, data, squeeze, runtime, path, {})
        return compare(_training(squeeze.batch_size, runtime), train, config.repeats, runtime)


def _training(batch: int, runtime: Runtime) -> Work:
    """Bare training steps on one batch."""
    model = runtime.place(build_backbone(STUDENT, 10, 32)).train()
    solver = torch.optim.AdamW(model.parameters(), lr=1e-3)
    pictures = torch.randn(batch, 3, 32, 32, device=runtime.device)
    labels = torch.arange(batch, device=runtime.device) % 10

    def train() -> None:
        for _ in range(STEPS):
            with runtime.autocast():
                logits = model(pictures)
            solver.zero_grad(set_to_none=True)
            F.cross_entropy(logits.float(), labels).backward()  # type: ignore[no-untyped-call]
            solver.step()

    return train


def _noise_data(count: int = 100) -> ImageData:
    """Pictures of noise in CIFAR's shape; hardly any to test on, as tests are not timed."""
    generator = torch.Generator().manual_seed(0)

    def split(size: int) -> Split:
        pixels = torch.randint(0, 256, (size, 3, 32, 32), generator=generator, dtype=torch.uint8)
        return Split(torch.arange(size) % 10, pixels)

    names = tuple(map(str, range(10)))
    half = (0.5, 0.5, 0.5)
    return ImageData("noise", names, 3, 32, split(count), split(10), half, half, "noise")


def _distilled(data: ImageData) -> tuple[Tensor, Tensor]:
    assert data.train.images is not None
    return data.train.images, data.train.labels


def _label(
    data: ImageData,
    teachers: Sequence[nn.Module],
    labels: LabelsConfig,
    runtime: Runtime,
    folder: str,
) -> SoftLabels:
    return generate_labels(
        _distilled(data)[0], 10, teachers, labels, (data.mean, data.std), runtime, Path(folder), {}
    )


def run_bench(config: BenchConfig) -> dict[str, Any]:
    """Measure what the settings ask for; the answer is JSON-like.

    Raises:
        RunError: If the device is not there.
    """
    runtime = resolve_runtime(
        config.device, config.precision, 0, math.inf, quiet=True, threads=config.threads
    )
    log.info("compiling and timing: some minutes for each of %s", ", ".join(config.settings))
    synthesis: dict[str, Any] = {
        name: measure_synthesis(name, config, runtime) for name in config.settings
    }
    found: dict[str, Any] = {"synthesis": synthesis, "predictions": predict(synthesis)}
    if "cifar10" in config.settings:
        found["groups"] = measure_groups(config, runtime)
        for stage in (measure_labels, measure_evaluation, measure_squeeze):
            log.info("%s", stage.__name__.replace("_", " "))
            found[stage.__name__.removeprefix("measure_")] = vars(stage(config, runtime))
    machine = {**versions(runtime), "processor": _processor(), "cores": os.cpu_count()}
    return {**found, "machine": machine, "repeats": config.repeats}


def _processor() -> str:
    """The CPU's name; Python knows it on few systems."""
    listing = Path("/proc/cpuinfo")
    if listing.is_file():
        for line in listing.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
