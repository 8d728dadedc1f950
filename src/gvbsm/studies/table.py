"""The results of a study: what its files hold, and the table on the terminal.

`DIR/STUDY.json` is written after each point, and holds

    format    1
    study, title, source, axes, additive   as in the study's file (`studies`)
    origin    `preset`, which all points vary (null if it is not known), and `changed`: names of the
              settings that the command line changed of it (`origin`)
    paper     the paper's accuracies, one entry each: `point`, `data`, `student`, `ipc` and `top1`
              in percent (`published`)
    points    one entry a point, done or not: `name`, `axes` (axis -> value), `done`, `folders` (in
              DIR, one a repeat) and `config` (all settings, of the first repeat)
    rows      one entry a point, method and student:
        study, point, axes       `point` null and `axes` empty: a baseline that is the same at all
                                 points that are done
        method, student, ipc     `ipc` null: the whole training set
        seeds                    seeds of the runs (one, or --repeat)
        top1, top1_best          `mean`, `std` (sample deviation), `n` and `values` over all
                                 students of all seeds, in percent: of the last epoch, and of the
                                 best test
        synthesis_seconds        time of all iterations of one run, the mean over seeds; null if
                                 real pictures were selected, or if the synthesis had a break
        seconds_per_iteration    that, for one batch of images
        seconds                  time in which the images were made, or selected: the mean over
                                 seeds; null if it is not known, and for the whole training set
        bytes                    of pixels and of soft labels on disk, together
        image_bytes, label_bytes pixels, and soft labels on disk; null for the whole training set
        recipe                   hash of all that the students' results depend on
    versions  gvbsm, torch, device, precision ... of the point that was run last

`DIR/STUDY.csv` holds the rows, one column a number. Its `paper_top1` is the paper's accuracy of the
same point, data set, student and images per class; empty where the paper gives none.
"""

from __future__ import annotations

import csv
import itertools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from gvbsm.config.provenance import Origin
from gvbsm.files.artifacts import atomic
from gvbsm.pipeline.results import aligned, format_top1
from gvbsm.studies.published import split_published

Row = dict[str, Any]
OTHER_PUBLISHED = "the paper's accuracies for other data sets, students or images per class:"


def merge_shared_baselines(rows: Sequence[Row], own: set[str]) -> list[Row]:
    """Tell a baseline that is the same at all points, as random pictures may be, once.

    Args:
        rows: All rows so far.
        own: The points' own methods, which are told at each point.
    """
    points = {row["point"] for row in rows}
    recipes: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        recipes.setdefault((row["method"], row["student"]), []).append(row["recipe"])
    common = {
        key
        for key, found in recipes.items()
        if key[0] not in own and len(set(found)) == 1 < len(points) == len(found)
    }
    told: list[Row] = []
    shared: dict[tuple[str, str], Row] = {}
    for row in rows:
        key = row["method"], row["student"]
        if key in common:
            shared.setdefault(key, {**row, "point": None, "axes": {}})
        else:
            told.append(row)
    return [*told, *shared.values()]


class Gain(NamedTuple):
    """What a point of an additive study adds to the one before.

    Attributes:
        mean: Difference of the means, in percentage points.
        error: Its standard error, from the sample deviations of both points' students, which are
            independent: sqrt(s1^2 / n1 + s2^2 / n2); None if either has one student alone.
    """

    mean: float
    error: float | None

    def __str__(self) -> str:
        error = "" if self.error is None else f" ± {self.error:.1f}"
        return f"{self.mean:+.1f}{error}"


def gains(content: Mapping[str, Any]) -> dict[tuple[str, str], Gain]:
    """The gain of each point of an additive study over the one before, by point and student.

    Of the points' own methods; the first point has none, and neither has one whose student was not
    tested at the point before.

    Args:
        content: What `STUDY.json` holds.
    """
    if not content.get("additive"):
        return {}
    own = {entry["name"]: entry["config"]["method"] for entry in content["points"]}
    found = {
        (row["point"], row["student"]): row["top1"]
        for row in content["rows"]
        if own.get(row["point"]) == row["method"]
    }
    pairs = list(itertools.pairwise(own))
    return {
        (after, student): _gain(found[before, student], top1)
        for before, after in pairs
        for (point, student), top1 in found.items()
        if point == after and (before, student) in found
    }


def _gain(before: Mapping[str, Any], after: Mapping[str, Any]) -> Gain:
    counts = [len(top1["values"]) for top1 in (before, after)]
    squares = [top1["std"] ** 2 / n for top1, n in zip((before, after), counts, strict=True)]
    return Gain(
        after["mean"] - before["mean"], math.sqrt(sum(squares)) if min(counts) > 1 else None
    )


def write_csv(path: Path, content: Mapping[str, Any]) -> None:
    """One line a row, one column a number."""
    axes, versions = content["axes"], content["versions"]
    plain = (
        "method",
        "student",
        "ipc",
        "synthesis_seconds",
        "seconds_per_iteration",
        "seconds",
        "bytes",
        "image_bytes",
        "label_bytes",
    )
    spreads = [(key, part) for key in ("top1", "top1_best") for part in ("mean", "std")]
    head = [
        "study",
        "point",
        *axes,
        *plain,
        "n",
        *(f"{key}_{part}" for key, part in spreads),
        "top1_values",
        "paper_top1",
        "seeds",
        *versions,
    ]
    with atomic(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(head)
        for row, figure in zip(content["rows"], split_published(content)[0], strict=True):
            writer.writerow(
                [
                    row["study"],
                    row["point"],
                    *(row["axes"].get(axis) for axis in axes),
                    *(row[key] for key in plain),
                    row["top1"]["n"],
                    *(row[key][part] for key, part in spreads),
                    " ".join(map(str, row["top1"]["values"])),
                    None if figure is None else figure.top1,
                    " ".join(map(str, row["seeds"])),
                    *versions.values(),
                ]
            )


def format_study(content: Mapping[str, Any]) -> str:
    """Format a study as text: its rows, and the paper's accuracies.

    An accuracy of the paper stands beside a row of the same point, data set, student and images per
    class. All others follow in a second table, whose headings name these.

    Args:
        content: What `STUDY.json` holds.
    """
    published, other_published = split_published(content)
    columns = _measured_columns(content)
    if any(published):
        cells = ["" if figure is None else f"{figure.top1:.1f}" for figure in published]
        columns.append(("the paper", cells))
    lines = [f"{content['study']}: {content['title']} ({content['source']})", ""]
    lines.append(_format_columns(columns))
    if other_published:
        points = [point["name"] for point in content["points"] if point["done"]]
        others = [("point", points)]
        for column in other_published:
            cells = [
                f"{column.top1[point]:.1f}" if point in column.top1 else "" for point in points
            ]
            others.append((column.heading, cells))
        lines += ["", OTHER_PUBLISHED, "", _format_columns(others)]
    if preset := str(Origin.read(content)):
        lines += ["", f"preset: {preset}"]
    return "\n".join(lines)


def _measured_columns(content: Mapping[str, Any]) -> list[tuple[str, list[str]]]:
    """Heading and cells of each column of measured values; empty cells where there is none.

    Label bytes are a column where the points' own sets differ in them, gains where the study is
    additive.
    """
    rows = content["rows"]
    methods = {point["config"]["method"] for point in content["points"]}
    seconds = [row["seconds_per_iteration"] for row in rows]
    columns = [
        (axis, [_plain(row["axes"][axis]) if row["axes"] else "any" for row in rows])
        for axis in content["axes"]
    ]
    columns += [
        ("method", [row["method"] for row in rows]),
        ("student", [row["student"] for row in rows]),
        ("ipc", ["all" if row["ipc"] is None else str(row["ipc"]) for row in rows]),
        ("top-1 %", [format_top1(row["top1"]) for row in rows]),
        ("n", [str(row["top1"]["n"]) for row in rows]),
        ("s/iteration", ["" if value is None else f"{value:.3f}" for value in seconds]),
    ]
    if len({row["label_bytes"] for row in rows if row["method"] in methods}) > 1:
        sizes = [row["label_bytes"] for row in rows]
        columns.append(("label bytes", ["" if size is None else str(size) for size in sizes]))
    if added := gains(content):
        keys = [(row["point"], row["student"]) for row in rows]
        cells = [
            str(added[key]) if row["method"] in methods and key in added else ""
            for row, key in zip(rows, keys, strict=True)
        ]
        columns.append(("gain", cells))
    return columns


def _format_columns(columns: Sequence[tuple[str, Sequence[str]]]) -> str:
    headings = [heading for heading, _ in columns]
    return aligned(headings, list(zip(*(cells for _, cells in columns), strict=True)))


def _plain(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
