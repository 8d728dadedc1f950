"""Start the other processes of a command on this machine, and end them with the first.

The process that the user has started is the first. It starts the others with its own command line
and the variables that a launcher would set (`gvbsm.engine.launch`), before torch is imported, so
that all import it at the same time.

- The standard input of another process is a pipe from the first. It closes when the first ends, in
  whatever way, and then the other process ends at once. So it does when the first closes the pipe.
- When another process fails or is killed, the first stops and gives the reason.
- Ctrl-C is blocked in the others, and the other signals stop them without a word: the first alone
  says why it has stopped. A signal that stops the first is sent to the others through the pipe, as
  its number: each saves its checkpoint.

Ending a process at once loses no more than the work since its last checkpoint.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import suppress

from gvbsm.cli.signals import Handler, save_seconds
from gvbsm.config import Config, ConfigError
from gvbsm.data.sources.catalog import may_be_large, side_of
from gvbsm.engine.launch import CORES, LISTENER, STARTED, local_environment, read_launch
from gvbsm.engine.machine.limits import (
    THREADS_GAIN,
    available_memory,
    cores_each,
    may_have_gpu,
    usable_cores,
)
from gvbsm.engine.progress.spelling import spell_count
from gvbsm.pipeline.planning.process_plan import ProcessPlan

log = logging.getLogger("gvbsm")

MOST_PROCESSES = 8  # of `processes: auto`; more of them gain little, and each takes memory
PROCESS_BYTES = 1_200_000_000  # of libraries, small networks and their pictures
SMALL_SIDE, LARGE_SIDE = 64, 224  # pixels, where neither the settings nor the data name the side

# Activations of a training step, for each pixel of the largest batch. Up to SMALL_SIDE the first
# maps have the side of the picture (ResNet-18 at 32 px: 4,960 bytes), above it half or a quarter
# (ResNet-50 at 224 px: 2,010 bytes).
SMALL_PIXEL_BYTES, LARGE_PIXEL_BYTES = 5000, 3000
KILL_SECONDS = 3.0  # after which a process that was asked to end is killed
EXIT_SECONDS = 30.0  # within which the others end by themselves after the work
REPORT_SECONDS = 1.0  # within which the first may find the same fault itself


class Others:
    """The other processes of a command.

    Args:
        handler: Handles the signals of this process; None starts none, since a script that calls
            `main` has no command that could be started again.

    Attributes:
        have_stopped_this: Whether this process was stopped because another one has failed.
    """

    def __init__(self, handler: Handler | None = None) -> None:
        self._handler, self._ending, self.have_stopped_this = handler, False, False
        self._lock = threading.Lock()  # this process is stopped only before it ends the others
        self._processes: list[subprocess.Popen[bytes]] = []
        self._save_seconds = 0.0  # within which the others save their checkpoints
        self._ended: subprocess.Popen[bytes] | None = None  # the first that has failed

    def start(self, config: Config) -> None:
        """Start as many processes as the settings ask for; none where a launcher has done so.

        Raises:
            ConfigError: If the launcher's environment variables are incomplete, or the system
                cannot start the processes that the settings ask for.
        """
        if self._handler is None or "WORLD_SIZE" in os.environ or read_launch().world > 1:
            return
        count = count_processes(config)
        if count == 1:
            return
        threads = config.threads or cores_each(count)
        listener = socket.create_server(("127.0.0.1", 0), backlog=count)
        shared = local_environment(count, listener.getsockname()[1])
        if config.threads is None:
            shared |= {"OMP_NUM_THREADS": str(threads), CORES: str(usable_cores())}
        os.environ.update(shared, RANK="0", LOCAL_RANK="0")
        os.environ[LISTENER] = str(listener.detach())
        log.info("%d processes of %s each", count, spell_count(threads, "thread"))
        self._handler.stop_others = self._stop
        for rank in range(1, count):
            self._start(rank)

    def _start(self, rank: int) -> None:
        environment = {**os.environ, STARTED: "1", "RANK": str(rank), "LOCAL_RANK": str(rank)}
        del environment[LISTENER]
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            process = subprocess.Popen(
                [sys.executable, *sys.orig_argv[1:]],
                env=environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
            )
            self._processes.append(process)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        threading.Thread(target=self._watch, args=(process,), daemon=True).start()

    def _stop(self, number: int) -> None:
        """Let the others save their checkpoints and end, as this process does after a signal."""
        self._ending, self._save_seconds = True, save_seconds(number)
        for process in self._processes:
            assert process.stdin is not None
            with suppress(OSError):
                os.write(process.stdin.fileno(), bytes([number]))

    def _watch(self, process: subprocess.Popen[bytes]) -> None:
        """Stop this process when another one fails."""
        if process.wait() == 0:
            return
        self._ended = self._ended or process
        time.sleep(REPORT_SECONDS)
        with self._lock:
            if not self._ending:
                main = threading.main_thread().ident
                assert main is not None
                self.have_stopped_this = True
                signal.pthread_kill(main, signal.SIGTERM)

    @property
    def have_started(self) -> bool:
        """Whether there are any."""
        return bool(self._processes)

    def failure(self) -> tuple[int, str] | None:
        """Exit code and message if another process has ended before the work was done.

        The message is empty if the other process has given the reason itself. From now on this
        process is not stopped any more.
        """
        with self._lock:
            self._ending = True
        end = time.monotonic() + REPORT_SECONDS
        while self._processes and self._ended is None and time.monotonic() < end:
            time.sleep(0.02)
        if self._ended is None:
            return None
        code, rank = self._ended.returncode, self._processes.index(self._ended) + 1
        code = 128 - code if code > 128 else code
        if code > 0:
            return code, ""
        who, name = f"process {rank} of {len(self._processes) + 1}", signal.Signals(-code).name
        if name != "SIGKILL":
            return 1, f"{who} was ended by {name}; the same command resumes"
        return 1, (
            f"{who} was killed, as Linux does when memory runs out; the same command resumes, and "
            "--processes 1 takes less memory"
        )

    def end(self, done: bool) -> None:
        """Wait until the other processes have ended; if the work is not done, end them."""
        with self._lock:
            self._ending = True
        end = time.monotonic() + (EXIT_SECONDS if done else self._save_seconds)
        for process in self._processes:
            with suppress(subprocess.TimeoutExpired):
                process.wait(max(0.0, end - time.monotonic()))
        for process in self._processes:
            assert process.stdin is not None
            process.stdin.close()
        end = time.monotonic() + KILL_SECONDS
        for process in self._processes:
            try:
                process.wait(max(0.0, end - time.monotonic()))
            except (subprocess.TimeoutExpired, KeyboardInterrupt):
                process.kill()
                process.wait()


def count_processes(config: Config) -> int:
    """Return the number of processes in which a command runs by itself.

    `auto` is one process where threads are given (by the settings or OMP_NUM_THREADS), where a GPU
    does the work, and where all processes would train every network together. Otherwise it is the
    number that uses the cores best among those that fit into the memory.

    Raises:
        ConfigError: If the system cannot start the processes that the settings ask for.
    """
    if config.processes != "auto":
        if os.name != "posix" and config.processes > 1:
            raise ConfigError("processes must be 1 on this system; start several with torchrun")
        return config.processes
    parallel = {config.squeeze.parallel, config.evaluation.parallel}
    if (
        config.threads is not None
        or os.environ.get("OMP_NUM_THREADS")
        or os.name != "posix"
        or parallel != {"networks"}
        or _takes_gpu(config.device)
    ):
        return 1
    cores, memory = usable_cores(), available_memory()
    most = min(cores, MOST_PROCESSES)
    if memory is not None:
        most = max(1, min(most, memory // process_bytes(config)))
    return max(
        range(1, most + 1), key=lambda count: count * cores_each(count, cores) ** THREADS_GAIN
    )


def planned_processes(config: Config) -> ProcessPlan:
    """Return the processes in which a command would compute.

    Raises:
        ConfigError: As `count_processes`.
    """
    count = count_processes(config)
    return ProcessPlan(count, shares_cores=config.threads is None and count > 1)


def process_bytes(config: Config) -> int:
    """Estimate the memory of one process; too much rather than too little."""
    batch = max(
        config.squeeze.batch_size,
        config.synthesis.batch_size,
        config.evaluation.batch_size,
        config.statistics.batch_size // 4,  # without gradients
    )
    usual_side = LARGE_SIDE if may_be_large(config.data.name) else SMALL_SIDE
    side = config.data.image_size or side_of(config.data.name) or usual_side
    pixel_bytes = SMALL_PIXEL_BYTES if side <= SMALL_SIDE else LARGE_PIXEL_BYTES
    return PROCESS_BYTES + pixel_bytes * batch * side**2


def _takes_gpu(device: str) -> bool:
    if device == "auto" and may_have_gpu():
        import torch

        return torch.cuda.is_available()
    return device not in ("auto", "cpu")


def end_with_first(handler: Handler) -> None:
    """In a process that another one has started: stop with that one, and end when it ends."""
    threading.Thread(target=_await_end, args=(handler,), daemon=True).start()


def _await_end(handler: Handler) -> None:
    main = threading.main_thread().ident
    assert main is not None
    with suppress(OSError):
        while number := os.read(0, 1):
            if not handler.received:  # a signal may come to all processes by itself
                by_user = number[0] == signal.SIGINT  # which is blocked here
                signal.pthread_kill(main, signal.SIGTERM if by_user else number[0])
    os._exit(1)
