"""Measure which form of a network is the fastest on this machine, of those close to float64."""

from __future__ import annotations

import copy
import itertools
import logging
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gvbsm.config.errors import first_line
from gvbsm.engine.device import Runtime, usual_layout
from gvbsm.engine.forms import Form

log = logging.getLogger("gvbsm")

BATCH = 16  # pictures in a race, fewer above 64 pixels
ROUNDS = 3
CLOSE = 0.9  # least cosine to float64: bf16 has 0.99 in ResNet-18, 0.5 to 0.6 in MobileNetV2
GAIN = 0.97  # another form than the usual one must take less than this share of its time

LAYOUTS = ("contiguous", "channels-last")
CANDIDATES = tuple(itertools.starmap(Form, itertools.product(("fp32", "bf16"), LAYOUTS)))

Step = Callable[[Tensor], Tensor]
"""step(pictures): compute a batch; return gradients or logits, for comparison."""

Work = Callable[[nn.Module, Runtime], Step]
"""work(network, runtime): the step of a kind of work in the runtime's form."""


class Trial(NamedTuple):
    """One form in a race.

    Attributes:
        form: Its name.
        seconds: Least time of a batch.
        cosine: Cosine between what it computes and the same in float64.
    """

    form: str
    seconds: float
    cosine: float


def race(network: nn.Module, work: Work, shape: Sequence[int], runtime: Runtime) -> list[Trial]:
    """Time all `CANDIDATES` of a network in turn, on the same noise.

    The network must work in the first. One that does not work in float64 is compared with that.
    Another form that it does not work in, such as bf16, is left out.

    Args:
        network: The network; copies of it are called.
        work: What is computed.
        shape: (channels, height, width) of a picture.
        runtime: Device.

    Returns:
        The trials, in the order of the candidates.
    """
    pictures = noise(shape).to(runtime.device)
    exact = _in_float64(network, work, pictures, runtime)
    steps: dict[Form, Callable[[], Tensor]] = {}
    computed: dict[Form, Tensor] = {}
    for form in CANDIDATES:
        in_form = runtime.in_form(form)
        step = work(in_form.place(copy.deepcopy(network)), in_form)
        try:
            computed[form] = step(pictures).flatten().double()
        except Exception as error:  # networks of any library raise any
            if form == CANDIDATES[0]:
                raise
            log.debug("a network does not work in %s: %s", form.name, first_line(error))
            continue
        steps[form] = partial(step, pictures)
    exact = computed[CANDIDATES[0]] if exact is None else exact
    times = [[timed(step, runtime) for step in steps.values()] for _ in range(ROUNDS)]
    least = [min(column) for column in zip(*times, strict=True)]
    return [
        Trial(form.name, seconds, float(F.cosine_similarity(computed[form], exact, dim=0)))
        for form, seconds in zip(steps, least, strict=True)
    ]


def _in_float64(
    network: nn.Module, work: Work, pictures: Tensor, runtime: Runtime
) -> Tensor | None:
    """Compute a batch in float64; None if the network does not work in it."""
    exact_runtime = runtime.in_form(Form("fp32"))
    exact_network = exact_runtime.place(copy.deepcopy(network)).double()
    try:
        return work(exact_network, exact_runtime)(pictures.double()).flatten()
    except Exception as error:  # such as one that casts its maps to float32
        log.debug("a network does not work in float64: %s", first_line(error))
        return None


def fastest(trials: Sequence[Trial], network: nn.Module) -> Form:
    """Return the form of the fastest trial that is close to float64.

    The first form is replaced by one that gains alone; and a layout other than the usual one is
    named only where it gains.
    """
    first = trials[0]
    close = [trial for trial in trials if trial.cosine >= CLOSE] or [first]
    best = min(close, key=lambda trial: trial.seconds)
    for precision in ("fp32", best.form.partition(" ")[0]):
        usual = f"{precision} {usual_layout(network, precision)}"
        if any(trial.form == usual and trial.seconds * GAIN <= best.seconds for trial in close):
            return Form(precision)
    return Form.named(best.form)


def noise(shape: Sequence[int], batch: int | None = None) -> Tensor:
    """Return the pictures of a race, float32 (batch, channels, height, width).

    Args:
        shape: (channels, height, width) of a picture.
        batch: Number of pictures; None takes fewer of large ones.
    """
    batch = batch or max(4, min(BATCH, BATCH * 64**2 // (shape[-2] * shape[-1])))
    return torch.randn(batch, *shape, generator=torch.Generator().manual_seed(0))


def timed(step: Callable[[], object], runtime: Runtime) -> float:
    """Return the seconds of a step."""
    start = clock(runtime)
    step()
    return clock(runtime) - start


def clock(runtime: Runtime) -> float:
    """Return the seconds on the clock of a measurement, when the device has done its work."""
    if runtime.device.type == "cuda":
        torch.cuda.synchronize(runtime.device)
    # The processor time of a single thread is the time that it has alone on the machine.
    alone = runtime.device.type == "cpu" and torch.get_num_threads() == 1
    return time.process_time() if alone else time.perf_counter()
