"""The studies of a sweep: a table, figures and warnings for each, and a page of their own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gvbsm._version import __version__
from gvbsm.config import WHOLE_SET
from gvbsm.config.provenance import Origin
from gvbsm.files.artifacts import ArtifactError, read_json
from gvbsm.reporting.facts import Score
from gvbsm.reporting.figures.gallery import gallery
from gvbsm.reporting.figures.pareto import Spot, fronts
from gvbsm.reporting.figures.reading import StudyResults, fitting, read_studies, study_spots
from gvbsm.reporting.findings import Finding
from gvbsm.reporting.rendering import Picture, save_pictures, write_html
from gvbsm.reporting.significance import noise
from gvbsm.reporting.wording import method_words
from gvbsm.studies.published import PublishedColumn
from gvbsm.studies.table import Gain, gains


@dataclass(frozen=True)
class Line:
    """A row of a study's table.

    Attributes:
        label_bytes: Bytes of the soft labels; None where all points have as many.
        paper: The paper's accuracy of the same point, data set, student and images per class, or
            empty.
        gain: In an additive study, what it adds to the point before, with its standard error.
    """

    point: str
    method: str
    own: bool
    student: str
    ipc: int | None
    top1: dict[str, Any]
    seconds: float | None
    label_bytes: int | None
    paper: str
    gain: str


@dataclass(frozen=True)
class SetCost:
    """A set with what it costs, and whether no other beats it for as many seconds, or bytes."""

    spot: Spot
    by_seconds: bool
    by_bytes: bool


@dataclass(frozen=True)
class Told:
    """A study as a page tells it."""

    name: str
    title: str
    source: str
    lines: list[Line]
    points: list[str]
    published: bool
    other_published: list[PublishedColumn]
    findings: list[Finding]
    pictures: list[Picture]
    sets: list[SetCost]
    additive: bool
    origin: Origin
    versions: dict[str, str]


def tell_studies(directory: Path, pictures: Sequence[Picture]) -> list[Told]:
    """Everything that a folder holds of studies; nothing where it is no sweep's.

    Args:
        directory: The folder.
        pictures: Its figures, those of other things among them.

    Raises:
        ArtifactError: If a file is damaged.
    """
    studies = read_studies(directory)
    names = [study.name for study in studies]
    told = []
    for study in studies:
        path = directory / f"{study.name}.json"
        content = read_json(path)
        with fitting(path):
            told.append(
                Told(
                    study.name,
                    study.title[:1].upper() + study.title[1:],
                    study.source,
                    _lines(study, gains(content)),
                    [point["name"] for point in study.points],
                    any(study.published),
                    study.other_published,
                    find_in_study(study, len(content["points"])),
                    [item for item in pictures if _study_of(item.name, names) == study.name],
                    costs_of(study_spots(study)),
                    study.additive,
                    Origin.read(content),
                    content["versions"],
                )
            )
    return told


def _study_of(picture: str, names: Sequence[str]) -> str | None:
    """The study of a figure: the longest name that fits, as one may begin like another."""
    return max(
        (name for name in names if f"{picture}-".startswith(f"study-{name}-")),
        key=len,
        default=None,
    )


def costs_of(spots: Sequence[Spot]) -> list[SetCost]:
    """A row for each set, in the order of the figure of costs."""
    by_seconds, by_bytes = fronts(spots)
    return [SetCost(spot, at in by_seconds, at in by_bytes) for at, spot in enumerate(spots)]


def _lines(study: StudyResults, added: Mapping[tuple[str, str], Gain]) -> list[Line]:
    own = {point["name"]: point["config"]["method"] for point in study.points}
    sizes = {row["label_bytes"] for row in study.rows if own.get(row["point"]) == row["method"]}
    lines = []
    for row, figure in zip(study.rows, study.published, strict=True):
        is_own = own.get(row["point"]) == row["method"]
        lines.append(
            Line(
                "every point" if row["point"] is None else row["point"],
                row["method"],
                is_own,
                row["student"],
                row["ipc"],
                row["top1"],
                row["seconds_per_iteration"],
                row["label_bytes"] if len(sizes) > 1 else None,
                "" if figure is None else f"{figure.top1:.1f}",
                _gain(added.get((row["point"], row["student"]))) if is_own else "",
            )
        )
    return lines


def _gain(gain: Gain | None) -> str:
    """A gain as typeset text; empty where there is none."""
    return "" if gain is None else str(gain).replace("-", "\N{MINUS SIGN}")


def find_in_study(study: StudyResults, points: int) -> list[Finding]:
    """What a reader of a study should know.

    Args:
        study: Its points that are done.
        points: All its points.
    """
    found = []
    if len(study.points) < points:
        found.append(
            Finding(
                "unfinished",
                "warning",
                f"{len(study.points)} of {points} points are done.",
                "Run the same command again: it goes on where it stopped.",
            )
        )
    own = {point["name"]: point["config"]["method"] for point in study.points}
    rows = [row for row in study.rows if own.get(row["point"]) == row["method"]]
    if rows and min(len(row["top1"]["values"]) for row in rows) == 1:
        found.append(
            Finding(
                "single",
                "warning",
                "Some points have one student alone (n = 1), so that their spread is not known.",
                "Raise `evaluation.seeds`, or repeat the sweep with more seeds (`--repeat`).",
            )
        )
    found += _rivals(study, rows)
    for student in dict.fromkeys(row["student"] for row in rows):
        tied = _tied([row for row in rows if row["student"] == student])
        if tied:
            best, *others = tied
            found.append(
                Finding(
                    "tied",
                    "note",
                    f"With {student}, the best point ({best}) cannot be told from "
                    f"{'; '.join(others)}: they are within two standard deviations of students.",
                    "More students or repeats tell smaller differences apart.",
                )
            )
    return found


def _rivals(study: StudyResults, rows: Sequence[dict[str, Any]]) -> Iterator[Finding]:
    """Baselines that are better than the study's own images at some points.

    Args:
        study: All its rows; one of a baseline that all points share has no point.
        rows: Those of the own method.
    """
    own = {(row["point"], row["student"]): row for row in rows}
    gaps: dict[str, list[float]] = {}
    for other in (row for row in study.rows if row not in rows and row["method"] not in WHOLE_SET):
        for (point, student), row in own.items():
            if other["student"] == student and other["point"] in (None, point):
                gap = other["top1"]["mean"] - row["top1"]["mean"]
                if gap > (noise(_score(row), _score(other), None) or 0.0):
                    gaps.setdefault(other["method"], []).append(gap)
    for method, found in gaps.items():
        low, high = min(found), max(found)
        size = f"{low:.1f}" if len(found) == 1 else f"{low:.1f} to {high:.1f}"
        words = method_words(method)
        yield Finding(
            "rival",
            "warning",
            f"{words[:1].upper()}{words[1:]}: better than the images at {len(found)} of {len(own)} "
            f"points of the study, by {size} percentage points.",
            "Compare the points with each other alone, or take settings that serve the images "
            "better (more `synthesis.iterations`, `synthesis.init real`).",
        )


def _score(row: dict[str, Any]) -> Score:
    top1 = row["top1"]
    return Score(top1["mean"], top1["std"], tuple(top1["values"]))


def _tied(rows: Sequence[dict[str, Any]]) -> list[str]:
    """The best point and those that may be as good; empty if it stands alone."""
    ranked = sorted(rows, key=lambda row: -row["top1"]["mean"])
    best = _score(ranked[0])
    near = [
        row["point"]
        for row in ranked[1:]
        if best.mean - row["top1"]["mean"] <= (noise(best, _score(row), None) or 0.0)
    ]
    return [ranked[0]["point"], *near] if near else []


def write_sweep_page(directory: Path) -> Path:
    """Write `report/index.html` of a sweep's folder, and the figures beside it.

    Raises:
        ArtifactError: If it holds no results of a study yet, or a file is damaged.
    """
    if not read_studies(directory):
        raise ArtifactError(f"{directory} holds no results of a study yet; run the sweep first")
    folder = directory / "report"
    pictures = save_pictures(gallery(directory), folder / "figures")
    context = {
        "title": f"Studies in {directory.resolve().name}",
        "studies": tell_studies(directory, pictures),
        "maker": __version__,
    }
    return write_html(folder / "index.html", "sweep.html.j2", context)
