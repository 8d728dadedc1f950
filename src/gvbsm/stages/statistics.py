"""Statistics (GSM): one pass without gradients records what each convolution sees of the real data.

It never shadows the standard library's `statistics`: imports are absolute.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor, nn

from gvbsm.config import StatisticsConfig, ViewConfig
from gvbsm.data.datasets import ImageData
from gvbsm.data.loading import view_batches
from gvbsm.engine.device import RunError, Runtime
from gvbsm.engine.finite import first_not_finite
from gvbsm.engine.out_of_memory import Halving
from gvbsm.files.artifacts import Recipe, is_current, load_tensors, save
from gvbsm.files.checkpoint import PARTIAL
from gvbsm.method.beyond.class_matching import class_sums, one_hot
from gvbsm.method.capture import HookedObserver, LayerSums, Observer
from gvbsm.method.moments import Sums, add, finalize
from gvbsm.method.statistics import Key, Statistics, picture_counts

CLASSES = "classes"  # of a chunk, in the order of its sums' rows
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
    by_class: bool = False,
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
        by_class: Sum up each class by itself, and the inputs of BatchNorm layers too.

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
    in_order = torch.split(torch.arange(len(data.train)), config.batch_size)
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
            per_picture = picture_counts(model, config.n_p, image_shape, with_batchnorm=by_class)
            layers = {path for path, _ in per_picture}
            observer = HookedObserver(model, layers, config.n_p, exact=True)
            watched[name] = observer, per_picture, Halving()
        mine = missing[runtime.processes.part(len(missing))]
        bar.update(sum(stop - start for n, (_, start, stop) in enumerate(chunks) if n not in mine))
        for numbers in _runs(mine, chunks):
            index, start, _ = chunks[numbers[0]]
            indices = in_order[start : chunks[numbers[-1]][2]]
            batches = view_batches(data, views, indices, runtime, ("statistics", index), workers)
            for number in numbers:
                sums: dict[str, Sums] = {}
                _, first, last = chunks[number]
                own = data.train.labels[first * config.batch_size : last * config.batch_size]
                classes = torch.unique(own) if by_class else None
                for pictures, labels in islice(batches, last - first):
                    rows = None if classes is None else one_hot(labels, classes)
                    for name in teachers:
                        _record(sums, name, *watched[name], pictures, rows, runtime)
                    bar.update()
                _check(sums)
                tensors = _pack(sums) | ({} if classes is None else {CLASSES: classes})
                save(paths[number], tensors, {"kind": "chunk", "recipe": made})
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


def add_chunks(
    paths: Sequence[Path], names: Sequence[str], classes: int = 0
) -> dict[str, Statistics]:
    """Global channel and patch moments of every convolution's input, by teacher.

    They are the exact moments of all activations of the pass (sum, sum of squares and count in
    float64), so they do not depend on the batch size. Eq. 9 and the authors' code average the
    batches' variances instead, which leaves out the spread between batches. The chunks are added
    in their order, so the bits do not depend on who made them either.

    Args:
        paths: The chunks' files, in order.
        names: The teachers.
        classes: Number of classes, if each was summed up by itself.

    Raises:
        ArtifactError: If a chunk is missing or damaged.
    """
    total: dict[str, Sums] = {}
    for path in paths:
        tensors, _ = load_tensors(path, "chunk")
        for key, part in _unpack(tensors).items():
            if CLASSES in tensors:
                part = _at_classes(part, tensors[CLASSES], classes)
            total[key] = add(total.get(key), part)
    return {name: _finish(name, total) for name in names}


def _at_classes(part: Sums, classes: Tensor, count: int) -> Sums:
    """Sums of some classes at their places among all."""
    return Sums(*(
        value.new_zeros(count, *value.shape[1:]).index_copy(0, classes, value) for value in part
    ))  # fmt: skip


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
    per_picture: Mapping[Key, Tensor],
    halving: Halving,
    pictures: Tensor,
    rows: Tensor | None,
    runtime: Runtime,
) -> None:
    """Add a batch's sums; with `rows`, float64 (classes, batch), those of each class."""
    layers = {path for path, _ in per_picture}

    def watch(part: Tensor) -> tuple[int, dict[str, LayerSums]]:
        with runtime.autocast():
            return len(part), observer(part, layers, 1 if rows is None else len(part))[1]

    done = 0
    for count, found in halving(watch, pictures):
        for (path, level), each in per_picture.items():
            layer = getattr(found[path], level)
            if rows is None:
                batch = Sums(each.to(layer.device) * count, *layer[:, 0])
                key = f"{name}|{path}|{level}"
            else:
                batch = class_sums(layer, rows[:, done : done + count], each)
                key = f"{name}|{path}|class_{level}"
            sums[key] = add(sums.get(key), batch)
        done += count


def _finish(name: str, sums: Mapping[str, Sums]) -> Statistics:
    statistics = Statistics(channel={}, patch={})
    for key, part in sums.items():
        owner, path, level = key.split("|")
        if owner != name:
            continue
        getattr(statistics, level)[path] = finalize(part)
        # Of BatchNorm's inputs the network itself knows the moments of all classes together.
        if level != (together := level.removeprefix("class_")) and (
            f"{owner}|{path}|class_patch" in sums
        ):
            whole = Sums(*(value.sum(dim=0) for value in part))
            getattr(statistics, together)[path] = finalize(whole)
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
