"""The paper's published accuracies: the data, student and images per class of each one.

An accuracy of the paper is shown beside a measured one only if all three are the same. All others
are listed apart, under headings that name them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from gvbsm.config import ConfigError
from gvbsm.config.keys import nearest
from gvbsm.engine.progress.spelling import spell_count

KEYS = ("data", "student", "ipc", "figures")


class PublishedFigure(NamedTuple):
    """One accuracy that the paper gives.

    Attributes:
        point: Name of the study's point.
        data: Data set, as `data.name` names it.
        student: Student, as `evaluation.students` names it.
        ipc: Images per class.
        top1: Percent.
    """

    point: str
    data: str
    student: str
    ipc: int
    top1: float


class PublishedColumn(NamedTuple):
    """The paper's accuracies of one student on one data set.

    Attributes:
        heading: Student, data set and images per class, such as
            `resnet18, imagenet-1k, 10 images per class`.
        top1: Percent, by name of the point.
    """

    heading: str
    top1: Mapping[Any, float]


def read_published(entries: Any, ipc_of: Mapping[str, int | None]) -> tuple[PublishedFigure, ...]:
    """Read the entry `paper` of a study's file.

    Args:
        entries: A list of mappings with `data`, `student`, `ipc` and `figures` (name of a point ->
            accuracy in percent). `ipc` is left out where each of the points sets it.
        ipc_of: Images per class by name of the point; None where the point does not set them.

    Raises:
        ConfigError: One line for each fault.
    """
    faults = [f"paper: {fault}" for fault in _faults(entries, ipc_of)]
    if faults:
        raise ConfigError("\n".join(faults))
    return tuple(
        PublishedFigure(
            str(point),
            entry["data"],
            entry["student"],
            entry.get("ipc", ipc_of[str(point)]),
            float(top1),
        )
        for entry in entries
        for point, top1 in entry["figures"].items()
    )


def _faults(entries: Any, ipc_of: Mapping[str, int | None]) -> Iterator[str]:
    if not isinstance(entries, list):
        yield f"expected a list, one entry for each data set and student, found {entries!r}"
        return
    for entry in entries:
        if not isinstance(entry, dict) or not {"data", "student", "figures"} <= set(entry):
            yield f"each entry needs data, student and figures, found {entry!r}"
        elif unknown := [key for key in entry if key not in KEYS]:
            yield f"there is no entry {unknown[0]!r}; {nearest(str(unknown[0]), KEYS)}"
        elif not isinstance(entry["data"], str) or not isinstance(entry["student"], str):
            yield f"data and student must be names, found {entry['data']!r}, {entry['student']!r}"
        elif not isinstance(entry["figures"], dict):
            yield f"figures must map points to accuracies, found {entry['figures']!r}"
        else:
            yield from _figure_faults(entry, ipc_of)


def _figure_faults(entry: Mapping[str, Any], ipc_of: Mapping[str, int | None]) -> Iterator[str]:
    for point, top1 in entry["figures"].items():
        name = str(point)
        if name not in ipc_of:
            yield f"there is no point {point!r}; {nearest(name, list(ipc_of))}"
            continue
        if isinstance(top1, bool) or not isinstance(top1, (int, float)) or not 0 <= top1 <= 100:
            yield f"{name} needs an accuracy in percent, found {top1!r}"
        ipc = entry.get("ipc", ipc_of[name])
        if isinstance(ipc, bool) or not isinstance(ipc, int) or ipc < 1:
            yield f"{name} needs images per class: set ipc beside its figures, found {ipc!r}"
        elif ipc_of[name] not in (None, ipc):
            yield f"{name} has {ipc_of[name]} images per class, its figure says {ipc}"


def _figure_beside(
    row: Mapping[str, Any], figures: Sequence[PublishedFigure], configs: Mapping[str, Any]
) -> PublishedFigure | None:
    """The paper's accuracy of the same point, data, student and images per class, if there is one.

    Baselines have none, and neither have pictures that `data.image_size` brings to another size,
    nor sets with other numbers of images for single classes (`ipc_of`).
    """
    config = configs.get(row["point"])
    if config is None or row["method"] != config["method"]:
        return None
    data = config["data"]
    if data.get("image_size") is not None or config.get("ipc_of"):
        return None
    measured = (row["point"], data["name"], row["student"], row["ipc"])
    return next((figure for figure in figures if figure[:4] == measured), None)


def done_figures(content: Mapping[str, Any]) -> list[PublishedFigure]:
    """The paper's accuracies of the points that are done.

    Args:
        content: The content of `STUDY.json`.
    """
    done = {point["name"] for point in content["points"] if point["done"]}
    figures = [PublishedFigure(**entry) for entry in content["paper"]]
    return [figure for figure in figures if figure.point in done]


def split_published(
    content: Mapping[str, Any],
) -> tuple[list[PublishedFigure | None], list[PublishedColumn]]:
    """Divide the paper's accuracies into those beside rows, and all others.

    Args:
        content: The content of `STUDY.json`.

    Returns:
        For each row, the accuracy of the paper that belongs beside it, or None; the accuracies
        of points that are done and that belong beside no row, as columns.
    """
    configs = {point["name"]: point["config"] for point in content["points"] if point["done"]}
    figures = done_figures(content)
    beside = [_figure_beside(row, figures, configs) for row in content["rows"]]
    return beside, published_columns([figure for figure in figures if figure not in beside])


def published_columns(figures: Sequence[PublishedFigure]) -> list[PublishedColumn]:
    """One column for each student and data set; images per class are named if they are all one."""
    columns: dict[tuple[str, str], list[PublishedFigure]] = {}
    for figure in figures:
        columns.setdefault((figure.student, figure.data), []).append(figure)
    return [
        PublishedColumn(
            _heading(student, data, {figure.ipc for figure in column}),
            {figure.point: figure.top1 for figure in column},
        )
        for (student, data), column in columns.items()
    ]


def _heading(student: str, data: str, ipcs: set[int]) -> str:
    words = [student.removeprefix("torchvision/").removeprefix("timm/"), data]
    if len(ipcs) == 1:
        (ipc,) = ipcs
        words.append(f"{spell_count(ipc, 'image')} per class")
    else:
        words.append(f"{', '.join(map(str, sorted(ipcs)))} images per class")
    return ", ".join(words)
