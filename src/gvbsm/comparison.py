"""The results of a study: what its files hold, and the table on the terminal.

`DIR/STUDY.json` is written after each point, and holds

    format    1
    study, title, source, axes   as in the study's file (`studies`)
    paper     `data`, `columns` and `figures` (point -> accuracies, one a column, null where there
              is none); empty if the paper gives none
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
        image_bytes, label_bytes pixels, and soft labels on disk; null for the whole training set
        recipe                   hash of all that the students' results depend on
    versions  gvbsm, torch, device, precision ... of the point that was run last

`DIR/STUDY.csv` holds the rows, one column a number.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gvbsm.artifacts import atomic
from gvbsm.results import aligned, format_top1

Row = dict[str, Any]


def tell_once(rows: Sequence[Row], own: set[str]) -> list[Row]:
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


def write_csv(path: Path, content: Mapping[str, Any]) -> None:
    """One line a row, one column a number."""
    axes, versions = content["axes"], content["versions"]
    plain = (
        "method", "student", "ipc", "synthesis_seconds", "seconds_per_iteration", "image_bytes",
        "label_bytes",
    )  # fmt: skip
    spreads = [(key, part) for key in ("top1", "top1_best") for part in ("mean", "std")]
    head = [
        "study", "point", *axes, *plain, "n", *(f"{key}_{part}" for key, part in spreads),
        "top1_values", "seeds", *versions,
    ]  # fmt: skip
    with atomic(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(head)
        for row in content["rows"]:
            writer.writerow(
                [
                    row["study"],
                    row["point"],
                    *(row["axes"].get(axis) for axis in axes),
                    *(row[key] for key in plain),
                    row["top1"]["n"],
                    *(row[key][part] for key, part in spreads),
                    " ".join(map(str, row["top1"]["values"])),
                    " ".join(map(str, row["seeds"])),
                    *versions.values(),
                ]
            )


def format_study(content: Mapping[str, Any]) -> str:
    """A study's rows as text, the paper's figures beside the points' own methods.

    Args:
        content: What `STUDY.json` holds.
    """
    paper, axes = content["paper"], content["axes"]
    own = {entry["config"]["method"] for entry in content["points"]}
    sized = len({row["label_bytes"] for row in content["rows"] if row["method"] in own}) > 1
    head = [*axes, "method", "student", "ipc", "top-1 %", "n", "s/iteration"]
    head += ["label bytes"] * sized
    told: set[str] = set()
    cells = []
    for row in content["rows"]:
        at = [_plain(row["axes"][axis]) if row["axes"] else "any" for axis in axes]
        seconds = row["seconds_per_iteration"]
        line = [
            *at,
            row["method"],
            row["student"],
            "all" if row["ipc"] is None else str(row["ipc"]),
            format_top1(row["top1"]),
            str(row["top1"]["n"]),
            "" if seconds is None else f"{seconds:.3f}",
        ]
        if sized:
            line.append("" if row["label_bytes"] is None else str(row["label_bytes"]))
        if paper:
            is_told = row["method"] not in own or row["point"] in told
            line.append("" if is_told else _figures(paper["figures"].get(row["point"])))
            told.add(row["point"] if row["method"] in own else "")
        cells.append(line)
    lines = [f"{content['study']}: {content['title']} ({content['source']})", ""]
    lines.append(aligned([*head, "paper"] if paper else head, cells))
    if paper:
        lines += ["", f"paper: {paper['data']}; {' / '.join(paper['columns'])}"]
    return "\n".join(lines)


def _plain(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _figures(values: Sequence[float | None] | None) -> str:
    return " / ".join("-" if value is None else f"{value:.1f}" for value in values or ())
