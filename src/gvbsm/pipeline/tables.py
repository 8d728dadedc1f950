"""Format results as tables of text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def format_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Format rows as a table: accuracies in percent, mean and deviation over n students."""
    header = ("method", "student", "ipc", "top-1 %", "best epoch", "n")
    cells = [
        (
            row["method"],
            row["student"],
            "all" if row["ipc"] is None else str(row["ipc"]),
            format_top1(row["top1"]),
            format_top1(row["top1_best"]),
            str(len(row["top1"]["values"])),
        )
        for row in rows
    ]
    return aligned(header, cells)


def format_continual(results: Mapping[str, Any]) -> str:
    """Format the class-incremental protocol as a table: top-1 in percent by classes seen.

    Args:
        results: The content of `continual.json`.
    """
    orders = len(results["orders"])
    header = ("method", "student", "ipc", *map(str, results["classes"]), "average")
    cells = [
        (
            row["method"],
            row["student"],
            str(row["ipc"]),
            *map(format_top1, (*row["steps"], row["average"])),
        )
        for row in results["rows"]
    ]
    caption = f"top-1 % by classes seen, {orders} order{'s' if orders > 1 else ''} of the classes"
    return f"{aligned(header, cells)}\n\n{caption}\n{results['note']}"


def aligned(header: Sequence[str], cells: Sequence[Sequence[str]]) -> str:
    """Align rows of cells under their column heads."""
    widths = [max(map(len, column)) for column in zip(header, *cells, strict=True)]
    lines = [header, ["-" * width for width in widths], *cells]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


def format_top1(top1: Mapping[str, Any]) -> str:
    """Format a mean and deviation in percent; a single student has no deviation."""
    deviation = f" ± {top1['std']:.1f}" if len(top1["values"]) > 1 else ""
    return f"{top1['mean']:.1f}{deviation}"
