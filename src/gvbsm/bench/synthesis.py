"""Full iterations of synthesis against bare networks: time, memory, batches a pass."""

from __future__ import annotations

import logging
import multiprocessing
import os
import sys
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from statistics import median
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from gvbsm.backbones import build_backbone
from gvbsm.bench.predictions import SIZES
from gvbsm.bench.timing import CLEAR_REFS, Work, compare, high_water, seconds_of
from gvbsm.config import BenchConfig
from gvbsm.config.build import as_config
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

log = logging.getLogger("gvbsm")

# The fastest of the paper's networks: anything beside it shows most.
STUDENT = as_config("cifar10").evaluation.students[0]


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
        self.classes, _, size, _ = SIZES[setting]
        self.shape = (3, size, size)
        self.n_p = preset.statistics.n_p
        with seeded(0, "bench", backbone):
            model = build_backbone(backbone, self.classes, size)
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
        statistics = self.statistics()
        teacher = make_teacher("bench", self.model, statistics, self.config, self.n_p, self.shape)
        paths = {*teacher.batchnorm, *teacher.conv}
        teacher = replace(teacher, observe=CompiledObserver(self.model, paths, self.n_p))
        bounds = Normalization((0.0,) * 3, (1.0,) * 3).bounds()
        state = begin_synthesis(self.images, bounds, self.stack, [teacher], self.config)
        self.images = state.images
        extras = []
        if self.config.weight_class:
            moments = {"bench": class_moments(teacher, statistics)}
            extras.append(ClassMatching(self.config, self.stack.classes, moments))
        settings = replace(self.config, iterations=sys.maxsize)
        steps = synthesize(state, self.stack, [teacher], settings, self.runtime, extras)

        def iterate() -> None:
            next(steps)

        return iterate

    def statistics(self) -> Statistics:
        """Return statistics of two pictures of noise, the same for all classes.

        The cost of a step does not depend on their values.
        """
        channel: dict[str, Moments] = {}
        patch: dict[str, Moments] = {}
        layers = matched_layers(self.model)
        shapes = input_shapes(self.model, {*layers.conv, *layers.batchnorm}, self.shape)
        observer = HookedObserver(self.model, shapes, self.n_p, exact=True)
        with torch.no_grad():
            _, layer_sums = observer(self.images.detach()[:2], shapes)
        for path, layer in layer_sums.items():
            per_picture = counts(shapes[path], self.n_p)
            for table, sums, count in zip((channel, patch), layer, per_picture, strict=True):
                table[path] = finalize(Sums(2 * count.to(sums.device), sums[0, 0], sums[1, 0]))
        if not self.config.weight_class:
            return Statistics(channel, patch)
        return Statistics(channel, patch, self._of_classes(channel), self._of_classes(patch))

    def _of_classes(self, table: dict[str, Moments]) -> dict[str, Moments]:
        """Repeat moments (n,) for each class: (classes, n)."""
        return {
            path: Moments(*(values.expand(self.classes, *values.shape) for values in moments))
            for path, moments in table.items()
        }


def measure_synthesis(setting: str, config: BenchConfig, runtime: Runtime) -> dict[str, Any]:
    """Compare a full iteration with the bare network, for each backbone and their sum."""
    rows: dict[str, Any] = {}
    for backbone in as_config(setting).squeeze.backbones:
        bench = Bench(setting, backbone, runtime)
        log.info("synthesis as in %s: %s", setting, backbone)
        pair = compare(bench.bare, bench.full(), config.repeats, runtime)
        forward = median(seconds_of(bench.forward, runtime) for _ in range(config.repeats))
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
    """Measure the peak bytes of two iterations in a fresh process; None if the system cannot."""
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
        with high_water(runtime) as peak:
            for _ in range(2):
                work()
            return peak()

    run(2)  # compiles and loads what the first use needs
    return run(None)


def measure_groups(config: BenchConfig, runtime: Runtime) -> dict[str, Any]:
    """Measure images x iterations a second by the number of batches that share a pass."""
    rows = {}
    for groups in config.groups:
        bench = Bench("cifar10", STUDENT, runtime, groups=groups)
        full = bench.full()
        full()
        seconds = median(seconds_of(full, runtime) for _ in range(config.repeats))
        rows[str(groups)] = len(bench.images) / seconds
    return {"backbone": STUDENT, "images_per_second": rows}
