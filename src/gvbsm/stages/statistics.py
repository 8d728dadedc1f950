"""Statistics (GSM): record the moments of each convolution's input on the real pictures."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
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
from gvbsm.files.artifacts import (
    PARTIAL,
    Recipe,
    is_current,
    is_ours,
    read_header,
    remove,
    remove_all,
)
from gvbsm.files.tensors import load_tensors, save
from gvbsm.method.beyond.class_matching import class_sums, one_hot
from gvbsm.method.capture import HookedObserver
from gvbsm.method.moments import LayerSums, Sums, add, finalize
from gvbsm.method.statistics import Statistics, picture_counts
from gvbsm.store.statistics_codec import pack_statistics

CHUNK = 16  # batches of a chunk; a stop loses one chunk


@dataclass(frozen=True)
class StatisticsTask:
    """Settings of the statistics, and the folder of their chunks.

    Attributes:
        config: The stage's settings.
        views: Views of the real pictures, which are those of synthesis: then both have the same
            distribution of scales and positions.
        directory: Folder of the chunks.
        recipe: Recipe of the chunks; its entry `of` lists those of the statistics.
        workers: Processes that decode pictures.
        parts: Divisions of the training pictures, by name (class, group): the number of the part
            that each picture belongs to, int64 (pictures,). The moments of each part are recorded,
            of the inputs of BatchNorm layers too.
    """

    config: StatisticsConfig
    views: ViewConfig
    directory: Path
    recipe: Recipe
    workers: int = 0
    parts: Mapping[str, Tensor] = field(default_factory=dict)


class _Chunk(NamedTuple):
    """Batches `start` to `stop` of a pass over the data; their sums are saved in one file."""

    path: Path
    number: int
    pass_number: int
    start: int
    stop: int


def _cut_into_chunks(task: StatisticsTask, pictures: int) -> list[_Chunk]:
    """List all chunks, in order."""
    steps = math.ceil(pictures / task.config.batch_size)
    ranges = [
        (index, start, min(start + CHUNK, steps))
        for index in range(task.config.passes)
        for start in range(0, steps, CHUNK)
    ]
    return [
        _Chunk(task.directory / f"chunk-{number:05d}{PARTIAL}", number, *batches)
        for number, batches in enumerate(ranges)
    ]


def record_chunks(
    teachers: Mapping[str, nn.Module], data: ImageData, task: StatisticsTask, runtime: Runtime
) -> list[Path]:
    """Sum up the moments of every convolution's input, for several teachers in one pass.

    The pass is cut into chunks of `CHUNK` batches, and the sums of each are saved in a file. So the
    pass can be stopped, and several processes share it: each takes successive chunks. Each picture
    is read and augmented once for all teachers.

    Args:
        teachers: Networks in eval mode, by name.
        data: The real pictures.
        task: The settings.
        runtime: Device, precision, seed.

    Returns:
        The files of all chunks, in order. Other processes may still be writing theirs.

    Raises:
        RunError: If moments are not finite, naming the teacher and its layer.
    """
    config = task.config
    chunks = _cut_into_chunks(task, len(data.train))
    header = {"recipe": task.recipe, "batch_size": config.batch_size}
    missing = runtime.processes.same(
        lambda: [chunk.number for chunk in chunks if not is_current(chunk.path, header)]
    )
    share = [chunks[number] for number in missing[runtime.processes.part(len(missing))]]
    in_order = torch.split(torch.arange(len(data.train)), config.batch_size)
    total = sum(chunk.stop - chunk.start for chunk in chunks)
    threads = runtime.processes.threads_for(len(chunks))
    with torch.no_grad(), threads, runtime.progress(total, "statistics", "batch") as bar:
        recorders = [_Recorder(*named, data, task, runtime) for named in teachers.items()]
        bar.skip(total - sum(chunk.stop - chunk.start for chunk in share))
        for run in _runs(share):
            indices = in_order[run[0].start : run[-1].stop]
            origin = ("statistics", run[0].pass_number)
            batches = view_batches(data, task.views, indices, runtime, origin, task.workers)
            for chunk in run:
                sums: dict[str, Sums] = {}
                own = in_order[chunk.start : chunk.stop]
                pictures_of = torch.cat(own)
                present = {
                    name: torch.unique(part[pictures_of]) for name, part in task.parts.items()
                }
                for index, (pictures, _) in zip(own, islice(batches, len(own)), strict=True):
                    members = {
                        name: one_hot(part[index].to(pictures.device), present[name])
                        for name, part in task.parts.items()
                    }
                    for recorder in recorders:
                        recorder.add(sums, pictures, members)
                    bar.update()
                _check(sums)
                save(chunk.path, _pack(sums) | present, {"kind": "chunk", "recipe": header})
    return [chunk.path for chunk in chunks]


def _runs(chunks: Sequence[_Chunk]) -> Iterator[list[_Chunk]]:
    """Join successive chunks of a pass, for which the data are opened once."""
    run: list[_Chunk] = []
    for chunk in chunks:
        if run and (chunk.number != run[-1].number + 1 or chunk.pass_number != run[0].pass_number):
            yield run
            run = []
        run.append(chunk)
    if run:
        yield run


def add_chunks(
    paths: Sequence[Path], names: Sequence[str], parts: Mapping[str, int] | None = None
) -> dict[str, Statistics]:
    """Compute the global channel and patch moments of every convolution's input, by teacher.

    They are exact, as those of `method.statistics`. The chunks are added in order, so that the bits
    do not depend on the number of processes.

    Args:
        paths: The chunks' files, in order.
        names: Names of the teachers.
        parts: Number of parts of each division of the pictures (`StatisticsTask.parts`).

    Raises:
        ArtifactError: If a chunk is missing or damaged.
    """
    total: dict[str, Sums] = {}
    for path in paths:
        tensors, _ = load_tensors(path, "chunk")
        for key, sums in _unpack(tensors).items():
            for name, count in (parts or {}).items():
                if key.rpartition("|")[2].startswith(f"{name}_"):
                    sums = _at_numbers(sums, tensors[name], count)
            total[key] = add(total.get(key), sums)
    return {name: _finish(name, total) for name in names}


def save_statistics(
    chunks: Sequence[Path], files: Mapping[str, tuple[Path, Recipe]], parts: Mapping[str, int]
) -> None:
    """Write the statistics of each teacher, and remove the chunks.

    Args:
        chunks: The chunks' files, in order.
        files: File and recipe of the statistics, by teacher.
        parts: Number of parts of each division of the pictures (`StatisticsTask.parts`).

    Raises:
        ArtifactError: If a chunk is missing or damaged.
    """
    for name, statistics in add_chunks(chunks, list(files), parts).items():
        path, recipe = files[name]
        header = {"kind": "statistics", "recipe": recipe, "backbone": name}
        save(path, pack_statistics(statistics), header)
    remove_all(chunks[0].parent.glob("chunk-*"))


def remove_saved_chunks(folder: Path, recipes: Sequence[Recipe]) -> None:
    """Remove the chunks of statistics that are saved: a killed run may have left them.

    Args:
        folder: Folder of the chunks.
        recipes: Recipes of the saved statistics.
    """
    for path in filter(is_ours, folder.glob("chunk-*")):
        task = read_header(path)["recipe"]["recipe"]
        if all(recipe in recipes for recipe in task["of"]):
            remove(path)


def _at_numbers(sums: Sums, numbers: Tensor, count: int) -> Sums:
    """Expand the sums of the parts with these numbers to a row for each of `count` parts."""
    return Sums(
        *(value.new_zeros(count, *value.shape[1:]).index_copy(0, numbers, value) for value in sums)
    )


def _check(sums: Mapping[str, Sums]) -> None:
    if (key := first_not_finite(_pack(sums))) is not None:
        teacher, path, level, _ = key.split("|")
        raise RunError(
            f"statistics of {teacher}: the {level} moments of layer {path} are not finite, so its "
            "activations overflow; train this teacher again with a lower squeeze.optimizer.lr, or "
            "with --precision fp32"
        )


class _Recorder:
    """Sum up the moments of a teacher's layers, batch by batch."""

    def __init__(
        self,
        name: str,
        model: nn.Module,
        data: ImageData,
        task: StatisticsTask,
        runtime: Runtime,
    ) -> None:
        shape, n_p = (data.channels, data.image_size, data.image_size), task.config.n_p
        self._name, self._runtime = name, runtime.of(name, "pixels")
        self._counts = picture_counts(model, n_p, shape, with_batchnorm=bool(task.parts))
        self._layers = {path for path, _ in self._counts}
        self._observer = HookedObserver(model, self._layers, n_p, exact=True)
        self._halving = Halving()

    def add(self, sums: dict[str, Sums], pictures: Tensor, members: Mapping[str, Tensor]) -> None:
        """Add a batch to the sums; with `members`, float64 (parts, batch) each, by part."""
        done = 0
        for count, layers in self._halving(partial(self._watch, bool(members)), pictures):
            for (path, level), per_picture in self._counts.items():
                layer, key = getattr(layers[path], level), f"{self._name}|{path}|"
                if not members:
                    batch = Sums(per_picture.to(layer.device) * count, *layer[:, 0])
                    sums[key + level] = add(sums.get(key + level), batch)
                for part, rows in members.items():
                    batch = class_sums(layer, rows[:, done : done + count], per_picture)
                    part_key = f"{key}{part}_{level}"
                    sums[part_key] = add(sums.get(part_key), batch)
            done += count

    def _watch(self, per_image: bool, pictures: Tensor) -> tuple[int, dict[str, LayerSums]]:
        groups = len(pictures) if per_image else 1
        with self._runtime.autocast():
            return len(pictures), self._observer(pictures, self._layers, groups)[1]


def _finish(name: str, sums: Mapping[str, Sums]) -> Statistics:
    statistics = Statistics(channel={}, patch={})
    for key, layer_sums in sums.items():
        teacher, path, level = key.split("|")
        if teacher != name:
            continue
        getattr(statistics, level)[path] = finalize(layer_sums)
        part, _, all_level = level.rpartition("_")
        # BatchNorm layers hold the moments of all pictures together: these are not recorded.
        if part and f"{teacher}|{path}|{part}_patch" in sums:
            all_sums = Sums(*(value.sum(dim=0) for value in layer_sums))
            getattr(statistics, all_level).setdefault(path, finalize(all_sums))
    return statistics


def _pack(sums: Mapping[str, Sums]) -> dict[str, Tensor]:
    return {
        f"{key}|{field}": value
        for key, layer_sums in sums.items()
        for field, value in layer_sums._asdict().items()
    }


def _unpack(tensors: Mapping[str, Tensor]) -> dict[str, Sums]:
    keys = [name.removesuffix("|n") for name in tensors if name.endswith("|n")]
    return {key: Sums(*(tensors[f"{key}|{field}"] for field in Sums._fields)) for key in keys}
