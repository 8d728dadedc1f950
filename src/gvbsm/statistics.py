"""Statistics (GSM): one pass without gradients records what each convolution sees of the real data.

Imported absolutely as `gvbsm.statistics`, it never shadows the standard library's `statistics`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor, nn

from gvbsm.artifacts import PARTIAL, Recipe, is_current, load_tensors, save
from gvbsm.backbones import matched_layers
from gvbsm.config import StatisticsConfig, ViewConfig
from gvbsm.datasets import ImageData
from gvbsm.loading import view_batches
from gvbsm.memory import Halving
from gvbsm.moments import Sums, add, counts, finalize
from gvbsm.observe import LayerSums, Observer, input_shapes, observing
from gvbsm.runtime import RunError, Runtime, first_not_finite
from gvbsm.targets import Statistics

CHUNK = 16  # batches whose sums are kept together: lost at most when stopped


def record_chunks(
    teachers: Mapping[str, nn.Module],
    data: ImageData,
    config: StatisticsConfig,
    views: ViewConfig,
    runtime: Runtime,
    directory: Path,
    recipe: Recipe,
    workers: int = 0,
) -> list[Path]:
    """Sum up the moments of every convolution's input, for several teachers at once.

    The pass is cut into chunks of `CHUNK` batches, each of which ends in a file of its sums. So it
    can be stopped and shared by several processes: a process takes chunks that follow each other.
    Each picture is read and augmented once for all teachers.

    Args:
        teachers: Networks in eval mode, by name.
        data: The real pictures.
        config: The stage's settings.
        views: How pictures are seen: as the synthetic ones are, so that like is matched with like.
        runtime: Device, precision, seed.
        directory: Where the chunks' files go.
        recipe: What they are made from.
        workers: Processes that decode pictures.

    Returns:
        The files of all chunks, in order. Those of other processes need not be there yet.

    Raises:
        RunError: If what a teacher sees is not finite, naming it and its layer.
    """
    steps = math.ceil(len(data.train) / config.batch_size)
    chunks = [
        (index, start, min(start + CHUNK, steps))
        for index in range(config.passes)
        for start in range(0, steps, CHUNK)
    ]
    paths = [directory / f"chunk-{number:05d}{PARTIAL}" for number in range(len(chunks))]
    made = {"recipe": recipe, "batch_size": config.batch_size}
    missing = runtime.processes.same(
        lambda: [number for number, path in enumerate(paths) if not is_current(path, made)]
    )
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
        mine = missing[runtime.processes.part(len(missing))]
        bar.update(sum(stop - start for n, (_, start, stop) in enumerate(chunks) if n not in mine))
        for numbers in _runs(mine, chunks):
            index, start, _ = chunks[numbers[0]]
            batches = view_batches(
                data, views, config.batch_size, runtime, ("statistics", index),
                start=start, stop=chunks[numbers[-1]][2], workers=workers, training=False,
            )  # fmt: skip
            for number in numbers:
                sums: dict[str, Sums] = {}
                for pictures, _ in islice(batches, chunks[number][2] - chunks[number][1]):
                    for name in teachers:
                        _record(sums, name, *watched[name], pictures, runtime)
                    bar.update()
                _check(sums)
                save(paths[number], _pack(sums), {"kind": "chunk", "recipe": made})
    return paths


def _runs(mine: Sequence[int], chunks: Sequence[tuple[int, int, int]]) -> Iterator[list[int]]:
    """Chunks that follow each other within a pass, for which the data are opened once."""
    run: list[int] = []
    for number in mine:
        if run and (number != run[-1] + 1 or chunks[number][0] != chunks[run[0]][0]):
            yield run
            run = []
        run.append(number)
    if run:
        yield run


def add_chunks(paths: Sequence[Path], names: Sequence[str]) -> dict[str, Statistics]:
    """Global channel and patch moments of every convolution's input, by teacher.

    They are the exact moments of all activations of the pass (sum, sum of squares and count in
    float64), so they do not depend on the batch size. Eq. 9 and the authors' code average the
    batches' variances instead, which leaves out the spread between batches. The chunks are added
    in their order, so the bits do not depend on who made them either.

    Args:
        paths: The chunks' files, in order.
        names: The teachers.

    Raises:
        ArtifactError: If a chunk is missing or damaged.
    """
    total: dict[str, Sums] = {}
    for path in paths:
        for key, part in _unpack(load_tensors(path, "chunk")[0]).items():
            total[key] = add(total.get(key), part)
    return {name: _finish(name, total) for name in names}


def _check(sums: Mapping[str, Sums]) -> None:
    if (found := first_not_finite(_pack(sums))) is not None:
        teacher, path, level, _ = found.split("|")
        raise RunError(
            f"statistics of {teacher}: the {level} moments of layer {path} are not finite, so its "
            "activations overflow; train this teacher again with a lower squeeze.optimizer.lr, or "
            "with --precision fp32"
        )


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
