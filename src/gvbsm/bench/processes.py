"""Synthesis by several processes against one: what `gvbsm bench --processes '[1, 2]'` measures.

Each number of processes is started as a run is, with one thread each, and shares out the same
batches of images; starting and a first small synthesis are not timed. The module is also what is
started: `torchrun ... -m gvbsm.bench.processes FOLDER DEVICE PRECISION`.
"""

from __future__ import annotations

import math
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

from gvbsm.bench.stages import noise_data
from gvbsm.bench.synthesis import STUDENT, Bench
from gvbsm.config import BenchConfig
from gvbsm.engine.device import RunError, resolve_runtime
from gvbsm.engine.processes import join
from gvbsm.files.artifacts import read_json, write_json
from gvbsm.method.matching import make_teacher
from gvbsm.stages.synthesis import SynthesisTask, synthesize_set

IPC, ITERATIONS = 40, 20  # of ten classes: eight batches of 50 images
ANSWER = "seconds.json"


def measure_processes(config: BenchConfig) -> dict[str, Any]:
    """Images x iterations a second against the number of processes; medians of all rounds.

    Raises:
        RunError: If the processes cannot be started.
    """
    rounds: dict[int, list[float]] = {number: [] for number in config.processes}
    for turn in range(config.repeats):
        for number in config.processes if turn % 2 else reversed(config.processes):
            rounds[number].append(_seconds(number, config))
    done = 10 * IPC * ITERATIONS
    rates = {str(number): done / median(seconds) for number, seconds in rounds.items()}
    return {"backbone": STUDENT, "images_per_second": rates}


def _seconds(number: int, config: BenchConfig) -> float:
    with tempfile.TemporaryDirectory() as name:
        launcher = ["torch.distributed.run", "--standalone", "--nproc-per-node", str(number), "-m"]
        module = [*(launcher if number > 1 else []), "gvbsm.bench.processes"]
        done = subprocess.run(
            [sys.executable, "-m", *module, name, config.device, config.precision],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise RunError(f"{number} processes could not be measured: {done.stderr.strip()}")
        return float(read_json(Path(name) / ANSWER)["seconds"])


def work(folder: Path, device: str, precision: str) -> None:
    """The work of each process; the first writes the seconds that all of them took."""
    processes = join()
    runtime = resolve_runtime(device, precision, 0, math.inf, True, 1, processes)
    bench = Bench("cifar10", STUDENT, runtime)
    config = replace(bench.config, iterations=ITERATIONS, compile="never")
    statistics = bench.statistics()
    teacher = make_teacher("bench", bench.model, statistics, config, bench.n_p, bench.shape)

    def synthesize_all(iterations: int, name: str) -> float:
        settings = replace(config, iterations=iterations)
        task = SynthesisTask(
            settings, [teacher], {"bench": statistics}, noise_data(), IPC, bench.n_p
        )
        processes.barrier()
        start = time.perf_counter()
        synthesize_set(task, runtime, folder / name, {"iterations": iterations})
        return time.perf_counter() - start

    synthesize_all(1, "first")
    seconds = synthesize_all(ITERATIONS, "timed")
    if processes.leads:
        write_json(folder / ANSWER, {"seconds": seconds})


if __name__ == "__main__":
    work(Path(sys.argv[1]), *sys.argv[2:])
