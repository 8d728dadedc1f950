"""Several processes that work on one run, each with a share of it (`torchrun`, `srun`).

What is shared out are pieces of work that know nothing of each other and end in files: networks,
batches of images, shards of labels. Whoever is free takes the next piece, so what comes out depends
neither on how many processes there are nor on who made it. Process 0 leads: it alone decides what
is missing, and writes what belongs to the whole.

Processes talk over gloo, on the CPU, also where they compute on GPUs; what they say to each other
is JSON, as nothing is ever unpickled. One process alone talks to nobody: all here does nothing.
"""

from __future__ import annotations

import functools
import json
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

from gvbsm.engine.launch import Launch, read_launch

Item = TypeVar("Item")
Answer = TypeVar("Answer")

PATIENCE = timedelta(days=30)  # one may work for long while the others wait for it
MEETING = timedelta(minutes=30)  # in which all must have been started
POLL_SECONDS = 0.05  # at most, between looks at whether the others have come


class ProcessError(Exception):
    """The processes do not fit together, or one of them has failed or is gone."""


class LostError(ProcessError):
    """Another process has failed or is gone.

    Attributes:
        leader: Whether it is process 0, as far as this one can see.
    """

    def __init__(self, leader: bool) -> None:
        self.leader = leader
        super().__init__(
            "another process has failed or is gone; the same command goes on from what is done"
        )


class Processes:
    """The processes of a run, as one of them sees them.

    Args:
        launch: Which of them this one is.
        store: Where they count pieces of work; None for one process alone.
    """

    def __init__(self, launch: Launch = Launch(), store: Store | None = None) -> None:  # noqa: B008
        self.rank, self.world, self.local_rank, self.local_world = launch[:4]
        self.by_slurm = launch.meeting is not None
        self._store, self._dealt = store, 0
        self._gradients: dist.ProcessGroup | None = None

    @property
    def leads(self) -> bool:
        """Whether this is process 0, which decides and writes what belongs to the whole."""
        return self.rank == 0

    # Shares of work.

    def deal(self, items: Sequence[Item]) -> Iterator[Item]:
        """Those of the items that fall to this process: the next one whenever it is free.

        Args:
            items: Pieces of work, the same in all processes.

        Raises:
            ProcessError: If the others cannot be reached.
        """
        if self._store is None:
            yield from items
            return
        self._dealt += 1
        while (number := self._next()) < len(items):
            yield items[number]

    def _next(self) -> int:
        assert self._store is not None
        try:
            return int(self._store.add(f"dealt-{self._dealt}", 1)) - 1
        except RuntimeError:
            raise self._lost() from None

    def part(self, count: int) -> slice:
        """This process's part of `count` things in a row; parts differ by one thing at most."""
        size, over = divmod(count, self.world)
        start = self.rank * size + min(self.rank, over)
        return slice(start, start + size + (self.rank < over))

    def rows(self, count: int) -> slice:
        """This process's part of a batch; one of fewer rows than processes all have in full."""
        return self.part(count) if count >= self.world else slice(0, count)

    def weight(self, count: int) -> float:
        """What a mean over `rows(count)` is multiplied by, so that the processes' mean is right."""
        rows = self.rows(count)
        return (rows.stop - rows.start) * self.world / count if count >= self.world else 1.0

    # One network that all train together.

    def mean(self, tensor: Tensor) -> Tensor:
        """The mean of all processes' tensors, on their devices, after `join_gradients`."""
        if self.world == 1:
            return tensor
        total = tensor.clone()
        dist.all_reduce(total, group=self._gradients)
        return total / self.world

    def join_gradients(self, device: torch.device) -> dist.ProcessGroup | None:
        """Whom gradients are exchanged with: over NCCL if every process has a GPU of its own.

        Args:
            device: This process's device.

        Returns:
            The group for torch's own classes; None is the usual one, over gloo.
        """
        places = self.gather(f"{platform.node()} {_hardware(device)}")
        if self._gradients is None and device.type == "cuda" and len(set(places)) == self.world:
            # All take every step together, so here a long wait means that one of them is gone.
            group = dist.new_group(backend="nccl", timeout=MEETING)
            assert isinstance(group, dist.ProcessGroup)
            self._gradients = group
        return self._gradients

    @contextmanager
    def together(self) -> Iterator[None]:
        """A block of steps that all take together; that one of them is gone is told in a line.

        Raises:
            ProcessError: If one of the others is gone.
        """
        try:
            yield
        except RuntimeError as error:
            told = isinstance(error, dist.DistError) or "gloo" in str(error)
            if self.world > 1 and told:
                raise self._lost() from error
            raise

    # Words between processes.

    def barrier(self) -> None:
        """Wait until all have come here.

        Raises:
            ProcessError: If one of the others is gone.
        """
        self.sum(torch.zeros(1, dtype=torch.int64))

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum of all processes' tensors of one shape, on the CPU.

        Raises:
            ProcessError: If one of the others is gone.
        """
        if self.world == 1:
            return tensor
        total = tensor.cpu().clone()
        self._talk(lambda: dist.all_reduce(total, async_op=True))
        return total

    def gather(self, value: Any) -> list[Any]:
        """Every process's JSON-like value, in the order of their numbers.

        Raises:
            ProcessError: If one of the others is gone.
        """
        if self.world == 1:
            return [value]
        mine = _to_bytes(value)
        lengths = torch.zeros(self.world, dtype=torch.int64)
        lengths[self.rank] = len(mine)
        lengths = self.sum(lengths)
        padded = torch.zeros(int(lengths.max()), dtype=torch.uint8)
        padded[: len(mine)] = mine
        found = [torch.empty_like(padded) for _ in range(self.world)]
        self._talk(lambda: dist.all_gather(found, padded, async_op=True))
        return [
            _from_bytes(part[:size]) for part, size in zip(found, lengths.tolist(), strict=True)
        ]

    def same(self, decide: Callable[[], Answer]) -> Answer:
        """What process 0 decides, told to all; the others do not decide.

        Args:
            decide: Gives something JSON-like.

        Raises:
            ProcessError: If process 0 is gone, as it is when it could not decide.
        """
        if self.world == 1:
            return decide()
        value = decide() if self.leads else None
        said = _to_bytes(value)
        length = torch.tensor([len(said)])
        self._talk(lambda: dist.broadcast(length, 0, async_op=True))
        said = said if self.leads else torch.empty(int(length), dtype=torch.uint8)
        self._talk(lambda: dist.broadcast(said, 0, async_op=True))
        found: Answer = _from_bytes(said) if value is None else value
        return found

    @contextmanager
    def checking(self) -> Iterator[None]:
        """A block of checks that all processes make; if one fails, all end, and one tells why.

        Raises:
            ProcessError: If another process's check has failed.
        """
        failed: Exception | None = None
        try:
            yield
        except Exception as error:
            if self.world == 1:
                raise
            failed = error
        reached = self.gather(failed is None)
        if not all(reached):
            first = reached.index(False)
            if failed is not None and first == self.rank:
                raise failed
            raise ProcessError(f"process {first} has stopped at a fault, which it tells itself")

    def agree(self, what: Mapping[str, Any]) -> None:
        """Check that all processes say the same.

        Args:
            what: Names and JSON-like values.

        Raises:
            ProcessError: In all of them, naming one that differs, and in what.
        """
        said = self.gather(dict(what))
        for rank, other in enumerate(said):
            differs = [name for name, value in said[0].items() if other.get(name) != value]
            if differs:
                told = "; ".join(
                    f"{key}: {said[0][key]!r} -> {other.get(key)!r}" for key in differs
                )
                raise ProcessError(f"process {rank} was started otherwise than process 0: {told}")

    def _talk(self, begin: Callable[[], dist.Work | None]) -> None:
        """Wait for the others in small steps, so that Ctrl-C is heard meanwhile."""
        try:
            work = begin()
            assert work is not None
            pause = POLL_SECONDS / 64
            while not work.is_completed():
                time.sleep(pause)
                pause = min(2 * pause, POLL_SECONDS)
            work.wait()
        except RuntimeError:
            raise self._lost() from None

    def _lost(self) -> LostError:
        assert self._store is not None
        try:
            self._store.num_keys()
        except RuntimeError:  # without a launcher process 0 holds the store
            return LostError(leader=True)
        return LostError(leader=False)


ALONE = Processes()


def join() -> Processes:
    """All processes of this run, once every one of them has been started.

    Raises:
        ConfigError: If the launcher's environment is not whole.
        ProcessError: If the others do not come.
    """
    launch = read_launch()
    return _meet(launch) if launch.world > 1 else ALONE


@functools.cache
def _meet(launch: Launch) -> Processes:
    try:
        store = _meeting_store(launch)
        if not dist.is_initialized():
            dist.init_process_group(
                "gloo",
                store=PrefixStore("gvbsm", store),
                rank=launch.rank,
                world_size=launch.world,
                timeout=PATIENCE,
            )
    except (RuntimeError, ValueError) as error:
        first = str(error).splitlines()[0]
        raise ProcessError(f"{launch.name} does not find the others: {first}") from None
    return Processes(launch, PrefixStore("gvbsm-work", store))


def _hardware(device: torch.device) -> str:
    """What computes: processes may each call another GPU `cuda:0`."""
    if device.type == "cuda":
        return str(torch.cuda.get_device_properties(device).uuid)
    return str(device)


def _meeting_store(launch: Launch) -> Store:
    """The store in which the processes find each other."""
    if launch.meeting is None:
        store: Store = next(iter(rendezvous("env://", timeout=MEETING)))[0]
    else:
        leads = launch.rank == 0
        store = dist.TCPStore(*launch.meeting, launch.world, leads, MEETING)  # type: ignore[attr-defined]
    return store


def _to_bytes(value: Any) -> Tensor:
    return torch.tensor(list(json.dumps(value).encode()), dtype=torch.uint8)


def _from_bytes(said: Tensor) -> Any:
    return json.loads(bytes(said.tolist()))
