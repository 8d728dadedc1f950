"""Synthesis by several processes against one, with one thread each.

    python benchmarks/processes.py --processes 1 2

Each number of processes is started as a run is and shares out the same batches of images. Starting
and a first small synthesis are not timed. The file is also what is started:
`torchrun ... benchmarks/processes.py --worker FOLDER`.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from statistics import median

from gvbsm.config.build import as_config
from gvbsm.data.class_sizes import ImageCounts
from gvbsm.engine.device import resolve_runtime
from gvbsm.engine.processes import join
from gvbsm.method.matching import make_teacher
from gvbsm.stages.synthesis import synthesize_set
from gvbsm.stages.synthesis_task import SynthesisTask
from gvbsm.store.distilled import images_header
from noise import N_P, noise_data, noise_statistics, teacher
from timing import add_options

NETWORK = "convnet128"
IPC, ITERATIONS, ROUNDS = 40, 20, 3  # of ten classes: eight batches of 50 images
ANSWER = "seconds"


def measure(counts: list[int], device: str, precision: str) -> dict[int, float]:
    """Images x iterations a second by the number of processes; medians of all rounds."""
    rounds: dict[int, list[float]] = {count: [] for count in counts}
    for turn in range(ROUNDS):
        for count in counts if turn % 2 else reversed(counts):
            rounds[count].append(seconds_of(count, device, precision))
    images = 10 * IPC * ITERATIONS
    return {count: images / median(seconds) for count, seconds in rounds.items()}


def seconds_of(count: int, device: str, precision: str) -> float:
    """Start processes, and return the seconds of their synthesis."""
    with tempfile.TemporaryDirectory() as name:
        launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(count)]
        script = [*(launcher if count > 1 else []), str(Path(__file__).resolve())]
        options = ["--worker", name, "--device", device, "--precision", precision]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        subprocess.run([sys.executable, *script, *options], env=environment, check=True)
        return float((Path(name) / ANSWER).read_text())


def work(folder: Path, device: str, precision: str) -> None:
    """The work of each process; the first writes the seconds that all of them took."""
    processes = join()
    runtime = resolve_runtime(device, precision, 0, math.inf, True, 1, processes)
    settings = replace(as_config("cifar10").synthesis, beta_dr=0.0, compile="never")
    data, model = noise_data(100), teacher(NETWORK, runtime)
    statistics = noise_statistics(model, classes=10, size=32, by_class=False)
    target = make_teacher("noise", model, statistics, settings, N_P, (3, 32, 32))

    def synthesize_all(iterations: int, name: str) -> float:
        config = replace(settings, iterations=iterations)
        counts = ImageCounts.even(len(data.class_names), IPC)
        task = SynthesisTask(config, [target], {"noise": statistics}, data, counts, N_P)
        header = images_header("noise", {"iterations": iterations}, data)
        processes.barrier()
        start = time.perf_counter()
        synthesize_set(task, runtime, folder / name, header)
        return time.perf_counter() - start

    synthesize_all(1, "first.safetensors")
    seconds = synthesize_all(ITERATIONS, "timed.safetensors")
    if processes.leads:
        (folder / ANSWER).write_text(str(seconds))


def main() -> None:
    """Measure, print the table, and write the figures to `--json`."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_options(parser)
    parser.add_argument("--processes", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--worker", type=Path, help="do the work of one process in this folder")
    options = parser.parse_args()
    if options.worker is not None:
        work(options.worker, options.device, options.precision)
        return
    rates = measure(options.processes, options.device, options.precision)
    first = rates[options.processes[0]]
    print(f"{NETWORK}, images x iterations / s (beside {options.processes[0]})")
    for count, rate in rates.items():
        print(f"{count:4} {rate:8.0f} ({rate / first:.2f})")
    if options.json is not None:
        options.json.write_text(json.dumps(rates, indent=2) + "\n")


if __name__ == "__main__":
    main()
