"""Cost of the label store beside plain files of as many bytes, and beside a network.

    python benchmarks/storage.py

Labels of 1,000 classes are written and read, batch by batch, in the ways that they are kept. Beside
each stands a plain file of as many bytes, written (to the disk, as the store is) or read at once;
both are read while the system still holds them in memory. The network that labels is the fastest of
the paper's, with a batch of 100 pictures of 32 pixels.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from dataclasses import asdict
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch

from gvbsm.config import LabelsConfig, LabelStorageConfig, ViewConfig
from gvbsm.data.epochs import draw_plan
from gvbsm.engine.device import Runtime
from gvbsm.stages.labels import new_store
from gvbsm.store.distilled import load_labels
from gvbsm.store.soft_labels import LabeledEpochs
from noise import teacher
from timing import Limits, add_options, cost_of, machine, race, repeated, runtime_of

NETWORK = "convnet128"
IMAGES, CLASSES, SIZE, EPOCHS = 1000, 1000, 224, 8  # 16 MB of logits
ROUNDS = 3
STORAGES = {
    "16 bits": LabelStorageConfig(),
    "8 bits": LabelStorageConfig(bits=8),
    "top 10, 8 bits": LabelStorageConfig(top_k=10, bits=8),
}


def measure(storage: LabelStorageConfig, runtime: Runtime) -> dict[str, Any]:
    """Return the bytes of a label and, for `write` and `read`, a pair (store, plain) of times."""
    labels = LabelsConfig(epochs=EPOCHS, views=ViewConfig(cutmix=1.0), storage=storage)
    plans = [draw_plan(IMAGES, SIZE, labels.views, epoch, runtime) for epoch in range(EPOCHS)]
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(IMAGES, CLASSES, generator=generator).half()
    with tempfile.TemporaryDirectory() as name:
        folder, plain = Path(name) / "labels", Path(name) / "plain"
        store = new_store(folder, labels, IMAGES, CLASSES, SIZE, runtime, {})

        def labeled(epoch: int) -> LabeledEpochs:
            batches = torch.split(plans[epoch].order, store.batch)
            return [plans[epoch]], (store.encode(logits[index]) for index in batches)

        def write() -> None:
            for shard in store.shards:
                store.write(shard, map(labeled, shard.epochs))

        def read() -> None:
            opened = load_labels(folder)
            for epoch in opened.kept:
                plan, kept = opened.epoch(epoch)
                for index in torch.split(plan.order, opened.batch):
                    kept.logits(index)

        def write_plain() -> None:
            with plain.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())

        store.write_index()
        write()
        content = bytes(store.nbytes())
        timed = partial(race, period=1, limits=Limits(ROUNDS, 5.0), device=runtime.device)
        pairs = {
            "write": timed(repeated(write), write_plain),
            "read": timed(repeated(read), plain.read_bytes),
        }
    count = IMAGES * EPOCHS
    rates = {
        key: {**asdict(pair), "labels_per_second": count / pair.full.wall}
        for key, pair in pairs.items()
    }
    return {"bytes": len(content) / count, **rates}


def labels_per_second(runtime: Runtime) -> float:
    """Labels a second of the network alone."""
    model = teacher(NETWORK, runtime)
    pictures = torch.randn(100, 3, 32, 32, device=runtime.device)

    def forward() -> None:
        with torch.no_grad(), runtime.autocast():
            model(pictures)

    forward()
    seconds = median(cost_of(forward, runtime.device).wall for _ in range(2 * ROUNDS))
    return len(pictures) / seconds


def main() -> None:
    """Measure, print the table, and write the figures to `--json`."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_options(parser)
    options = parser.parse_args()
    runtime = runtime_of(options)
    print(", ".join(f"{key} {value}" for key, value in machine(runtime).items()))
    print(f"{'labels of 1,000 classes':36} {'store / plain file (wall)':>26} {'labels / s':>12}")
    schemes = {}
    for name, storage in STORAGES.items():
        row = schemes[name] = measure(storage, runtime)
        for work, verb in (("write", "written"), ("read", "read")):
            label = f"{name}, {row['bytes']:.0f} bytes a label, {verb}"
            rate = row[work]["labels_per_second"]
            print(f"{label:36} {row[work]['wall']['median']:26.1f} {rate:12.0f}", flush=True)
    rate = labels_per_second(runtime)
    print(f"{NETWORK + ' alone':36} {'':26} {rate:12.0f}")
    if options.json is not None:
        figures = {"machine": machine(runtime), "schemes": schemes, "network": rate}
        options.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
