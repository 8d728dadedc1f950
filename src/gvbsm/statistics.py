"""Statistics (GSM): one pass without gradients records what each convolution sees of the real data.

Imported absolutely as `gvbsm.statistics`, it never shadows the standard library's `statistics`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import ExitStack

import torch
from torch import Tensor, nn

from gvbsm.artifacts import Checkpoint, Statistics
from gvbsm.backbones import matched_layers
from gvbsm.config import StatisticsConfig, ViewConfig
from gvbsm.datasets import ImageData
from gvbsm.loading import view_batches
from gvbsm.memory import Halving
from gvbsm.moments import Sums, add, counts, finalize
from gvbsm.observe import LayerSums, Observer, input_shapes, observing
from gvbsm.runtime import Runtime


def record_statistics(
    teachers: Mapping[str, nn.Module],
    data: ImageData,
    config: StatisticsConfig,
    views: ViewConfig,
    runtime: Runtime,
    checkpoint: Checkpoint,
    workers: int = 0,
) -> dict[str, Statistics]:
    """Global channel and patch moments of every convolution's input, for several teachers at once.

    They are the exact moments of all activations of the pass (sum, sum of squares and count in
    float64), so they do not depend on the batch size. Eq. 9 and the authors' code average the
    batches' variances instead, which leaves out the spread between batches. Each picture is read
    and augmented once for all teachers.

    Args:
        teachers: Networks in eval mode, by name.
        data: The real pictures.
        config: The stage's settings.
        views: How pictures are seen: as the synthetic ones are, so that like is matched with like.
        runtime: Device, precision, seed.
        checkpoint: Where half-done work is kept.
        workers: Processes that decode pictures.
    """
    sums: dict[str, Sums] = {}
    step = 0
    if (found := checkpoint.load()) is not None:
        tensors, state = found
        step = state["step"]
        sums = _unpack(tensors)
    steps = math.ceil(len(data.train) / config.batch_size)
    image_shape = (data.channels, data.image_size, data.image_size)
    with ExitStack() as contexts:
        contexts.enter_context(torch.no_grad())
        bar = contexts.enter_context(runtime.progress(steps * config.passes, "statistics", "batch"))
        watched = {}
        for name, model in teachers.items():
            shapes = input_shapes(model, matched_layers(model).conv, image_shape)
            observer = contexts.enter_context(observing(model, shapes, config.n_p, exact=True))
            per_picture = {path: counts(shape, config.n_p) for path, shape in shapes.items()}
            watched[name] = observer, per_picture, Halving()
        bar.update(step)
        while step < steps * config.passes:
            origin = ("statistics", step // steps)
            for pictures, _ in view_batches(
                data, views, config.batch_size, runtime, origin,
                start=step % steps, workers=workers, training=False,
            ):  # fmt: skip
                for name in teachers:
                    _record(sums, name, *watched[name], pictures, runtime)
                step += 1
                bar.update()
                if step < steps * config.passes and checkpoint.due():
                    checkpoint.save(_pack(sums), {"step": step})
    return {name: _finish(name, sums) for name in teachers}


def _record(
    sums: dict[str, Sums],
    name: str,
    observer: Observer,
    per_picture: Mapping[str, tuple[Tensor, Tensor]],
    halving: Halving,
    pictures: Tensor,
    runtime: Runtime,
) -> None:
    def watch(part: Tensor) -> tuple[int, dict[str, LayerSums]]:
        with runtime.autocast():
            return len(part), observer(part, per_picture.keys())[1]

    for count, found in halving(watch, pictures):
        for path, layer in found.items():
            for level, each in zip(LayerSums._fields, per_picture[path], strict=True):
                total, squares = getattr(layer, level)[:, 0]
                part = Sums(each.to(total.device) * count, total, squares)
                key = f"{name}|{path}|{level}"
                sums[key] = add(sums.get(key), part)


def _finish(name: str, sums: Mapping[str, Sums]) -> Statistics:
    statistics = Statistics(channel={}, patch={})
    for key, part in sums.items():
        owner, path, level = key.split("|")
        if owner == name:
            table = statistics.channel if level == "channel" else statistics.patch
            table[path] = finalize(part)
    return statistics


def _pack(sums: Mapping[str, Sums]) -> dict[str, Tensor]:
    return {
        f"{key}|{field}": value
        for key, part in sums.items()
        for field, value in part._asdict().items()
    }


def _unpack(tensors: Mapping[str, Tensor]) -> dict[str, Sums]:
    keys = [name.removesuffix("|n") for name in tensors if name.endswith("|n")]
    return {key: Sums(*(tensors[f"{key}|{field}"] for field in Sums._fields)) for key in keys}
