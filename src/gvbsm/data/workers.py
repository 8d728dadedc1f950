"""Read and decode pictures in worker processes, and explain why one has failed.

Workers are forked from a server process that has imported their modules. They end when the process
that started them ends, in whatever way, and never import the user's script.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import shutil
import signal
import sys
import threading
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from multiprocessing import resource_tracker
from multiprocessing.context import BaseContext
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torch.utils.data.dataloader import default_collate

from gvbsm.data.pictures import DataError
from gvbsm.engine.device import RunError, Runtime

log = logging.getLogger("gvbsm")

Item = TypeVar("Item", bound=tuple[Tensor, ...])

SHARED_MEMORY = Path("/dev/shm")  # where Linux has it; 64 MB in a Docker container
PREFETCHED = 2  # batches that each worker prepares ahead, DataLoader's default

_noted: set[str] = set()


def streamed(
    dataset: Dataset[Item], batches: Sequence[Tensor], runtime: Runtime, workers: int
) -> Iterator[Item]:
    """Yield the items of a data set in batches that worker processes prepare.

    Batches reach this process through shared memory. If it has no room for them, they are
    sent through pipes. If the system allows no worker processes, this process prepares them. The
    log names both cases.

    Args:
        dataset: Gives tuples of tensors by index.
        batches: Indices of each batch's items, int64 (batch,).
        runtime: The device that the batches will be moved to.
        workers: Number of processes, at most one a batch; 0 prepares batches in this process.

    Yields:
        The items of a batch, stacked, on the CPU.

    Raises:
        DataError: If a picture cannot be read.
        RunError: If a worker is killed, or memory, processes or open files run out.
    """
    workers = min(workers, len(batches))
    context = _worker_context() if workers else None
    piped = context is not None and not _fits_shared_memory(dataset, batches, runtime, workers)
    # Workers are started for every epoch: what they import is imported once, by their server.
    loader: DataLoader[Item] = DataLoader(
        dataset,
        batch_sampler=[index.tolist() for index in batches],
        num_workers=0 if context is None else workers,
        generator=torch.Generator(),  # the default draws from the global one, which dropout uses
        pin_memory=runtime.device.type == "cuda",
        multiprocessing_context=context,
        collate_fn=_collate_arrays if piped else default_collate,
        worker_init_fn=_end_with_parent,
    )
    prepared = None
    try:
        with _hidden_main(), _deferred_signals(), _without_signals():
            prepared = iter(loader)
        for batch in prepared:
            yield tuple(map(torch.from_numpy, batch)) if piped else batch  # type: ignore[misc]
    except Exception as error:
        # Frames of the traceback hold the loader, which ends its workers when it is freed.
        traceback.clear_frames(error.__traceback__)
        if context is not None and isinstance(error, DataError):
            # The text is the traceback of a worker; the message is at its end.
            raise DataError(str(error).rpartition("DataError: ")[2].strip()) from error
        reason = None if context is None else _reason(error)
        if reason is None:
            raise
        raise RunError(f"{reason}; the same command continues from the last checkpoint") from error
    finally:
        del prepared


def _worker_context() -> BaseContext | None:
    """Return how workers are started; None if the system or this process cannot start any."""
    if multiprocessing.current_process().daemon:
        _note("daemon", "a daemonic process may start no workers: pictures are read without them")
        return None
    # Fork is unsafe beside torch's threads once a network has run.
    context = multiprocessing.get_context("forkserver")
    try:
        _start_resource_tracker()
        context.Lock()
    except (OSError, ImportError) as error:
        _note(
            "semaphores",
            f"workers need semaphores, which this system refuses ({error}): pictures are read "
            "without workers",
        )
        return None
    modules = ["gvbsm.data.loading", "torchvision.transforms.v2.functional"]
    context.set_forkserver_preload(modules)
    return context


def _start_resource_tracker() -> None:
    """Start multiprocessing's tracker of semaphores so that a closing terminal does not end it.

    If it ended, the next one would print a traceback for every semaphore that it does not know.
    """
    with _without_signals():
        resource_tracker.ensure_running()


@contextmanager
def _without_signals() -> Iterator[None]:
    """Start processes that the signals to all processes of a terminal or a job do not end.

    This process may have a checkpoint to save, and then ends them. A signal that is blocked here
    stays blocked in a new process. SIGTERM is not: it ends a worker that hangs.
    """
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    signals = {signal.SIGINT, signal.SIGHUP, signal.SIGUSR1}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _fits_shared_memory(
    dataset: Dataset[Item], batches: Sequence[Tensor], runtime: Runtime, workers: int
) -> bool:
    """Whether shared memory has room for all batches that are prepared at the same time."""
    if not SHARED_MEMORY.is_dir():  # other systems than Linux
        return True
    item_bytes = sum(tensor.nbytes for tensor in dataset[int(batches[0][0])])
    batches_at_once = (workers * PREFETCHED + 2) * runtime.processes.local_world
    needed = batches_at_once * item_bytes * max(map(len, batches))
    free = shutil.disk_usage(SHARED_MEMORY).free
    if free < needed:
        _note(
            "shared memory",
            f"{SHARED_MEMORY} has {free / 2**20:.1f} MiB free, and batches may take "
            f"{needed / 2**20:.1f} MiB: they are sent through pipes, which is slower (in Docker, "
            "--shm-size gives more)",
        )
    return free >= needed


def _note(topic: str, text: str) -> None:
    """Log a warning, once for each topic."""
    if topic not in _noted:
        _noted.add(topic)
        log.warning("%s", text)


def _collate_arrays(items: Sequence[tuple[Tensor, ...]]) -> tuple[NDArray[Any], ...]:
    """Stack items as arrays, which are pickled with their values and use no shared memory."""
    return tuple(torch.stack(tensors).numpy() for tensors in zip(*items, strict=True))


def _end_with_parent(_worker: int) -> None:
    """End a worker when the process that started it has ended.

    DataLoader's own watchdog checks the parent process. The parent of a worker is the server that
    it was forked from, and the server waits for its workers.
    """
    parent = multiprocessing.parent_process()
    assert parent is not None

    def wait() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


@contextmanager
def _hidden_main() -> Iterator[None]:
    """Keep processes that are started in the block from importing the user's script.

    A script without an `if __name__ == "__main__"` guard would start the run again in every worker,
    and a script from standard input could not be found.
    """
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


@contextmanager
def _deferred_signals() -> Iterator[None]:
    """Deliver Ctrl-C and other handled signals at the end of the block, in the main thread.

    A worker whose parent ends before it has started would print a traceback.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    names = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGALRM")  # Windows has the first two
    numbers = [getattr(signal, name) for name in names if hasattr(signal, name)]
    handlers = {n: handler for n in numbers if callable(handler := signal.getsignal(n))}
    received: list[int] = []
    for number in handlers:
        signal.signal(number, lambda number, _frame: received.append(number))
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        for number in received:
            signal.raise_signal(number)


def _reason(error: Exception) -> str | None:
    """Return why workers failed and what to do; None if it is a bug of this program."""
    if not isinstance(error, (RuntimeError, MemoryError, EOFError)):
        return None
    text, reason = str(error), None
    if "exited unexpectedly" in text or "is killed by signal" in text:
        reason = (
            f"a worker process that reads pictures was killed, as Linux does when memory runs out "
            f"({text.splitlines()[0]}); use fewer workers, or none with --data.workers 0"
        )
    elif isinstance(error, MemoryError) or "can't allocate memory" in text:
        reason = (
            "a worker process that reads pictures ran out of memory; use fewer workers, or none "
            "with --data.workers 0"
        )
    elif "shared memory" in text and "No space left" in text:
        reason = (
            f"{SHARED_MEMORY}, through which workers hand over pictures, is full; make it larger "
            "(in Docker, --shm-size 8g), or set --data.workers 0"
        )
    elif "Too many open files" in text:
        reason = (
            "workers need more open files than this system allows; raise the limit with "
            "`ulimit -n`, or set --data.workers 0"
        )
    elif isinstance(error, EOFError):  # the server that forks workers has ended
        reason = (
            "worker processes could not be started, as where the system allows no more processes; "
            "use fewer workers, or none with --data.workers 0"
        )
    return reason
