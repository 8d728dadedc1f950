"""The results of a study: the content of its files, and the table on the terminal.

`DIR/STUDY.json` is written after each point. Its entries are

    format    1
    study, title, source, axes, additive   as in the study's file (`studies`)
    origin    `preset`, which all points vary (null if it is unknown), and `changed`: names of the
              settings that the command line changed
    paper     the paper's accuracies, one entry each: `point`, `data`, `student`, `ipc` and `top1`
              in percent (`published`)
    points    one entry a point, done or not: `name`, `axes` (axis -> value), `done`, `folders` (in
              DIR, one for each repeat) and `config` (all settings, of the first repeat)
    rows      one entry for each point, method and student:
        study, point, axes       `point` null and `axes` empty: a baseline that is the same at all
                                 points that are done
        method, student, ipc     `ipc` null: the whole training set
        seeds                    seeds of the runs (one, or --repeat)
        top1, top1_best          `mean`, `std` (sample deviation), `n` and `values` over all
                                 students of all seeds, in percent: of the last epoch, and of the
                                 best test
        synthesis_seconds        time of all iterations of one run, mean over seeds; null for
                                 selected real pictures, or if the synthesis was interrupted
        seconds_per_iteration    the same for one iteration of one batch of images
        seconds                  time of the synthesis or selection of the images, mean over seeds;
                                 null if it is unknown, and for the whole training set
        bytes                    of pixels and of soft labels on disk, together
        image_bytes, label_bytes pixels, and soft labels on disk; null for the whole training set
        recipe                   hash of everything that the students' results depend on
    versions  gvbsm, torch, device, precision ... of the last point

`DIR/STUDY.csv` has the rows, a column for each number and axis. An axis that has the name of
another column, such as `ipc`, is `axis_ipc`. `paper_top1` is the paper's accuracy of the same
point, data set, student and images per class; empty where the paper gives none.
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
from gvbsm.pipeline.tables import aligned, format_ipc, format_top1
from gvbsm.studies.definition import axis_text
from gvbsm.studies.published import split_published

OTHER_PUBLISHED = "the paper's accuracies for other data sets, students or images per class:"


def merge_shared_baselines(rows: Sequence[dict[str, Any]], own: set[str]) -> list[dict[str, Any]]:
    """Merge the rows of each baseline that is identical at all points, such as random pictures.

    Args:
        rows: All rows so far.
        own: The points' own methods, which keep a row at each point.
    """
    points = {row["point"] for row in rows}
    recipes: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        recipes.setdefault((row["method"], row["student"]), []).append(row["recipe"])
    common = {
        key
        for key, hashes in recipes.items()
        if key[0] not in own and len(set(hashes)) == 1 < len(points) == len(hashes)
    }
    merged: list[dict[str, Any]] = []
    shared: dict[tuple[str, str], dict[str, Any]] = {}
    for row in rows:
        key = row["method"], row["student"]
        if key in common:
            shared.setdefault(key, {**row, "point": None, "axes": {}})
        else:
            merged.append(row)
    return [*merged, *shared.values()]


class Gain(NamedTuple):
    """The gain of a point of an additive study over the point before.

    Attributes:
        mean: Difference of the means, in percentage points.
        error: Its standard error over independent students, sqrt(s1^2 / n1 + s2^2 / n2), with the
            sample deviations s; None if a point has only one student.
    """

    mean: float
    error: float | None

    def __str__(self) -> str:
        error = "" if self.error is None else f" ± {self.error:.1f}"
        return f"{self.mean:+.1f}{error}"


def gains(content: Mapping[str, Any]) -> dict[tuple[str, str], Gain]:
    """Gains over the point before in an additive study, by point and student.

    Only of the points' own methods. There is none at the first point, and none where the point
    before does not have the student.

    Args:
        content: The content of `STUDY.json`.
    """
    if not content.get("additive"):
        return {}
    methods = {entry["name"]: entry["config"]["method"] for entry in content["points"]}
    accuracies = {
        (row["point"], row["student"]): row["top1"]
        for row in content["rows"]
        if methods.get(row["point"]) == row["method"]
    }
    return {
        (after, student): _gain(accuracies[before, student], top1)
        for before, after in itertools.pairwise(methods)
        for (point, student), top1 in accuracies.items()
        if point == after and (before, student) in accuracies
    }


def _gain(before: Mapping[str, Any], after: Mapping[str, Any]) -> Gain:
    counts = [len(top1["values"]) for top1 in (before, after)]
    gain = after["mean"] - before["mean"]
    if min(counts) == 1:
        return Gain(gain, None)
    squares = [top1["std"] ** 2 / n for top1, n in zip((before, after), counts, strict=True)]
    return Gain(gain, math.sqrt(sum(squares)))


def write_csv(path: Path, content: Mapping[str, Any]) -> None:
    """Write a line for each row, with a column for each number.

    Args:
        path: The CSV file.
        content: The content of `STUDY.json`.
    """
    axes, versions = content["axes"], content["versions"]
    copied = (
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
    spreads = [(key, statistic) for key in ("top1", "top1_best") for statistic in ("mean", "std")]
    others = [
        *copied,
        "n",
        *(f"{key}_{statistic}" for key, statistic in spreads),
        "top1_values",
        "paper_top1",
        "seeds",
        *versions,
    ]
    taken = {"study", "point", *others}
    axis_columns = [f"axis_{axis}" if axis in taken else axis for axis in axes]
    head = ["study", "point", *axis_columns, *others]
    with atomic(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(head)
        for row, figure in zip(content["rows"], split_published(content)[0], strict=True):
            writer.writerow(
                [
                    row["study"],
                    row["point"],
                    *(row["axes"].get(axis) for axis in axes),
                    *(
                        format_ipc(row) if key == "ipc" and row.get(key) else row[key]
                        for key in copied
                    ),
                    row["top1"]["n"],
                    *(row[key][statistic] for key, statistic in spreads),
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
        content: The content of `STUDY.json`.
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
        (axis, [axis_text(row["axes"][axis]) if row["axes"] else "any" for row in rows])
        for axis in content["axes"]
    ]
    columns += [
        ("method", [row["method"] for row in rows]),
        ("student", [row["student"] for row in rows]),
        ("ipc", [format_ipc(row) for row in rows]),
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
