"""The races by which `--precision auto` chooses, and what compiling costs and saves.

    python benchmarks/forms.py [NETWORK ...] [--size 32] [--compile BATCH]

Each network races in each form for each kind of work, on noise: milliseconds a batch of 16 pictures
of 32 pixels, least of three rounds, and the cosine of what is computed to float64. With `--compile`
training and the gradient of the pixels are also compiled, for batches of that size. Torch's cache
of compiled code must be empty, else compiling is only loading: TORCHINDUCTOR_CACHE_DIR names it.
"""

from __future__ import annotations

import argparse
import math

from gvbsm.backbones import build_backbone
from gvbsm.engine.device import Runtime, resolve_runtime
from gvbsm.engine.forms import Form, Kind
from gvbsm.engine.forms.race import CANDIDATES, fastest, race
from gvbsm.engine.seeds import seeded
from gvbsm.pipeline.forms.compiling import (
    EAGER,
    CompileTask,
    compiled_layout,
    time_eager,
    try_compiling,
)
from gvbsm.pipeline.forms.works import prepare
from timing import machine

KINDS: tuple[Kind, ...] = ("training", "pixels", "inference")
NETWORKS = ("convnet128", "resnet18", "wrn16_2", "mobilenet_v2_x0_5", "shufflenet_v2_x0_5")


def race_row(name: str, kind: Kind, size: int, compiled: int, runtime: Runtime) -> str:
    """Race one network in one kind of work, and compile its fastest form; return the row."""
    shape = (3, size, size)
    with seeded(0, "race"):
        network, work = prepare(build_backbone(name, 10, size), kind, shape)
    trials = race(network, work, shape, runtime)
    form = fastest(trials, network)
    cells = [f"{1000 * trial.seconds:.3g} ({trial.cosine:.3f})" for trial in trials]
    if compiled and kind in EAGER:
        cells.append(_compile_cell(form, CompileTask(kind, name, (compiled, *shape), 1), runtime))
    elif compiled:
        cells.append("")
    return f"| {name}, {kind} | {' | '.join(cells)} | {form.name} |"


def _compile_cell(form: Form, task: CompileTask, runtime: Runtime) -> str:
    """Milliseconds of a batch compiled and not; seconds of compiling and of loading."""
    size = task.batch[-1]
    with seeded(0, "race"):
        network, _ = prepare(build_backbone(task.name, 10, size), task.kind, task.batch[1:])
    gradient, eager = time_eager(network, task, runtime.in_form(form))
    in_layout = runtime.in_form(compiled_layout(form, task.kind))
    cost = try_compiling(network, task, gradient, eager, in_layout)
    if isinstance(cost, str):
        return f"is not compiled: {cost}"
    times = f"{1000 * cost.compiled:.3g} instead of {1000 * cost.eager:.3g}"
    return f"{times}, {cost.compiling:.0f} s, {cost.loading:.1f} s"


def main() -> None:
    """Race the networks, and print a row for each kind of work."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("networks", nargs="*", default=NETWORKS)
    parser.add_argument("--size", type=int, default=32, help="side of a picture in pixels")
    parser.add_argument("--compile", type=int, default=0, help="images in a batch; 0 is off")
    parser.add_argument("--device", default="auto", help="cpu, cuda or cuda:N")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of torch")
    options = parser.parse_args()
    runtime = resolve_runtime(
        options.device, "auto", 0, math.inf, quiet=True, threads=options.threads
    )
    print(", ".join(f"{key} {value}" for key, value in machine(runtime).items()))
    columns = [form.name for form in CANDIDATES] + ["compiled"] * bool(options.compile)
    print(f"| network, work | {' | '.join(columns)} | taken |")
    print("|---" * (len(columns) + 2) + "|")
    for name in options.networks:
        for kind in KINDS:
            print(race_row(name, kind, options.size, options.compile, runtime), flush=True)


if __name__ == "__main__":
    main()
