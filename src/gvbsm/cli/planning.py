"""The verb `plan`: print what a run costs, before it is begun."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

from gvbsm.cli.budget import within_budget
from gvbsm.cli.parsing import parse_run, start_log
from gvbsm.cli.starting import planned_processes
from gvbsm.engine.progress.spelling import spell_duration
from gvbsm.files.sizes import byte_count

if TYPE_CHECKING:
    from gvbsm.pipeline.planning.plan import Plan, PlannedPart


def plan_verb(argv: list[str]) -> int:
    """Print the parts of a run with their time, memory and bytes, as a table or with `--json`."""
    parsed = parse_run("plan", argv)
    if parsed is None:
        return 0
    start_log(parsed.quiet, parsed.log_format)
    parsed = within_budget(parsed, keep=False)
    config, processes = parsed.config, planned_processes(parsed.config)
    from gvbsm.engine.torch_defaults import torch_defaults
    from gvbsm.pipeline.planning.planner import plan_here

    with torch_defaults():
        plan = plan_here(config, parsed.workdir, None, parsed.quiet, processes)
    print(json.dumps(plan.to_dict(), indent=2) if "--json" in parsed.flags else format_plan(plan))
    return 0


class Row(NamedTuple):
    """A line of the table: equal parts, such as the students of all seeds.

    Attributes:
        group: What they belong to.
        what: What is made.
        parts: The parts.
    """

    group: str
    what: str
    parts: tuple[PlannedPart, ...]

    def cells(self) -> tuple[str, ...]:
        """The cells of the line."""
        seconds = sum(part.wall_seconds for part in self.parts)
        is_made = all(part.is_made for part in self.parts)
        peaks = [part.memory for part in self.parts if part.memory is not None]
        nbytes = sum(part.nbytes for part in self.parts)
        return (
            self.group,
            self.what,
            str(len(self.parts)),
            "made" if is_made else spell_duration(seconds),
            byte_count(max(peaks)) if peaks else "",
            byte_count(nbytes) if nbytes else "",
        )


def format_plan(plan: Plan) -> str:
    """Write a plan as a table with a line for equal parts, and its totals."""
    table = [
        ("part", "what", "count", "time", "memory", "disk"),
        *(row.cells() for row in _rows(plan)),
    ]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    left = (True, True, False, False, False, False)
    lines = [
        "  ".join(
            cell.ljust(width) if is_left else cell.rjust(width)
            for cell, width, is_left in zip(row, widths, left, strict=True)
        ).rstrip()
        for row in table
    ]
    where = f"{plan.processes} processes" if plan.processes > 1 else "one process"
    groups = [
        f"{group} {spell_duration(sum(part.wall_seconds for part in parts))}"
        for group, parts in plan.groups().items()
    ]
    lines += ["", f"by part:  {', '.join(groups)}"]
    lines += [f"time:     {spell_duration(plan.seconds)} in {where} on this machine"]
    if plan.memory is not None:
        each = " per process" if plan.processes > 1 else ""
        lines += [f"memory:   {byte_count(plan.memory)}{each}"]
    lines += [f"disk:     {byte_count(plan.nbytes)}", f"done at:  {plan.end():%Y-%m-%d %H:%M}"]
    return "\n".join(lines)


def _rows(plan: Plan) -> Iterator[Row]:
    """Join the parts that differ in seed or draw alone."""
    rows: dict[tuple[str, str], list[PlannedPart]] = {}
    for part in itertools.chain(*plan.groups().values()):
        if part.wall_seconds or part.nbytes or part.is_made:
            rows.setdefault((part.group, part.what), []).append(part)
    for (group, what), parts in rows.items():
        yield Row(group, what, tuple(parts))
