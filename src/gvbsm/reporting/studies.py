"""The studies of a sweep on a page: a table, figures and warnings for each one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from gvbsm._version import __version__
from gvbsm.config import WHOLE_SET
from gvbsm.config.build import images_of
from gvbsm.files.artifacts import ArtifactError
from gvbsm.files.schema.measures import Score
from gvbsm.reporting.figures.gallery import gallery
from gvbsm.reporting.figures.pareto import MeasuredSet
from gvbsm.reporting.figures.reading import StudyResults, fitting, read_studies, study_sets
from gvbsm.reporting.findings import UNFINISHED_ADVICE
from gvbsm.reporting.network_findings import Finding
from gvbsm.reporting.rendering import Picture, save_pictures, write_html
from gvbsm.reporting.rivals import is_augmented, rival_words
from gvbsm.reporting.significance import noise
from gvbsm.reporting.wording import listed


class StudySection(NamedTuple):
    """All that a page shows of one study: its results, warnings, figures, and its sets' costs."""

    study: StudyResults
    findings: list[Finding]
    pictures: list[Picture]
    sets: list[MeasuredSet]


def study_sections(directory: Path, pictures: Sequence[Picture]) -> list[StudySection]:
    """Read the studies of a folder; an empty list if it is not a sweep's.

    Raises:
        ArtifactError: If a file is damaged.
    """
    studies = read_studies(directory)
    names = [study.name for study in studies]
    sections = []
    for study in studies:
        with fitting(directory / f"{study.name}.json"):
            findings, sets = find_in_study(study), study_sets(study)
        shown = [item for item in pictures if _study_of(item.name, names) == study.name]
        sections.append(StudySection(study, findings, shown, sets))
    return sections


def _study_of(picture: str, names: Sequence[str]) -> str | None:
    """The study of a figure: the longest name that fits, since one may begin with another."""
    return max(
        (name for name in names if f"{picture}-".startswith(f"study-{name}-")),
        key=len,
        default=None,
    )


def find_in_study(study: StudyResults) -> list[Finding]:
    """Warnings and notes on the results of a study."""
    findings = []
    if len(study.points) < study.planned:
        findings.append(
            Finding(
                "unfinished",
                "warning",
                f"{len(study.points)} of {study.planned} points are done.",
                UNFINISHED_ADVICE,
            )
        )
    rows = study.own_rows
    if rows and min(len(row["top1"]["values"]) for row in rows) == 1:
        findings.append(
            Finding(
                "single",
                "warning",
                "Some points have only one student (n = 1): the spread of their accuracy is "
                "unknown.",
                "Raise `evaluation.seeds`, or repeat the sweep with more seeds (`--repeat`).",
            )
        )
    findings += _rivals(study, rows)
    for student in dict.fromkeys(row["student"] for row in rows):
        best, *others = _best_points([row for row in rows if row["student"] == student])
        if others:
            findings.append(
                Finding(
                    "tied",
                    "note",
                    f"With {student}, the best point is {best}. Within two standard deviations of "
                    f"it: {listed(others)}.",
                    "Train more students, or repeat with more seeds, to separate them.",
                )
            )
    return findings


def _rivals(study: StudyResults, rows: Sequence[dict[str, Any]]) -> Iterator[Finding]:
    """Baselines of other images that beat the images at some points, one finding each.

    Args:
        study: Its results; a baseline that is the same at all points has no point.
        rows: The rows of the points' own methods.
    """
    own_rows = {(row["point"], row["student"]): row for row in rows}
    baselines = [
        row
        for row in study.rows
        if row not in rows and row["method"] not in WHOLE_SET and is_augmented(row["method"])
    ]
    gaps: dict[str, list[float]] = {}
    for baseline in baselines:
        for (point, student), row in own_rows.items():
            is_there = baseline["student"] == student and baseline["point"] in (None, point)
            if is_there and images_of(baseline["method"]) != images_of(row["method"]):
                own, other = _score(row), _score(baseline)
                if other.mean - own.mean > noise(own, other, None):
                    gaps.setdefault(baseline["method"], []).append(other.mean - own.mean)
    for method, values in gaps.items():
        low, high = min(values), max(values)
        size = f"{low:.1f}" if len(values) == 1 else f"{low:.1f} to {high:.1f}"
        words = rival_words([method], min(row["ipc"] for row in rows))
        students = {row["student"] for row in rows}
        cases = "points" if len(students) == 1 else "pairs of a point and a student"
        yield Finding(
            "rival",
            "warning",
            f"{words.subject} better than the images at {len(values)} of {len(own_rows)} {cases} "
            f"of the study, by {size} percentage points. {words.meaning}",
            f"Compare the points only with each other. {words.advice}",
        )


def _score(row: dict[str, Any]) -> Score:
    return Score.model_validate(row["top1"])


def _best_points(rows: Sequence[dict[str, Any]]) -> list[str]:
    """The best point, then all that are within two standard deviations of it."""
    best_row, *others = sorted(rows, key=lambda row: -row["top1"]["mean"])
    best = _score(best_row)
    near = [
        row["point"]
        for row in others
        if best.mean - row["top1"]["mean"] <= noise(best, _score(row), None)
    ]
    return [best_row["point"], *near]


def write_sweep_page(directory: Path, pdf: bool = False) -> Path:
    """Write `report/index.html` of a sweep's folder, and the figures beside it.

    Raises:
        ArtifactError: If it holds no results of a study yet, or a file is damaged.
    """
    if not read_studies(directory):
        raise ArtifactError(f"{directory} holds no results of a study yet; run the sweep first")
    folder = directory / "report"
    pictures = save_pictures(gallery(directory), folder / "figures", pdf)
    context = {
        "title": f"Studies in {directory.resolve().name}",
        "studies": study_sections(directory, pictures),
        "version": __version__,
    }
    return write_html(folder / "index.html", "sweep.html.j2", context)
