"""Race every stage of gvbsm against the bare networks: how much of the time is overhead.

    python benchmarks/race.py                                  # about five minutes on two cores
    python benchmarks/race.py --stages student --students resnet18 --batches 25 --profile
    python benchmarks/race.py --all --json race.json           # hours

Each row is a ratio of two steps that were timed in turns in one process: a step of gvbsm and the
bare step that it contains. Bare is the eager network on a batch that is ready, in the same
precision and memory layout: forward and backward to the input (synthesis), forward (statistics,
labels), forward, backward and torch's fused optimizer (squeeze, student).
"""

from __future__ import annotations

import argparse
import itertools
import json
from collections.abc import Iterator
from dataclasses import asdict

from torch.profiler import ProfilerActivity, profile

import contests
from gvbsm.engine.device import Runtime
from timing import (
    MOST,
    Limits,
    Pair,
    Ratio,
    Steps,
    add_options,
    limited,
    machine,
    race,
    repeated,
    runtime_of,
)

STAGES = ("squeeze", "statistics", "synthesis", "labels", "student")
PROFILED = 4  # steps under the profiler
SHOWN = 15  # operations of a profile


def options_of(arguments: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_options(parser)
    parser.add_argument("--stages", nargs="+", default=STAGES, choices=STAGES)
    parser.add_argument("--backbones", nargs="+", default=contests.BACKBONES)
    parser.add_argument("--compiled", nargs="*", default=["convnet128"], metavar="BACKBONE")
    parser.add_argument("--students", nargs="+", default=["convnet128", "resnet18"])
    parser.add_argument("--batches", nargs="+", type=int, default=[25])
    parser.add_argument("--optimizers", nargs="+", default=["adamw", "muon"])
    parser.add_argument("--size", type=int, default=32, help="pixels, of squeeze and student")
    parser.add_argument("--steps", type=int, default=4, help="of an epoch of a student")
    parser.add_argument("--rounds", type=int, default=5, help="least rounds of a row")
    parser.add_argument("--seconds", type=float, default=8.0, help="longest time of a row")
    parser.add_argument("--profile", action="store_true", help="print what costs the difference")
    parser.add_argument("--all", action="store_true", help="all backbones, students and batches")
    options = parser.parse_args(arguments)
    if options.all:
        options.compiled = options.backbones
        options.students, options.batches = contests.STUDENTS, contests.BATCHES
        options.optimizers = list(contests.OPTIMIZERS)
    return options


def chosen(options: argparse.Namespace, runtime: Runtime) -> Iterator[contests.Contest]:
    """Build the contests that the options name, one at a time."""
    backbones = options.backbones
    if "squeeze" in options.stages:
        yield from contests.squeeze(backbones, options.size, runtime)
    if "statistics" in options.stages:
        yield from contests.statistics(backbones, runtime)
    if "synthesis" in options.stages:
        yield from contests.synthesis(backbones, [False], runtime)
        yield from contests.synthesis(options.compiled, [True], runtime)
    if "labels" in options.stages:
        yield from contests.labels(backbones, runtime)
    if "student" in options.stages:
        rounds = max(MOST * options.rounds, PROFILED)
        kinds = itertools.product(options.students, options.batches, options.optimizers)
        students = (contests.Student(*kind, options.size, options.steps) for kind in kinds)
        yield from contests.students(students, rounds, runtime)


def operations(steps: Steps, milliseconds: float) -> dict[str, float]:
    """Split the milliseconds of one step among its operations.

    torch's profiler takes wall time, which other work on the machine prolongs: only the shares of
    the operations are its own.
    """
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        limited(steps, PROFILED)
    times = {row.key: row.self_cpu_time_total for row in profiler.key_averages()}
    total = sum(times.values())
    return {name: milliseconds * value / total for name, value in times.items()}


def differences(contest: contests.Contest, pair: Pair) -> list[str]:
    """List the operations whose times differ most between the step and the bare step."""
    full = operations(contest.steps, 1e3 * pair.full.cpu)
    bare = operations(repeated(contest.bare), 1e3 * pair.bare.cpu)
    more = {name: full.get(name, 0.0) - bare.get(name, 0.0) for name in {**full, **bare}}
    names = sorted(more, key=lambda name: -abs(more[name]))[:SHOWN]
    lines = [f"    {'operation':44} {'full':>8} {'bare':>8} {'more':>8} ms"]
    for name in names:
        columns = (costs.get(name, 0.0) for costs in (full, bare, more))
        lines.append(f"    {name[:44]:44} " + " ".join(f"{value:8.2f}" for value in columns))
    return lines


def main() -> None:
    """Time the contests, print a row for each, and write the figures to `--json`."""
    options = options_of()
    runtime = runtime_of(options)
    print(", ".join(f"{key} {value}" for key, value in machine(runtime).items()))
    print("ratios full / bare: median (quartiles); ms of CPU time")
    print(f"{'':46} {'CPU time':>18} {'wall time':>18} {'full':>9} {'bare':>9}  rounds")
    limits, rows = Limits(options.rounds, options.seconds), []
    for contest in chosen(options, runtime):
        pair = race(contest.steps, contest.bare, contest.period, limits, runtime.device)
        print(row_of(contest, pair), flush=True)
        rows.append({"stage": contest.stage, "name": contest.name, **asdict(pair)})
        if options.profile:
            print("\n".join(differences(contest, pair)), flush=True)
    if options.json is not None:
        figures = {"machine": machine(runtime), "rows": rows}
        options.json.write_text(json.dumps(figures, indent=2) + "\n")


def row_of(contest: contests.Contest, pair: Pair) -> str:
    """Format one row."""
    label = f"{contest.stage}, {contest.name}"
    times = f"{1e3 * pair.full.cpu:9.1f} {1e3 * pair.bare.cpu:9.1f}"
    return f"{label:46} {_text(pair.cpu)} {_text(pair.wall)} {times}  {pair.rounds:6}"


def _text(ratio: Ratio) -> str:
    return f"{ratio.median:5.2f} ({ratio.low:4.2f}-{ratio.high:4.2f})".rjust(18)


if __name__ == "__main__":
    main()
