"""Format results as tables of text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from gvbsm.engine.progress.spelling import spell_count, spell_range
from gvbsm.files.sizes import byte_count

SIZES = ("images", "labels")
CORRUPTED = "corrupted %"
CORRELATIONS = ("spearman", "kendall")


def format_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Format rows as a table: accuracies in percent, mean and deviation over n students."""
    sized = any(row.get("image_bytes") for row in rows)
    tested = any(map(format_corrupted, rows))
    header = ("method", "student", "ipc", "top-1 %", "best epoch", *[CORRUPTED] * tested, "n")
    header += SIZES[: 2 * sized]
    cells = [
        (
            row["method"],
            row["student"],
            format_ipc(row),
            format_top1(row["top1"]),
            format_top1(row["top1_best"]),
            *[format_corrupted(row)] * tested,
            str(len(row["top1"]["values"])),
            *(format_sizes(row) if sized else ()),
        )
        for row in rows
    ]
    return aligned(header, cells)


def format_corrupted(row: Mapping[str, Any]) -> str:
    """Format a row's mean accuracy on corrupted pictures; empty if it is not known."""
    corrupted = row.get("metrics", {}).get("corrupted")
    return "" if corrupted is None else format_top1(corrupted)


def format_ipc(entries: Mapping[str, Any]) -> str:
    """Format the images per class: `10`, `2 to 20` where classes differ, `all` for all pictures.

    Args:
        entries: `ipc` and, where classes differ, `ipc_of`, of a row, a recipe or settings.
    """
    if entries["ipc"] is None:
        return "all"
    return spell_range([entries["ipc"], *entries.get("ipc_of", {}).values()])


def images_per_class(entries: Mapping[str, Any]) -> str:
    """Return `1 image per class`, or `2 to 20 images per class`; `entries` as for `format_ipc`."""
    numbers = format_ipc(entries)
    return f"{numbers} image{'' if numbers == '1' else 's'} per class"


def format_sizes(row: Mapping[str, Any]) -> tuple[str, str]:
    """Format the bytes of a row's images and labels, under `SIZES`; empty if they are not known."""
    if row.get("image_bytes") is None:
        return "", ""
    labels = row["label_bytes"]
    if labels is None:
        return byte_count(row["image_bytes"]), "by teachers"
    return byte_count(row["image_bytes"]), byte_count(labels) if labels else "hard"


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
            format_ipc(row),
            *map(format_top1, (*row["steps"], row["average"])),
        )
        for row in results["rows"]
    ]
    caption = f"top-1 % by classes seen, {orders} order{'s' if orders > 1 else ''} of the classes"
    return f"{aligned(header, cells)}\n\n{caption}\n{results['note']}"


def format_ranking(results: Mapping[str, Any]) -> str:
    """Format a ranking: top-1 of each network by method, and the agreement of the orders.

    Args:
        results: The content of `rank.json`.
    """
    methods = [item["method"] for item in results["agreement"]]
    top1 = {(row["method"], row["student"]): format_top1(row["top1"]) for row in results["rows"]}
    networks = aligned(
        ("network", *methods),
        [(name, *(top1[method, name] for method in methods)) for name in results["models"]],
    )
    cells = [
        (
            item["method"],
            *(_format_correlation(item[name], item["by_seed"][name]) for name in CORRELATIONS),
            f"{item['seconds']:.0f}",
        )
        for item in results["agreement"]
    ]
    head = ("method", "Spearman", "Kendall", "seconds of training")
    early, full = (spell_count(results["epochs"][name], "epoch") for name in ("early", "full"))
    note = (
        "rank correlation with `full` of the mean accuracies (of single seeds); `full`: each seed "
        f"with the others\n`early`: {early} on all pictures; `full`: {full}"
    )
    return f"{networks}\n\n{aligned(head, cells)}\n\n{note}"


def _format_correlation(value: float | None, by_seed: Mapping[str, Any] | None) -> str:
    """Format a correlation of means, and those of single seeds in brackets."""
    words = [] if value is None else [f"{value:.2f}"]
    if by_seed is not None:
        several = len(by_seed["values"]) > 1
        deviation = f" ± {by_seed['std']:.2f}" if several else ""
        words.append(f"({by_seed['mean']:.2f}{deviation})")
    return " ".join(words) or "-"


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
