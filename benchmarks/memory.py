"""How the peak of memory grows with classes, images and epochs: no stage should hold any of them.

    python benchmarks/memory.py

Each figure comes from a process of its own. Counted is anonymous memory, what a process has
allocated, beyond what it had at the stage's start (Linux's RssAnon, looked at every 2 ms). Pages of
mapped files, such as the images, are left out: the system takes them back when memory is short. The
last table compares an iteration of the synthesis with the bare network.
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

from gvbsm.backbones import build_backbone
from gvbsm.config import EvaluationConfig, LabelsConfig, ViewConfig
from gvbsm.config.build import as_config
from gvbsm.data.class_sizes import ImageCounts
from gvbsm.data.datasets import ImageData
from gvbsm.data.pictures import Split
from gvbsm.data.pixels import Normalization
from gvbsm.engine.device import Runtime, keep_memory
from gvbsm.engine.machine.resident import status_bytes
from gvbsm.stages.evaluation import train_student
from gvbsm.stages.group_files import Groups
from gvbsm.stages.judge import Judge
from gvbsm.stages.labels import LabelTask, generate_labels
from gvbsm.store.batches import Labeler, StudentTask
from gvbsm.store.distilled import images_header, load_images, load_labels, stream_images
from noise import Synthesis

NETWORK = "convnet8_d1"
GROUP = 50  # images
SIZE = 64  # pixels: 12 KB an image
LOOK = 0.002  # seconds


@dataclass(frozen=True)
class Extent:
    """How large a set is, and how long it is trained on."""

    classes: int = 10
    ipc: int = 20
    epochs: int = 1


GROWTH = {"classes": (10, 40, 160), "ipc": (20, 80, 320), "epochs": (1, 4, 16)}


def measure_growth(
    growth: Mapping[str, tuple[int, ...]] = GROWTH, base: Extent | None = None
) -> dict[str, Any]:
    """Peaks of synthesis' assembling, labels and evaluation as one extent grows: in MB, by stage.

    Args:
        growth: Extent -> its values; each time the others are those of `base`.
        base: The smallest set.
    """
    base = base or Extent()
    figures: dict[str, Any] = {stage: {} for stage in WORK}
    for name, values in growth.items():
        for value in values:
            with tempfile.TemporaryDirectory() as folder:
                for stage in WORK:
                    extent = replace(base, **{name: value})
                    peak = alone(stage, extent, Path(folder))
                    figures[stage].setdefault(name, {})[str(value)] = peak
    return {"growth": figures, "base": asdict(base), "pixels": SIZE}


def format_growth(figures: Mapping[str, Any]) -> str:
    """Format the table, a row for each stage and extent."""
    base = ", ".join(f"{value} {name}" for name, value in figures["base"].items())
    lines = [
        f"peak of anonymous memory in MB, beyond the start; {base} unless another is given",
        "",
    ]
    for stage, extents in figures["growth"].items():
        for name, peaks in extents.items():
            columns = "  ".join(f"{value}: {peak:.1f}" for value, peak in peaks.items())
            lines.append(f"{stage:<12}{name:<9}{columns}")
    return "\n".join(lines)


def alone(stage: str, extent: Extent, folder: Path) -> float:
    """Prepare a stage here, and return its peak in a process of its own, in MB."""
    prepare(stage, extent, folder)
    return in_a_process(peak_of, stage, extent, folder)


def in_a_process(measurement: Callable[..., float], *arguments: object) -> float:
    """Return a measurement that was made in a fresh process."""
    context = get_context("forkserver")  # imports are made once
    context.set_forkserver_preload(["gvbsm.stages.evaluation", "gvbsm.stages.synthesis"])
    with ProcessPoolExecutor(max_workers=1, mp_context=context) as pool:
        return pool.submit(measurement, *arguments).result()


def cpu() -> Runtime:
    """The CPU with one thread."""
    torch.set_num_threads(1)
    return Runtime(torch.device("cpu"), "fp32", seed=0, checkpoint_seconds=math.inf, quiet=True)


def peak_of(stage: str, extent: Extent, folder: Path) -> float:
    """Do the work here and return the peak, in MB."""
    runtime = cpu()
    with peak() as highest:
        WORK[stage](extent, folder, runtime)
    return highest() / 1e6


def synthesis_peak(name: str, kind: str) -> float:
    """Return the peak of two steps of 50 images of 32 pixels, in MB: bare, full or compiled."""
    runtime, config = cpu(), as_config("cifar10").synthesis
    keep_memory()
    synthesis = Synthesis(name, config, runtime)
    work = synthesis.bare if kind == "bare" else synthesis.full(kind == "compiled")
    with peak() as highest:
        work()
        work()
    return highest() / 1e6


@contextmanager
def peak() -> Iterator[Callable[[], float]]:
    """Yield a function that returns the peak of bytes so far, less those in use now."""
    start = highest = anonymous_bytes()
    done = threading.Event()

    def look() -> None:
        nonlocal highest
        while not done.wait(LOOK):
            highest = max(highest, anonymous_bytes())

    watcher = threading.Thread(target=look)
    watcher.start()
    try:
        yield lambda: highest - start
    finally:
        done.set()
        watcher.join()


def anonymous_bytes() -> int:
    """Bytes of this process in memory that are of no file."""
    nbytes = status_bytes("RssAnon")
    assert nbytes is not None, "only Linux says how much memory a process takes"
    return nbytes


def prepare(stage: str, extent: Extent, folder: Path) -> None:
    """Write the input of a stage: the groups, or the images."""
    data, count = _data(extent), extent.classes * extent.ipc
    generator = torch.Generator().manual_seed(0)
    if stage == "assembly":
        groups, no_film = _groups(extent, folder), torch.empty(0)
        for number in groups.missing():
            shape = (len(groups.indices[number]), 3, SIZE, SIZE)
            pixels = torch.randint(256, shape, generator=generator, dtype=torch.uint8)
            groups.save(number, pixels, no_film, [])
    elif stage == "labels":
        pixels = torch.randint(256, (count, 3, SIZE, SIZE), generator=generator, dtype=torch.uint8)
        labels = torch.arange(count) // extent.ipc
        batch = torch.arange(len(pixels)), pixels
        stream_images(folder / "images.safetensors", "noise", {}, labels, [batch], data)


def _groups(extent: Extent, folder: Path) -> Groups:
    indices = torch.split(torch.arange(extent.classes * extent.ipc), GROUP)
    header, path = images_header("noise", {}, _data(extent)), folder / "assembled.safetensors"
    counts = ImageCounts.even(extent.classes, extent.ipc)
    return Groups(path, header, indices, counts, 1, (3, SIZE, SIZE), [[]] * len(indices))


def _data(extent: Extent) -> ImageData:
    """Return data with the names of the classes and a few test pictures."""
    pixels = torch.zeros(8, 3, SIZE, SIZE, dtype=torch.uint8)
    split = Split(torch.arange(8) % extent.classes, pixels)
    half = Normalization((0.5,) * 3, (0.5,) * 3)
    names = tuple(map(str, range(extent.classes)))
    return ImageData("noise", names, 3, SIZE, split, split, half, "noise")


def _labels_config(extent: Extent) -> LabelsConfig:
    return LabelsConfig(epochs=extent.epochs, batch_size=GROUP, views=ViewConfig(cutmix=1.0))


def _assemble(extent: Extent, folder: Path, runtime: Runtime) -> None:
    _groups(extent, folder).finish()


def _label(extent: Extent, folder: Path, runtime: Runtime) -> None:
    data, image_set = _data(extent), load_images(folder / "images.safetensors")
    teacher = build_backbone(NETWORK, extent.classes, SIZE).eval().requires_grad_(False)
    task = LabelTask(image_set.images, extent.classes, _labels_config(extent), data.normalization)
    generate_labels(task, [teacher], runtime, folder / "labels", {})


def _evaluate(extent: Extent, folder: Path, runtime: Runtime) -> None:
    data, image_set = _data(extent), load_images(folder / "images.safetensors")
    labels, stored = _labels_config(extent), load_labels(folder / "labels")
    labeler = Labeler(len(image_set.labels), SIZE, labels, runtime, stored, [])
    config = EvaluationConfig(batch_size=GROUP, tests=1)
    task = StudentTask(
        image_set.images, image_set.labels, labeler, data.normalization, config, labels
    )
    path = folder / "student.json"
    train_student(NETWORK, 0, task, Judge(data, runtime, 0), runtime, path, {})


WORK: dict[str, Callable[[Extent, Path, Runtime], None]] = {
    "assembly": _assemble,
    "labels": _label,
    "evaluation": _evaluate,
}


def main() -> None:
    """Measure, print the tables, and write the figures to `--json`."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--network", default="resnet18", help="network of the synthesis")
    parser.add_argument("--json", type=Path, help="file for the figures")
    options = parser.parse_args()
    figures = measure_growth()
    print(format_growth(figures))
    kinds = ("bare", "full", "compiled")
    peaks = {kind: in_a_process(synthesis_peak, options.network, kind) for kind in kinds}
    figures["synthesis"] = {"network": options.network, **peaks}
    columns = ", ".join(f"{kind} {value:.0f} MB" for kind, value in peaks.items())
    print(f"\nsynthesis of 50 images of 32 px, {options.network}: {columns}")
    if options.json is not None:
        options.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
