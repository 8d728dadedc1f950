"""Statistics (GSM): one pass without gradients records what each convolution sees of the real data.

It never shadows the standard library's `statistics`: imports are absolute.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import NamedTuple

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
from gvbsm.method.capture import HookedObserver
from gvbsm.method.moments import LayerSums, Sums, add, finalize
from gvbsm.method.statistics import Statistics, picture_counts

CLASSES = "classes"  # of a chunk, in the order of its sums' rows
CHUNK = 16  # batches whose sums are kept together: lost at most when stopped


@dataclass(frozen=True)
class StatisticsTask:
    """What is recorded, and where its chunks go.

    Attributes:
        config: The stage's settings.
        views: How pictures are seen: as the synthetic ones are, so that like is matched with like.
        directory: Where the chunks' files go.
        recipe: What they are made from.
        workers: Processes that decode pictures.
        by_class: Sum up each class by itself, and the inputs of BatchNorm layers too.
    """

    config: StatisticsConfig
    views: ViewConfig
    directory: Path
    recipe: Recipe
    workers: int = 0
    by_class: bool = False


class _Chunk(NamedTuple):
    """Batches `start` to `stop` of a pass over the data, whose sums are one file."""

    path: Path
    number: int
    pass_number: int
    start: int
    stop: int


def _cut_into_chunks(task: StatisticsTask, pictures: int) -> list[_Chunk]:
    """All chunks, in order."""
    steps = math.ceil(pictures / task.config.batch_size)
    places = [
        (index, start, min(start + CHUNK, steps))
        for index in range(task.config.passes)
        for start in range(0, steps, CHUNK)
    ]
    return [
        _Chunk(task.directory / f"chunk-{number:05d}{PARTIAL}", number, *place)
        for number, place in enumerate(places)
    ]


def record_chunks(
    teachers: Mapping[str, nn.Module], data: ImageData, task: StatisticsTask, runtime: Runtime
) -> list[Path]:
    """Sum up the moments of every convolution's input, for several teachers at once.

    The pass is cut into chunks of `CHUNK` batches, each of which ends in a file of its sums. So it
    can be stopped and shared by several processes: a process takes chunks that follow each other.
    Each picture is read and augmented once for all teachers.

    Args:
        teachers: Networks in eval mode, by name.
        data: The real pictures.
        task: What is recorded.
        runtime: Device, precision, seed.

    Returns:
        The files of all chunks, in order. Those of other processes need not be there yet.

    Raises:
        RunError: If what a teacher sees is not finite, naming it and its layer.
    """
    config = task.config
    chunks = _cut_into_chunks(task, len(data.train))
    header = {"recipe": task.recipe, "batch_size": config.batch_size}
    missing = runtime.processes.same(
        lambda: [chunk.number for chunk in chunks if not is_current(chunk.path, header)]
    )
    own = [chunks[number] for number in missing[runtime.processes.part(len(missing))]]
    in_order = torch.split(torch.arange(len(data.train)), config.batch_size)
    total = sum(chunk.stop - chunk.start for chunk in chunks)
    with torch.no_grad(), runtime.progress(total, "statistics", "batch") as bar:
        recorders = [_Recorder(*named, data, task, runtime) for named in teachers.items()]
        bar.update(total - sum(chunk.stop - chunk.start for chunk in own))
        for run in _runs(own):
            indices = in_order[run[0].start : run[-1].stop]
            origin = ("statistics", run[0].pass_number)
            batches = view_batches(data, task.views, indices, runtime, origin, task.workers)
            for chunk in run:
                sums: dict[str, Sums] = {}
                places = torch.cat(in_order[chunk.start : chunk.stop])
                classes = torch.unique(data.train.labels[places]) if task.by_class else None
                for pictures, labels in islice(batches, chunk.stop - chunk.start):
                    members = None if classes is None else one_hot(labels, classes)
                    for recorder in recorders:
                        recorder.add(sums, pictures, members)
                    bar.update()
                _check(sums)
                tensors = _pack(sums) | ({} if classes is None else {CLASSES: classes})
                save(chunk.path, tensors, {"kind": "chunk", "recipe": header})
    return [chunk.path for chunk in chunks]


def _runs(chunks: Sequence[_Chunk]) -> Iterator[list[_Chunk]]:
    """Chunks that follow each other within a pass, for which the data are opened once."""
    run: list[_Chunk] = []
    for chunk in chunks:
        if run and (chunk.number != run[-1].number + 1 or chunk.pass_number != run[0].pass_number):
            yield run
            run = []
        run.append(chunk)
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
    return Sums(
        *(value.new_zeros(count, *value.shape[1:]).index_copy(0, classes, value) for value in part)
    )


def _check(sums: Mapping[str, Sums]) -> None:
    if (found := first_not_finite(_pack(sums))) is not None:
        teacher, path, level, _ = found.split("|")
        raise RunError(
            f"statistics of {teacher}: the {level} moments of layer {path} are not finite, so its "
            "activations overflow; train this teacher again with a lower squeeze.optimizer.lr, or "
            "with --precision fp32"
        )


class _Recorder:
    """Adds the sums of a teacher's layers, batch by batch."""

    def __init__(
        self,
        name: str,
        model: nn.Module,
        data: ImageData,
        task: StatisticsTask,
        runtime: Runtime,
    ) -> None:
        shape, n_p = (data.channels, data.image_size, data.image_size), task.config.n_p
        self._name, self._runtime = name, runtime
        self._counts = picture_counts(model, n_p, shape, with_batchnorm=task.by_class)
        self._layers = {path for path, _ in self._counts}
        self._observer = HookedObserver(model, self._layers, n_p, exact=True)
        self._halving = Halving()

    def add(self, sums: dict[str, Sums], pictures: Tensor, members: Tensor | None) -> None:
        """Add a batch's sums; with `members`, float64 (classes, batch), those of each class."""
        done = 0
        for count, layers in self._halving(partial(self._watch, members is not None), pictures):
            for (path, level), per_picture in self._counts.items():
                layer = getattr(layers[path], level)
                if members is None:
                    batch = Sums(per_picture.to(layer.device) * count, *layer[:, 0])
                    key = f"{self._name}|{path}|{level}"
                else:
                    batch = class_sums(layer, members[:, done : done + count], per_picture)
                    key = f"{self._name}|{path}|class_{level}"
                sums[key] = add(sums.get(key), batch)
            done += count

    def _watch(self, per_image: bool, pictures: Tensor) -> tuple[int, dict[str, LayerSums]]:
        groups = len(pictures) if per_image else 1
        with self._runtime.autocast():
            return len(pictures), self._observer(pictures, self._layers, groups)[1]


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
