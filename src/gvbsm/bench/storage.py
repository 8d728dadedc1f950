"""Cost of the label store beside plain files of as many bytes, and beside a network."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

import torch

from gvbsm.bench.synthesis import STUDENT, Bench
from gvbsm.bench.timing import compare, seconds_of
from gvbsm.config import BenchConfig, LabelsConfig, LabelStorageConfig, ViewConfig
from gvbsm.data.epochs import draw_plan
from gvbsm.engine.device import Runtime
from gvbsm.stages.labels import new_store
from gvbsm.store.distilled import load_labels
from gvbsm.store.soft_labels import LabeledEpoch

IMAGES, CLASSES, SIZE, EPOCHS = 1000, 1000, 224, 8  # 16 MB of logits
STORAGES = {
    "16 bits": LabelStorageConfig(),
    "8 bits": LabelStorageConfig(bits=8),
    "top 10, 8 bits": LabelStorageConfig(top_k=10, bits=8),
}


def measure_storage(config: BenchConfig, runtime: Runtime) -> dict[str, Any]:
    """Write and read labels of 1000 classes, batch by batch, in the ways that they are kept.

    Beside each stands a plain file of as many bytes, written (to the disk, as the store is) or read
    at once; both are read while the system still holds them in memory. A network that labels is
    represented by the fastest of the paper's, with a batch of 100 CIFAR-sized pictures.

    Returns:
        `network` and its `labels_per_second`; and for each of `schemes` the `bytes` of a label,
        and for `write` and `read` a pair of times (plain, store) and `labels_per_second`.
    """
    network = Bench("cifar10", STUDENT, runtime, batch=100)
    network.forward()
    seconds = median(seconds_of(network.forward, runtime) for _ in range(config.repeats))
    return {
        "network": STUDENT,
        "labels_per_second": len(network.images) / seconds,
        "schemes": {name: _measure(kept, config, runtime) for name, kept in STORAGES.items()},
    }


def _measure(storage: LabelStorageConfig, config: BenchConfig, runtime: Runtime) -> dict[str, Any]:
    labels = LabelsConfig(epochs=EPOCHS, views=ViewConfig(cutmix=1.0), storage=storage)
    plans = [draw_plan(IMAGES, SIZE, labels.views, epoch, runtime) for epoch in range(EPOCHS)]
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(IMAGES, CLASSES, generator=generator).half()
    with tempfile.TemporaryDirectory() as name:
        folder, plain = Path(name) / "labels", Path(name) / "plain"
        store = new_store(folder, labels, IMAGES, CLASSES, SIZE, runtime, {})

        def labeled(epoch: int) -> LabeledEpoch:
            return plans[epoch], lambda index: store.encode(logits[index])

        def write() -> None:
            for shard in store.shards:
                store.write(shard, labeled, lambda: None)

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
        pairs = {
            "write": compare(write_plain, write, config.repeats, runtime),
            "read": compare(plain.read_bytes, read, config.repeats, runtime),
        }
    count = IMAGES * EPOCHS
    rates = {
        key: {**vars(pair), "labels_per_second": count / pair.full} for key, pair in pairs.items()
    }
    return {"bytes": len(content) / count, **rates}
