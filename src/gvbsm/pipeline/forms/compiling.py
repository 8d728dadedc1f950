"""Decide whether synthesis compiles a network, by what that costs and what it saves."""

from __future__ import annotations

import copy
import logging
import time
from dataclasses import dataclass
from functools import partial

import torch.nn.functional as F
from torch import Tensor, nn

from gvbsm.engine.device import Runtime
from gvbsm.engine.forms import Form
from gvbsm.engine.forms.race import CLOSE, ROUNDS, noise, timed
from gvbsm.pipeline.forms.machine_cache import MachineCache
from gvbsm.pipeline.forms.works import compiled_pixels, hooked_pixels

log = logging.getLogger("gvbsm")

# Measured on two machines for the paper's networks: 10 to 80 s of compiling for 0.6 to 0.9 of the
# time. A trial is made where the lower saving would pay for the longer compiling.
USUAL_SECONDS, USUAL_SAVING = 80.0, 0.2


@dataclass(frozen=True)
class CompileCost:
    """What compiling a network costs and saves on this machine, in seconds.

    Attributes:
        eager: Time of a batch with hooks.
        compiled: Time of a batch that is compiled.
        compiling: Time of the first batch, with nothing in torch's cache.
    """

    eager: float
    compiled: float
    compiling: float

    def pays(self, batches: float) -> bool:
        """Whether so many batches save more than compiling costs."""
        return batches * (self.eager - self.compiled) > self.compiling


def compile_form(
    form: Form,
    network: nn.Module,
    name: str,
    batch: tuple[int, int, int, int],
    batches: float,
    runtime: Runtime,
) -> Form:
    """Return the form, compiled if that pays; compiling is tried once a machine.

    The compiled code stays in torch's cache, from which the synthesis loads it.

    Args:
        form: The fastest form that is not compiled.
        network: The network, in eval mode.
        name: Its name.
        batch: (images, channels, height, width) of a batch of the synthesis.
        batches: Number of batches.
        runtime: Device.
    """
    in_form, cache = runtime.in_form(form), MachineCache(runtime)
    key = f"{name} compiled {form.name} {' '.join(map(str, batch))}"
    rows = cache.get(key)
    if rows is None:
        placed = in_form.place(copy.deepcopy(network))
        pictures = noise(batch[1:], batch[0]).to(runtime.device)
        step = hooked_pixels(placed, in_form)
        step(pictures)
        eager = min(timed(partial(step, pictures), runtime) for _ in range(ROUNDS))
        if batches * eager * USUAL_SAVING < USUAL_SECONDS:
            return form
        cost = _tried(placed, name, pictures, eager, in_form)
        if cost is None:
            return form
        cache.put(key, [[cost.eager, cost.compiled, cost.compiling]])
    else:
        cost = CompileCost(*map(float, rows[0]))  # type: ignore[arg-type]
    pays = cost.pays(batches)
    log.info(
        "pixels of %s %s compiled: %.3g ms a batch instead of %.3g, after %.0f s",
        name,
        "are" if pays else "are not",
        1000 * cost.compiled,
        1000 * cost.eager,
        cost.compiling,
    )
    return form._replace(compiled=pays)


def _tried(
    network: nn.Module, name: str, pictures: Tensor, eager: float, runtime: Runtime
) -> CompileCost | None:
    """Compile a network, and time it; None if it cannot be compiled or computes something else."""
    failures: list[str] = []
    log.info("compiling %s once, to see whether it pays", name)
    step = compiled_pixels(network, runtime, failures.append)
    start = time.perf_counter()
    gradient = step(pictures)
    compiling = time.perf_counter() - start
    expected = hooked_pixels(network, runtime)(pictures)
    alike = float(F.cosine_similarity(gradient.flatten(), expected.flatten(), dim=0))
    if failures or alike < CLOSE:
        fault = failures[0] if failures else f"its gradient has a cosine of {alike:.2f} to eager's"
        log.warning("%s is not compiled: %s", name, fault)
        return None
    compiled = min(timed(partial(step, pictures), runtime) for _ in range(ROUNDS))
    return CompileCost(eager, compiled, compiling)
