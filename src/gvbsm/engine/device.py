"""Device, precision, CPU cores and memory of this process, and the progress of its loops."""

from __future__ import annotations

import contextlib
import ctypes
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import torch
from torch import Generator, nn

from gvbsm.config import Config
from gvbsm.config.errors import first_line
from gvbsm.engine.forms import NO_FORMS, Form, Forms, Kind
from gvbsm.engine.machine.limits import cores_each
from gvbsm.engine.processes import ALONE, Processes
from gvbsm.engine.progress.bars import Bar, begin
from gvbsm.engine.progress.log import log_by_default
from gvbsm.engine.progress.shared import SharedBar
from gvbsm.engine.seeds import generator_for

log = logging.getLogger("gvbsm")

Item = TypeVar("Item")

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4  # of mallopt(3)

Log = Callable[[str, Mapping[str, float], int], None]
"""log(series, values, step), such as log("squeeze resnet18", {"loss": 0.5}, 3)."""


class RunError(Exception):
    """A run failed: a loss became NaN, the disk is full. The command prints one line, exits 1."""


@dataclass(frozen=True)
class Runtime:
    """Device, precision, seed and processes of a run.

    Attributes:
        device: The device of all networks and batches.
        precision: fp32 or bf16 (autocast; master weights, losses and statistics stay float32).
        seed: The run's seed, from which every generator is derived.
        checkpoint_seconds: Time between checkpoints.
        quiet: Show no progress.
        log: Receives losses and accuracies for the trackers; None without trackers.
        processes: The processes that work on the run together.
        layout: Memory layout of networks, channels-last or contiguous; None is `usual_layout`'s.
        compiled: Whether networks are compiled in training.
        forms: Forms of single networks in single kinds of work (`of`).
    """

    device: torch.device
    precision: str
    seed: int
    checkpoint_seconds: float = 60.0
    quiet: bool = False
    log: Log | None = None
    processes: Processes = ALONE
    layout: str | None = None
    compiled: bool = False
    forms: Forms = NO_FORMS

    @property
    def form(self) -> Form:
        """The form in which networks are computed."""
        return Form(self.precision, self.layout, self.compiled)

    @property
    def precisions(self) -> str:
        """The precisions of the networks with a form of their own, or that of all: `bf16, fp32`."""
        return ", ".join(self.forms.precisions) or self.precision

    def in_form(self, form: Form) -> Runtime:
        """Return the runtime with another form."""
        return replace(self, **form._asdict())

    def of(self, network: str, kind: Kind) -> Runtime:
        """Return the runtime with the form that a network has in a kind of work."""
        return self.in_form(self.forms.of(network, kind) or self.form)

    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        """Return the autocast context in which networks are called."""
        enabled = self.precision == "bf16"
        return torch.autocast(self.device.type, torch.bfloat16, enabled=enabled)

    def place(self, model: nn.Module) -> nn.Module:
        """Move a network to the device, in the memory layout of the runtime."""
        if (self.layout or usual_layout(model, self.precision)) == "channels-last":
            return model.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]
        return model.to(self.device, memory_format=torch.contiguous_format)  # type: ignore[call-overload, no-any-return]

    def generator(self, *path: object) -> Generator:
        """`generator_for` with the run's seed."""
        return generator_for(self.seed, *path)

    def workers(self, chosen: int | None) -> int:
        """Number of processes that decode pictures: `chosen`, or this process's share of cores."""
        if chosen is not None:
            return chosen
        return cores_each(self.processes.local_world)

    def progress(self, total: int, name: str, unit: str) -> Bar:
        """Begin to show the progress of a loop; nothing is shown when `quiet`."""
        return begin(total, name, unit, self.quiet)

    def shared_progress(self, total: int, name: str, unit: str) -> Bar | SharedBar:
        """Begin to show the progress of a loop that the processes share; its block ends in all."""
        bar = self.progress(total, name, unit)
        if self.processes.world == 1:
            return bar
        return SharedBar(bar, self.processes.shared_numbers(), self.processes.barrier)

    def track(
        self, items: Iterable[Item], name: str, unit: str = "item", total: int | None = None
    ) -> Iterator[Item]:
        """Yield `items` and show the progress; `total` is their number if they have no length."""
        with begin(total, name, unit, self.quiet, items) as bar:
            yield from bar


def usual_layout(model: nn.Module, precision: str) -> str:
    """Return the layout that is mostly the fastest, where none is measured.

    oneDNN's and cuDNN's bf16 convolutions want channels-last, but GroupNorm has no fast
    channels-last kernel: ConvNet-128 trains 3 times slower with it, ResNet-18 1.2 times faster.
    """
    grouped = any(isinstance(module, nn.GroupNorm) for module in model.modules())
    return "channels-last" if precision == "bf16" and not grouped else "contiguous"


def resolve_runtime(
    device: str,
    precision: str,
    seed: int,
    checkpoint_seconds: float,
    quiet: bool,
    threads: int | None = None,
    processes: Processes = ALONE,
) -> Runtime:
    """Resolve `auto`, check that the device is available, and set torch's number of CPU threads.

    On the CPU this also calls `keep_memory`, and in Python it shows the log (`log_by_default`).
    Several processes on one machine each take the GPU of their local rank, unless `device` names
    one. Only process 0 shows progress.

    Args:
        device: auto, cpu, cuda or cuda:N.
        precision: auto, fp32 or bf16; auto is bf16 on GPUs that support it, for work whose form is
            not measured (`engine.forms`).
        seed: The run's seed.
        checkpoint_seconds: Time between checkpoints.
        quiet: Show no progress.
        threads: torch's CPU threads; None takes this process's share of the cores that the
            processes divide, or leaves them as they are.
        processes: The processes that work on the run together.

    Raises:
        RunError: If the device is not available.
    """
    chosen = _resolve_device(device, processes)
    if precision == "auto":
        precision = "bf16" if chosen.type == "cuda" and torch.cuda.is_bf16_supported() else "fp32"
    if threads := threads or processes.threads:
        torch.set_num_threads(threads)
    if chosen.type == "cpu":
        keep_memory()
    quiet = quiet or not processes.leads
    log_by_default(quiet)
    return Runtime(chosen, precision, seed, checkpoint_seconds, quiet, processes=processes)


def runtime_for(config: Config, quiet: bool, processes: Processes = ALONE) -> Runtime:
    """Resolve the runtime of a run's settings; see `resolve_runtime`."""
    return resolve_runtime(
        config.device,
        config.precision,
        config.seed,
        config.checkpoint_seconds,
        quiet,
        config.threads,
        processes,
    )


def _resolve_device(device: str, processes: Processes) -> torch.device:
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda" and processes.world > 1:
        count = torch.cuda.device_count()
        # With --gpus-per-task, Slurm makes only one GPU visible to each process.
        number = 0 if processes.by_slurm and count == 1 else processes.local_rank
        device = f"cuda:{number}"
        if number >= count:
            raise RunError(
                f"process {processes.rank} would take {device}, but there are {count} GPUs here; "
                "start as many processes as there are GPUs"
            )
    try:
        chosen = torch.device(device)
        torch.empty(0, device=chosen)
        if chosen.type not in ("cpu", "cuda"):
            raise RuntimeError("gvbsm runs on cpu, cuda and cuda:N")
    except (RuntimeError, AssertionError) as error:
        raise RunError(f"device {device!r} is not available here: {first_line(error)}") from None
    if chosen.type == "cuda" and processes.world > 1:
        torch.cuda.set_device(chosen)
    return chosen


def keep_memory() -> None:
    """Keep freed memory in the process, where the C library is glibc.

    By default glibc maps every large tensor anew and unmaps it when it is freed, so that each
    forward pass pays for zeroed pages. Keeping the memory made networks 1.07 times faster at 32
    pixels, and more at 224.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):  # no glibc; Windows takes no None
        return
    largest = 2**31 - 1
    for option, value in ((M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, largest), (M_TOP_PAD, 64 * 1024**2)):
        mallopt(option, value)
