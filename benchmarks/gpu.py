"""One section of the GPU table of docs/performance.md, as Markdown rows; `gpu.sh` runs them all.

python benchmarks/gpu.py SECTION [--smoke]
"""

from __future__ import annotations

import argparse
import math
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import fmean

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from contests import Student, bare_training, student_steps
from gvbsm.backbones.folding import fold_batchnorm
from gvbsm.config.build import as_config
from gvbsm.engine.device import Runtime, resolve_runtime
from gvbsm.engine.forms import compiled
from gvbsm.engine.out_of_memory import InParts
from gvbsm.stages.labels import LabelTask, generate_labels
from noise import Synthesis, noise_data, teacher
from timing import Work, cost_of, limited, machine

ITERATIONS = 4000  # of a set, as in the paper


@dataclass(frozen=True)
class Setting:
    """What an image costs in a preset: its networks, classes, side, and batches a pass."""

    preset: str
    classes: int
    side: int
    backbones: tuple[str, ...]
    groups: int

    @property
    def label(self) -> str:
        """The preset and the side of its images."""
        return f"{self.preset}, {self.side} px"


@dataclass(frozen=True)
class Sizes:
    """Sizes of all measurements.

    Attributes:
        device: Device.
        settings: Settings of the seconds an image.
        compiled: Networks to compile, each with the index of its setting.
        groups: Numbers of batches a pass that are compared.
        students: Networks, images in a step, optimizers.
        processes: Numbers of students that are trained at the same time.
        steps: Steps of a student that are timed.
        labeled: Images to label.
        matmul: Side of the matrices of the peak.
        seconds: Time that a repeated measurement takes, roughly.
    """

    device: str
    settings: tuple[Setting, ...]
    compiled: tuple[tuple[int, str], ...]
    groups: tuple[int, ...]
    students: tuple[tuple[str, int, str], ...]
    processes: tuple[int, ...]
    steps: int
    labeled: int
    matmul: int
    seconds: float


_SMALL = as_config("cifar10").squeeze.backbones
FULL = Sizes(
    device="cuda",
    settings=(
        Setting("cifar10", 10, 32, _SMALL, 20),
        Setting("tiny-imagenet", 200, 64, _SMALL, 20),
        Setting("imagenet-1k", 1000, 224, as_config("imagenet-1k").squeeze.backbones, 8),
    ),
    compiled=((0, "resnet18"), (0, "convnet128"), (2, "torchvision/resnet18")),
    groups=(1, 5, 20, 40, 80),
    students=(
        ("resnet18", 25, "muon"),
        ("resnet18", 25, "adamw"),
        ("resnet18", 128, "adamw"),
        ("convnet128", 25, "muon"),
        ("convnet128", 128, "adamw"),
    ),
    processes=(1, 4, 8),
    steps=200,
    labeled=1000,
    matmul=8192,
    seconds=1.0,
)
_TINY = ("convnet8_d1", "wrn10_1")
SMOKE = Sizes(
    device="cpu",
    settings=(Setting("cifar10", 4, 8, _TINY, 1), Setting("imagenet-1k", 4, 8, _TINY[:1], 1)),
    compiled=((0, "convnet8_d1"),),
    groups=(1, 2),
    students=(("convnet8_d1", 5, "muon"),),
    processes=(1, 2),
    steps=4,
    labeled=20,
    matmul=128,
    seconds=0.02,
)


def runtime_of(sizes: Sizes, precision: str) -> Runtime:
    """Return the device in a precision."""
    threads = 1 if sizes.device == "cpu" else None
    return resolve_runtime(sizes.device, precision, 0, math.inf, quiet=True, threads=threads)


def seconds_of(work: Work, sizes: Sizes, runtime: Runtime) -> float:
    """Seconds of one call, from many that the GPU may overlap; three first ones do not count."""
    for _ in range(3):
        once = cost_of(work, runtime.device).wall
    count = max(2, int(sizes.seconds / once))

    def repeat() -> None:
        for _ in range(count):
            work()

    return cost_of(repeat, runtime.device).wall / count


def peak_flops(sizes: Sizes, runtime: Runtime) -> float:
    """Operations a second of a large bf16 matrix product."""
    shape = (sizes.matmul, sizes.matmul)
    a, b = (torch.randn(shape, device=runtime.device, dtype=torch.bfloat16) for _ in range(2))
    return 2 * sizes.matmul**3 / seconds_of(lambda: a @ b, sizes, runtime)


def flops_of(work: Work) -> float:
    """Operations of matrix products and convolutions in a piece of work."""
    with FlopCounterMode(display=False) as counter:
        work()
    return float(counter.get_total_flops())


def row(*cells: object) -> None:
    """Print a row at once, since a section may be stopped."""
    print(f"| {' | '.join(map(str, cells))} |", flush=True)


def describe(sizes: Sizes) -> None:
    """Print the machine and its peak."""
    runtime = runtime_of(sizes, "bf16")
    print(", ".join(f"{key} {value}" for key, value in machine(runtime).items()))
    row("work", "figure")
    row("---", "---")
    row("bf16 matrix product, TFLOP/s", f"{peak_flops(sizes, runtime) / 1e12:.1f}")


def students(sizes: Sizes) -> None:
    """Print steps a second of single students, and the share of the peak of their bare step."""
    for precision, kinds in (("bf16", sizes.students), ("fp32", sizes.students[:1])):
        runtime = runtime_of(sizes, precision)
        peak = peak_flops(sizes, runtime)
        for name, batch, optimizer in kinds:
            rate = student_rate(name, batch, optimizer, sizes, runtime)
            bare = bare_training(Student(name, batch, optimizer), runtime)
            bare_rate = 1 / seconds_of(bare, sizes, runtime)
            share = rate * flops_of(bare) / peak
            text = f"{rate:.0f} (bare {bare_rate:.0f}), {share:.1%} of the peak"
            row(f"{name}, batch {batch}, {optimizer}, {precision}: steps / s", text)


def student_rate(name: str, batch: int, optimizer: str, sizes: Sizes, runtime: Runtime) -> float:
    """Steps a second by `fit_student`, which launches steps without waiting for the GPU."""
    warmup, times, count = 20, [], 0
    if sizes.steps < warmup:
        warmup = 1

    def after() -> None:
        nonlocal count
        count += 1
        if count in (warmup, warmup + sizes.steps):
            if runtime.device.type == "cuda":
                torch.cuda.synchronize(runtime.device)
            times.append(time.perf_counter())

    total = warmup + sizes.steps
    limited(student_steps(Student(name, batch, optimizer), total, runtime), total, after)
    return sizes.steps / (times[1] - times[0])


def side_by_side(sizes: Sizes) -> None:
    """Print steps a second of several students, each in a process of its own."""
    name, batch, optimizer = sizes.students[0]
    smoke = ["--smoke"] if sizes is SMOKE else []
    for processes in sizes.processes:
        with tempfile.TemporaryDirectory() as folder:
            command = [sys.executable, __file__, "one-of-several", *smoke, "--folder", folder]
            started = [
                subprocess.Popen(
                    [*command, "--processes", str(processes)], text=True, stdout=subprocess.PIPE
                )
                for _ in range(processes)
            ]
            rates = [float(process.communicate()[0].split()[-1]) for process in started]
        label = f"{processes} processes, {name}, batch {batch}, {optimizer}, bf16: steps / s in all"
        row(label, f"{sum(rates):.0f}")


def one_of_several(sizes: Sizes, folder: Path, processes: int) -> None:
    """Train a student when all processes are ready; print the steps a second."""
    runtime = runtime_of(sizes, "bf16")
    student = sizes.students[0]
    student_rate(*student, replace(sizes, steps=2), runtime)
    with tempfile.NamedTemporaryFile(dir=folder, delete=False):
        while len(list(folder.iterdir())) < processes:
            time.sleep(0.01)
    print(student_rate(*student, sizes, runtime))


def labels(sizes: Sizes) -> None:
    """Print views a second that the teachers of the CIFAR setting label and store."""
    setting = sizes.settings[0]
    data = noise_data(sizes.labeled, setting.classes, setting.side)
    for precision in ("bf16", "fp32"):
        runtime = runtime_of(sizes, precision)
        shape = (3, setting.side, setting.side)
        networks = [
            InParts(fold_batchnorm(teacher(name, runtime, setting.classes, setting.side), shape))
            for name in setting.backbones
        ]
        for batch in (sizes.labeled // 10, sizes.labeled):
            config = replace(as_config("cifar10").labels, epochs=2, batch_size=batch)
            config = replace(config, full_batch_up_to=0)
            task = LabelTask(data.train.images, setting.classes, config, data.normalization)

            work = partial(label, task, networks, runtime)
            rate = 2 * sizes.labeled / seconds_of(work, sizes, runtime)
            name = f"labels of {len(networks)} teachers, {setting.side} px, batch {batch}"
            row(f"{name}, {precision}: views / s", f"{rate:.0f}")


def label(task: LabelTask, networks: Sequence[nn.Module], runtime: Runtime) -> None:
    """Label two epochs of the images, and throw the labels away."""
    with tempfile.TemporaryDirectory() as folder:
        generate_labels(task, networks, runtime, Path(folder), {})


def iteration(setting: Setting, name: str, groups: int, runtime: Runtime) -> Synthesis:
    """Return the synthesis of one network with the preset's batches."""
    config = as_config(setting.preset).synthesis
    sides = (setting.classes, setting.side)
    n_p = as_config(setting.preset).statistics.n_p
    return Synthesis(name, config, runtime, *sides, groups=groups, n_p=n_p)


def images(sizes: Sizes) -> None:
    """Print seconds of 4,000 iterations of an image in each setting, uncompiled."""
    for setting in sizes.settings:
        seconds = [per_image(setting, name, "eager", sizes, "bf16") for name in setting.backbones]
        row(f"**{setting.label}, mean: s / image**", f"**{fmean(seconds):.3f}**")
    for name in sizes.settings[0].backbones:
        per_image(sizes.settings[0], name, "eager", sizes, "fp32")


def compiled_images(sizes: Sizes) -> None:
    """Print seconds of an image with compiled networks, beside uncompiled ones."""
    for index, name in sizes.compiled:
        eager = per_image(sizes.settings[index], name, "eager", sizes, "bf16")
        faster = per_image(sizes.settings[index], name, "compiled", sizes, "bf16")
        row(f"{sizes.settings[index].label}, {name}: compiled / eager", f"{faster / eager:.2f}")


def graph_images(sizes: Sizes) -> None:
    """Print seconds of an image with compiled networks that run as CUDA graphs."""
    compiled.KEEP_LAYOUT["triton.cudagraphs"] = True
    for index, name in sizes.compiled:
        per_image(sizes.settings[index], name, "compiled, CUDA graphs", sizes, "bf16")


def per_image(setting: Setting, name: str, form: str, sizes: Sizes, precision: str) -> float:
    """Print and return the seconds of 4,000 iterations of an image with one network.

    Too little memory gives not a number, so that the other networks are measured.
    """
    label = f"{setting.label}, {name}, {precision}, {form}: s / image"
    try:
        seconds, share = image_cost(setting, name, form, sizes, precision)
    except torch.OutOfMemoryError:
        row(label, f"out of memory with {setting.groups} batches a pass")
        return math.nan
    row(label, f"{seconds:.3f}, {share:.1%} of the peak")
    return seconds


def image_cost(
    setting: Setting, name: str, form: str, sizes: Sizes, precision: str
) -> tuple[float, float]:
    """Return the seconds of an image, and the share of the peak that the bare network reaches."""
    runtime = runtime_of(sizes, precision)
    synthesis = iteration(setting, name, setting.groups, runtime)
    work = marked(synthesis.full(compiled=form != "eager"))
    once = seconds_of(work, sizes, runtime)
    seconds = ITERATIONS * once / len(synthesis.images)
    return seconds, flops_of(synthesis.bare) / once / peak_flops(sizes, runtime)


def marked(work: Work) -> Work:
    """Let CUDA graphs reuse the memory of the last step's results."""

    def step() -> None:
        torch.compiler.cudagraph_mark_step_begin()
        work()

    return step


def groups(sizes: Sizes) -> None:
    """Print images x iterations a second by the number of batches a pass."""
    setting, runtime = sizes.settings[0], runtime_of(sizes, "bf16")
    for name in setting.backbones[:2]:
        rates = {}
        for count in sizes.groups:
            synthesis = iteration(setting, name, count, runtime)
            work = synthesis.full(compiled=False)
            rates[count] = len(synthesis.images) / seconds_of(work, sizes, runtime)
            batch = len(synthesis.images) // count
            label = f"{name}, {count} batches of {batch} a pass: images x iterations / s"
            row(label, f"{rates[count]:.0f}")
        row(f"{name}: best number of batches a pass", max(rates, key=lambda count: rates[count]))


SECTIONS: dict[str, Callable[[Sizes], None]] = {
    "machine": describe,
    "students": students,
    "images": images,
    "labels": labels,
    "compiled": compiled_images,
    "groups": groups,
    "side-by-side": side_by_side,
    "graphs": graph_images,
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one section."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("section", choices=[*SECTIONS, "one-of-several"])
    parser.add_argument("--smoke", action="store_true", help="tiny sizes on the CPU")
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--processes", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    sizes = SMOKE if options.smoke else FULL
    if options.section == "one-of-several":
        one_of_several(sizes, options.folder, options.processes)
    else:
        SECTIONS[options.section](sizes)


if __name__ == "__main__":
    main()
