"""Several processes that share the work of one run (`torchrun`, `srun`).

The pieces of work are independent and end in files: networks, batches of images, shards of labels.
A process that is free takes the next piece, and a piece's result does not depend on which process
computes it, or on how many there are. Process 0 leads: it alone decides what is missing, and writes
the files that belong to the whole run.

Processes communicate over gloo, on the CPU, even when they compute on GPUs. Values are sent as
JSON, because nothing is ever unpickled. With a single process every method is a no-op.
"""

from __future__ import annotations

import functools
import json
import os
import platform
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous

from gvbsm.config.errors import first_line
from gvbsm.engine.launch import LISTENER, Launch, is_started_here, read_launch
from gvbsm.engine.machine.limits import cores_each
from gvbsm.engine.progress.waiting import Idle, Waiting

Item = TypeVar("Item")
Value = TypeVar("Value")

WORK_TIMEOUT = timedelta(days=30)  # the others may wait for a process with a long piece of work
START_TIMEOUT = timedelta(minutes=30)  # for all processes to start
POLL_SECONDS = 0.05  # longest pause between two checks of a pending communication


class ProcessError(Exception):
    """The processes have different settings, or one of them has failed or ended."""


class LostError(ProcessError):
    """Another process has failed or ended.

    Attributes:
        leader: Whether it seems to be process 0, whose store cannot be reached.
    """

    def __init__(self, leader: bool) -> None:
        self.leader = leader
        super().__init__(
            "another process has failed or ended; start the same command again to resume"
        )


class Processes:
    """The processes of a run, seen from one of them.

    Args:
        launch: Rank of this process, and number of processes.
        store: Holds the numbers that the processes share; None for a single process.
    """

    def __init__(self, launch: Launch = Launch(), store: Store | None = None) -> None:  # noqa: B008
        self.rank, self.world, self.local_rank, self.local_world = launch[:4]
        self.by_slurm, self._cores = launch.meeting is not None, launch.cores
        self._store, self._numbers = store, 0
        self._gradients: dist.ProcessGroup | None = None

    @property
    def leads(self) -> bool:
        """Whether this is process 0, which decides and writes for the whole run."""
        return self.rank == 0

    @property
    def threads(self) -> int | None:
        """Threads of each process where all have work; None if the user has chosen them."""
        return None if self._cores is None else cores_each(self.world, self._cores)

    # Divide the work

    def deal(self, items: Sequence[Item], pieces: int) -> Iterator[Item]:
        """Yield the items that this process works on: each time the next that no process has taken.

        Args:
            items: Missing pieces of work, the same in all processes.
            pieces: Number of all pieces, missing or not (`threads_for`).

        Raises:
            ProcessError: If the store of process 0 cannot be reached.
        """
        if self._store is None:
            yield from items
            return
        add = self.shared_numbers()
        with self.threads_for(pieces):
            while (taken := add("dealt", 1)) <= len(items):
                yield items[taken - 1]

    @contextmanager
    def threads_for(self, pieces: int) -> Iterator[None]:
        """Share the cores between the processes that get one of a stage's pieces of work.

        The number of threads decides how sums are rounded. So it must not depend on how many pieces
        are missing: a resumed run would compute other bits.

        Args:
            pieces: Number of all pieces of the stage, missing or not.
        """
        if self._cores is None:
            yield
            return
        usual = torch.get_num_threads()
        torch.set_num_threads(max(1, self._cores // max(1, min(pieces, self.world))))
        try:
            yield
        finally:
            torch.set_num_threads(usual)

    def shared_numbers(self) -> Callable[[str, int], int]:
        """Return add(name, count), which adds to a number of all processes and returns the sum.

        All processes call this in the same order; each call begins new numbers at 0.

        Raises:
            ProcessError: By `add`, if the store of process 0 cannot be reached.
        """
        self._numbers += 1
        return functools.partial(self._add, self._numbers)

    def _add(self, numbers: int, name: str, count: int) -> int:
        assert self._store is not None
        try:
            return int(self._store.add(f"{name}-{numbers}", count))
        except RuntimeError:
            raise self._lost() from None

    def part(self, count: int) -> slice:
        """Return this process's slice of `count` items; the slices' sizes differ by one at most."""
        size, over = divmod(count, self.world)
        start = self.rank * size + min(self.rank, over)
        return slice(start, start + size + (self.rank < over))

    def rows(self, count: int) -> slice:
        """Return this process's rows of a batch; all rows if there are fewer than processes."""
        return self.part(count) if count >= self.world else slice(0, count)

    def weight(self, count: int) -> float:
        """Return the factor of a mean over `rows(count)`: the processes' mean is the batch's."""
        rows = self.rows(count)
        return (rows.stop - rows.start) * self.world / count if count >= self.world else 1.0

    # Train one network together

    def mean(self, tensor: Tensor) -> Tensor:
        """Return the mean of all processes' tensors, on their devices; after `join_gradients`."""
        if self.world == 1:
            return tensor
        total = tensor.clone()
        dist.all_reduce(total, group=self._gradients)
        return total / self.world

    def join_gradients(self, device: torch.device) -> dist.ProcessGroup | None:
        """Return the process group for gradients: NCCL if every process has a GPU of its own.

        Args:
            device: This process's device.

        Returns:
            The group for torch's distributed classes; None is the default group, over gloo.

        Raises:
            ProcessError: If another process has ended.
        """
        devices = self.gather(_identity(device))
        if self._gradients is None and device.type == "cuda" and len(set(devices)) == self.world:
            # All processes take every step together: a long wait means that one of them has ended.
            group = dist.new_group(backend="nccl", timeout=START_TIMEOUT)
            assert isinstance(group, dist.ProcessGroup)
            self._gradients = group
        return self._gradients

    @contextmanager
    def together(self) -> Iterator[None]:
        """Turn torch's communication errors inside the block into a `ProcessError` of one line.

        Raises:
            ProcessError: If another process has ended.
        """
        try:
            yield
        except RuntimeError as error:
            communication = isinstance(error, dist.DistError) or "gloo" in str(error)
            if self.world > 1 and communication:
                raise self._lost() from error
            raise

    # Exchange values

    def barrier(self, meanwhile: Idle | None = None) -> None:
        """Wait until all processes have called this.

        Args:
            meanwhile: Called now and then while this process waits; None logs a line a minute.

        Raises:
            ProcessError: If another process has ended.
        """
        if self.world > 1:
            self._communicate(lambda: dist.all_reduce(torch.zeros(1), async_op=True), meanwhile)

    def sum(self, tensor: Tensor) -> Tensor:
        """Return the sum of all processes' tensors of one shape, on the CPU.

        Raises:
            ProcessError: If another process has ended.
        """
        if self.world == 1:
            return tensor
        total = tensor.cpu().clone()
        self._communicate(lambda: dist.all_reduce(total, async_op=True))
        return total

    def gather(self, value: Any) -> list[Any]:
        """Return the JSON-like values of all processes, by rank.

        Raises:
            ProcessError: If another process has ended.
        """
        if self.world == 1:
            return [value]
        message = torch.tensor(list(json.dumps(value).encode()), dtype=torch.uint8)
        lengths = torch.zeros(self.world, dtype=torch.int64)
        lengths[self.rank] = len(message)
        lengths = self.sum(lengths)
        padded = torch.zeros(int(lengths.max()), dtype=torch.uint8)
        padded[: len(message)] = message
        messages = [torch.empty_like(padded) for _ in range(self.world)]
        self._communicate(lambda: dist.all_gather(messages, padded, async_op=True))
        return [
            json.loads(bytes(received[:length].tolist()))
            for received, length in zip(messages, lengths.tolist(), strict=True)
        ]

    def same(self, decide: Callable[[], Value]) -> Value:
        """Call `decide` in process 0 alone, and return its JSON-like value in all processes.

        Raises:
            ProcessError: If process 0 has ended, as it does when `decide` fails.
        """
        if self.world == 1:
            return decide()
        value = decide() if self.leads else None
        decision: Value = self.gather(value)[0]
        return decision if value is None else value

    @contextmanager
    def checking(self) -> Iterator[None]:
        """Run a block of checks in all processes; if one check fails, all processes raise.

        The first process whose check has failed raises its own error.

        Raises:
            ProcessError: If another process's check has failed.
        """
        fault: Exception | None = None
        try:
            yield
        except Exception as error:
            if self.world == 1:
                raise
            fault = error
        passed = self.gather(fault is None)
        if not all(passed):
            first = passed.index(False)
            if fault is not None and first == self.rank:
                raise fault
            raise ProcessError(f"a check of process {first} has failed; see its message")

    def agree(self, what: Mapping[str, Any]) -> None:
        """Check that all processes have the same named, JSON-like values.

        Raises:
            ProcessError: In all processes, naming one that differs, and its values.
        """
        leader, *others = self.gather(dict(what))
        for rank, values in enumerate(others, 1):
            names = [name for name, value in leader.items() if values.get(name) != value]
            if names:
                pairs = "; ".join(
                    f"{name}: {values.get(name)!r}, not {leader[name]!r}" for name in names
                )
                raise ProcessError(
                    f"process {rank} differs from process 0 ({pairs}); start all with the same "
                    "command, settings and work directory"
                )

    def _communicate(self, begin: Callable[[], dist.Work | None], idle: Idle | None = None) -> None:
        """Wait for a communication in short pauses, so that Ctrl-C works meanwhile."""
        idle = idle or Waiting()
        try:
            work = begin()
            assert work is not None
            pause = POLL_SECONDS / 64
            while not work.is_completed():
                time.sleep(pause)
                pause = min(2 * pause, POLL_SECONDS)
                idle()
            work.wait()
        except RuntimeError:
            raise self._lost() from None

    def _lost(self) -> LostError:
        assert self._store is not None
        try:
            self._store.num_keys()
        except RuntimeError:  # under srun, process 0 holds the store
            return LostError(leader=True)
        return LostError(leader=False)


ALONE = Processes()


def join() -> Processes:
    """Connect to the other processes of this run, waiting until all have started.

    Raises:
        ConfigError: If the launcher's environment variables are incomplete.
        ProcessError: If the other processes do not start.
    """
    launch = read_launch()
    return _connect(launch) if launch.world > 1 else ALONE


@functools.cache
def _connect(launch: Launch) -> Processes:
    try:
        store = _meeting_store(launch)
        if not dist.is_initialized():
            dist.init_process_group(
                "gloo",
                store=PrefixStore("gvbsm", store),
                rank=launch.rank,
                world_size=launch.world,
                timeout=WORK_TIMEOUT,
            )
    except (RuntimeError, ValueError) as error:
        raise ProcessError(
            f"{launch.name} cannot connect to the other processes: {first_line(error)}"
        ) from None
    return Processes(launch, PrefixStore("gvbsm-work", store))


def _meeting_store(launch: Launch) -> Store:
    """Open the store through which the processes connect."""
    if is_started_here():
        return _local_store(launch)
    if launch.meeting is None:
        return next(iter(rendezvous("env://", timeout=START_TIMEOUT)))[0]  # type: ignore[no-any-return]
    return _tcp_store(launch, launch.meeting)


def _local_store(launch: Launch) -> Store:
    """Open the store of processes that one of them has started, so that signals work meanwhile."""
    meeting = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    file = int(os.environ[LISTENER]) if os.environ.get(LISTENER) else None
    store = _tcp_store(launch, meeting, wait_for_workers=False, master_listen_fd=file)
    store.add("started", 1)
    while store.add("started", 0) < launch.world:
        time.sleep(POLL_SECONDS)
    return store


def _tcp_store(launch: Launch, meeting: tuple[str, int], **options: Any) -> Store:
    return dist.TCPStore(*meeting, launch.world, launch.rank == 0, START_TIMEOUT, **options)  # type: ignore[attr-defined]


def _identity(device: torch.device) -> str:
    """Return a name that no other device has: `cuda:0` may be another GPU in each process."""
    name = str(device)
    if device.type == "cuda":
        name = str(torch.cuda.get_device_properties(device).uuid)
    return f"{platform.node()} {name}"
