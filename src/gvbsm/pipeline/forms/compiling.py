"""Decide whether a network is compiled, by what that costs and what it saves."""

from __future__ import annotations

import copy
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn

from gvbsm.engine.device import Runtime
from gvbsm.engine.forms import Form, Kind
from gvbsm.engine.forms.compiled import compiler_facts
from gvbsm.engine.forms.race import CLOSE, ROUNDS, Step, noise, timed
from gvbsm.engine.progress.spelling import spell_duration
from gvbsm.pipeline.forms.machine_cache import MachineCache, of_code
from gvbsm.pipeline.forms.works import (
    compiled_pixels,
    compiled_training,
    hooked_pixels,
    training,
)

log = logging.getLogger("gvbsm")

# Measured on two machines for the paper's networks: 10 to 85 s of compiling for 0.45 to 0.9 of the
# time. A trial is made where a low saving would pay for a middling time of compiling.
USUAL_SECONDS, USUAL_SAVING = 50.0, 0.2

# Seconds of a trial where this machine has made none of the kind: middling ones of two machines.
TRIAL_SECONDS: dict[Kind, float] = {"training": 20.0, "pixels": 50.0}

RETRY_SECONDS = 24 * 3600.0  # after a failure, which may have been that of a full disk

EAGER = {"training": training, "pixels": hooked_pixels}
COMPILED = {"training": compiled_training, "pixels": compiled_pixels}


@dataclass(frozen=True)
class CompileCost:
    """What compiling a network costs and saves on this machine, in seconds.

    Attributes:
        eager: Time of a batch with hooks.
        compiled: Time of a batch that is compiled.
        compiling: Time of the first batch, with nothing in torch's cache.
        loading: Time of the first batch of another such network, whose code is in the cache.
    """

    eager: float
    compiled: float
    compiling: float
    loading: float

    def pays(self, batches: float, networks: int) -> bool:
        """Whether compiling costs less than it saves in so many batches of all networks."""
        cost = self.compiling + networks * self.loading
        return batches * (self.eager - self.compiled) > cost


class CompileTask(NamedTuple):
    """What is compiled.

    Attributes:
        kind: training or pixels.
        name: Name of the network.
        batch: (images, channels, height, width) of a batch.
        batches: Number of batches of all networks.
        networks: Number of networks of this build, such as the students of all seeds.
    """

    kind: Kind
    name: str
    batch: tuple[int, int, int, int]
    batches: float
    networks: int = 1


def compile_form(form: Form, network: nn.Module, task: CompileTask, runtime: Runtime) -> Form:
    """Return the form, compiled if that pays; compiling is tried once a machine.

    The compiled code stays in torch's cache, from which the stage loads it. What could not be
    compiled is tried again after a day, or when torch or its compiler has changed
    (`compiler_facts`).

    Args:
        form: The fastest form that is not compiled.
        network: The network, in train mode for training, else in eval mode.
        task: What is compiled.
        runtime: Device.
    """
    kind, name, _, batches, networks = task
    cache = MachineCache(runtime)
    fused = compiled_layout(form, kind)
    key = _key(task, "compiled", form)
    rows = cache.get(key)
    if rows is None:
        if (fault := _known_fault(cache, task, form)) is not None:
            log.info(
                "%s of %s is not compiled, as a trial of the last day has failed: %s; remove %s "
                "to try again",
                *(kind, name, fault, cache.path),
            )
            return form
        gradient, eager = time_eager(network, task, runtime.in_form(form))
        if not _is_promising(batches, eager):
            return form
        log.info("compiling %s of %s once, to see whether it pays", kind, name)
        cost = try_compiling(network, task, gradient, eager, runtime.in_form(fused))
        if isinstance(cost, str):
            log.warning("%s of %s is not compiled: %s", kind, name, cost)
            cache.put(_key(task, "failed", form), [[compiler_facts(), cost, time.time()]])
            return form
        cache.put(key, [[cost.eager, cost.compiled, cost.compiling, cost.loading]])
    else:
        cost = CompileCost(*map(float, rows[0]))  # type: ignore[arg-type]
    pays = cost.pays(batches, networks)
    log.info(
        "%s of %s %s compiled: %.3g ms a batch instead of %.3g, after %s",
        kind,
        name,
        "is" if pays else "is not",
        1000 * cost.compiled,
        1000 * cost.eager,
        spell_duration(cost.compiling),
    )
    return fused._replace(compiled=True) if pays else form


def trial_seconds(
    form: Form, build: Callable[[], nn.Module], task: CompileTask, runtime: Runtime
) -> float:
    """Return about how long `compile_form` will try to compile; 0 if it has, or will not.

    A batch that is not compiled is timed once a machine. The trial takes the median time of those
    on this machine, or `TRIAL_SECONDS`.

    Args:
        form: The fastest form that is not compiled.
        build: Returns the network, as `compile_form` takes it.
        task: What would be compiled.
        runtime: Device.
    """
    cache, key = MachineCache(runtime), _key(task, "eager", form)
    has_compiled = cache.get(_key(task, "compiled", form)) is not None
    if has_compiled or _known_fault(cache, task, form) is not None:
        return 0.0
    if (rows := cache.get(key)) is None:
        rows = [[time_eager(build(), task, runtime.in_form(form))[1]]]
        cache.put(key, rows)
    if not _is_promising(task.batches, float(rows[0][0])):  # type: ignore[arg-type]
        return 0.0
    trials = cache.containing(f" {task.kind} compiled ")
    costs = [CompileCost(*map(float, rows[0])) for rows in trials]  # type: ignore[arg-type]
    return median([cost.compiling for cost in costs] or [TRIAL_SECONDS[task.kind]])


def _known_fault(cache: MachineCache, task: CompileTask, form: Form) -> str | None:
    """Return why this compiler has failed of late; None if it has not, or was another one."""
    since = time.time() - RETRY_SECONDS
    for facts, fault, *when in cache.get(_key(task, "failed", form)) or []:
        if facts == compiler_facts() and when and float(when[0]) > since:  # type: ignore[arg-type]
            return str(fault)
    return None


def _key(task: CompileTask, what: str, form: Form) -> str:
    return f"{of_code(task.name)} {task.kind} {what} {form.name} {' '.join(map(str, task.batch))}"


def _is_promising(batches: float, eager: float) -> bool:
    """Whether a low saving in so many batches would pay for a middling time of compiling."""
    return batches * eager * USUAL_SAVING >= USUAL_SECONDS


def compiled_share(name: str, kind: Kind, runtime: Runtime) -> float:
    """Return the share of its time that a network takes when it is compiled.

    It is that of the trials on this machine, of whatever batch; 1 if there was none.
    """
    trials = MachineCache(runtime).containing(f" {of_code(name)} {kind} compiled ")
    costs = [CompileCost(*map(float, rows[0])) for rows in trials]  # type: ignore[arg-type]
    return min((cost.compiled / cost.eager for cost in costs), default=1.0)


def compiled_layout(form: Form, kind: Kind) -> Form:
    """Return a form in the layout in which networks are compiled.

    Fused passes want channels-last; the networks of the synthesis are copied into it anyway.
    """
    return form._replace(layout="channels-last" if kind == "training" else form.layout)


def time_eager(network: nn.Module, task: CompileTask, runtime: Runtime) -> tuple[Tensor, float]:
    """Return the gradient of a batch that is not compiled, and its seconds."""
    pictures = noise(task.batch[1:], task.batch[0]).to(runtime.device)
    step = EAGER[task.kind](runtime.place(copy.deepcopy(network)), runtime)
    gradient = step(pictures)
    return gradient, min(timed(partial(step, pictures), runtime) for _ in range(ROUNDS))


def try_compiling(
    network: nn.Module, task: CompileTask, expected: Tensor, eager: float, runtime: Runtime
) -> CompileCost | str:
    """Compile a network, and time it; or return why it is not used.

    A network that cannot be compiled has the compiler's error as the reason. One whose gradient
    differs from the expected one is not used either.

    Args:
        network: The network.
        task: What is compiled.
        expected: The gradient of `time_eager`.
        eager: Its seconds.
        runtime: Device and form.
    """
    failures: list[str] = []
    placed = runtime.place(copy.deepcopy(network))
    pictures = noise(task.batch[1:], task.batch[0]).to(runtime.device)
    step = COMPILED[task.kind](placed, runtime, failures.append)
    gradient, compiling = _first(step, pictures)
    alike = float(F.cosine_similarity(gradient.flatten(), expected.flatten(), dim=0))
    if failures or alike < CLOSE:
        return failures[0] if failures else f"its gradient has a cosine of {alike:.2f} to eager's"
    compiled = min(timed(partial(step, pictures), runtime) for _ in range(ROUNDS))
    again = COMPILED[task.kind](copy.deepcopy(placed), runtime, failures.append)
    return CompileCost(eager, compiled, compiling, loading=_first(again, pictures)[1])


def _first(step: Step, pictures: Tensor) -> tuple[Tensor, float]:
    """Return what the first call of a step gives, and its seconds."""
    start = time.perf_counter()
    gradient = step(pictures)
    return gradient, time.perf_counter() - start
