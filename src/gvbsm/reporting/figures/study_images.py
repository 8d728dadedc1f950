"""Figure 1: the images that each point of a study has made, side by side."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from gvbsm.files.schema import checked_header
from gvbsm.reporting.figures.images import PictureGrid
from gvbsm.reporting.figures.reading import StudyResults, fitting
from gvbsm.store.film import Film, load_film
from gvbsm.store.workdir import Workspace

MOST_COLUMNS = 8  # sets beside each other
START = "start"


@dataclass(frozen=True)
class StudyImages:
    """The images of a study's points.

    Attributes:
        grid: A column for each set, a row for each class; the start first, if it is the same.
        points: Points with the same images, for each column that is of a point.
        has_start: Whether the first column is the start of all others.
    """

    grid: PictureGrid
    points: Sequence[Sequence[str]]
    has_start: bool


def study_images(directory: Path, study: StudyResults) -> StudyImages | None:
    """Collect the first images of each class from the films of the points.

    Args:
        directory: The sweep's folder.
        study: The study; of repeated points the first run is shown.

    Returns:
        The images; None unless 2 to 8 points have made different images of one kind.

    Raises:
        ArtifactError: If a file is damaged.
    """
    columns: list[tuple[Film, list[str]]] = []
    names: list[str] = []
    for point in study.points:
        folder = directory / next(iter(point["folders"]), "")
        if (film := load_film(folder)) is None:
            continue
        names = names or _class_names(folder, film)
        same = next((points for other, points in columns if _made_the_same(film, other)), None)
        if same is None:
            columns.append((film, [point["name"]]))
        else:
            same.append(point["name"])
    films = [film for film, _ in columns]
    if not 2 <= len(films) <= MOST_COLUMNS or not all(_of_one_kind(f, films[0]) for f in films):
        return None
    has_start = all(torch.equal(film.frames[:, 0], films[0].frames[:, 0]) for film in films)
    groups = {points[0]: list(film.frames[:, -1:]) for film, points in columns}
    if has_start:
        groups = {_start_title(groups): list(films[0].frames[:, :1]), **groups}
    return StudyImages(PictureGrid(groups, names), [points for _, points in columns], has_start)


def _start_title(points: Collection[str]) -> str:
    """The title of the column of the start, which none of the points has."""
    title = START
    while title in points:
        title = f"common {title}"
    return title


def _class_names(folder: Path, film: Film) -> list[str]:
    """Names of the classes that are filmed."""
    path = Workspace(folder).images
    header = checked_header(path)
    with fitting(path):
        return [str(header["class_names"][label]) for label in film.labels.tolist()]


def _of_one_kind(film: Film, other: Film) -> bool:
    """Whether two films have the same classes and the same size of images."""
    is_as_large = film.frames[:, 0].shape == other.frames[:, 0].shape
    return is_as_large and torch.equal(film.labels, other.labels)


def _made_the_same(film: Film, other: Film) -> bool:
    return _of_one_kind(film, other) and torch.equal(film.frames[:, -1], other.frames[:, -1])
