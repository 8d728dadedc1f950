"""Published accuracies (`literature.yaml`), and which of them belong beside the rows of a run."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from gvbsm.config.yaml_files import read_yaml
from gvbsm.files.schema import Data

FILE = Path(__file__).with_name("literature.yaml")
CAUTION = (
    "Published for the same data, student and images per class. Protocols differ (epochs, batches, "
    "labels, best or last epoch), so this is no ranking."
)
HEAD = ("student", "method", "published top-1 %", "protocol", "source")
TOLERANCE = (
    1e-4  # of means and deviations of pixels, 0 to 1; a JPEG copy of CIFAR-10 is off by 2e-3
)


class DataFacts(NamedTuple):
    """What a data set is known by.

    Attributes:
        classes: Number of classes.
        train: Number of training pictures.
        test: Number of test pictures.
        side: Side of a picture in pixels.
        mean: Mean of the training pixels, 0 to 1, by channel; None if it is not looked at.
        std: Their deviation, likewise.
    """

    classes: int
    train: int
    test: int
    side: int
    mean: Sequence[float] | None
    std: Sequence[float] | None


class PublishedAccuracy(NamedTuple):
    """One published accuracy; the file explains its entries.

    Attributes:
        data: Data set, as `data.name` names it.
        student: Student, as `evaluation.students` names it.
        ipc: Images per class.
        method: The method that made the images.
        top1: Percent.
        std: Deviation; None if none is given.
        source: Key of `sources`.
        table: Number of the source's table; None if it is not known.
        protocol: Key of `protocols`.
        read: How the source was read: text, repository, abstract, quoted or note.
    """

    data: str
    student: str
    ipc: int
    method: str
    top1: float
    std: float | None
    source: str
    table: int | None
    protocol: str
    read: str

    def cells(self) -> tuple[str, ...]:
        """The cells of its row under `HEAD`."""
        spread = "" if self.std is None else f" ± {self.std:.1f}"
        where = read_literature().sources[self.source]["venue"]
        table = "" if self.table is None else f", table {self.table}"
        source = f"{self.source} ({where}{table}; {self.read})"
        return self.student, self.method, f"{self.top1:.1f}{spread}", self.protocol, source


class Literature(NamedTuple):
    """The content of `literature.yaml`."""

    data: Mapping[str, DataFacts]
    sources: Mapping[str, Mapping[str, str]]
    protocols: Mapping[str, str]
    figures: Sequence[PublishedAccuracy]


@functools.cache
def read_literature() -> Literature:
    """Read the published accuracies of the package."""
    content = read_yaml(FILE)
    return Literature(
        {name: DataFacts(**facts) for name, facts in content["data"].items()},
        content["sources"],
        content["protocols"],
        [
            PublishedAccuracy(data, student, ipc, *entry)
            for data, students in content["figures"].items()
            for student, ipcs in students.items()
            for ipc, entries in ipcs.items()
            for entry in entries
        ],
    )


def published_beside(
    results: Mapping[str, Any], data: Data, images: Mapping[str, Any]
) -> list[PublishedAccuracy]:
    """The published accuracies with the data, student and images per class of a run's own rows.

    The name of the data set does not suffice: its pictures must be counted as published, and their
    pixels have the published mean and deviation, where the set fixes them. Sets with other numbers
    of images for single classes have none.

    Args:
        results: The content of `results.json`.
        data: The content of `data.json`.
        images: Header of the run's images, with the mean and deviation of the training pixels;
            empty if there are none.

    Returns:
        Student by student, the highest first; empty for other data.
    """
    config = results.get("config") or {}
    name = config.get("data", {}).get("name")
    if config.get("ipc_of") or not images or not _is_known(name, results, data, images):
        return []
    own = [row for row in results["rows"] if row["method"] == config["method"]]
    beside = []
    for row in own:
        key = name, row["student"], row["ipc"]
        figures = [figure for figure in read_literature().figures if figure[:3] == key]
        beside += sorted(figures, key=lambda figure: -figure.top1)
    return beside


def _is_known(name: str, results: Mapping[str, Any], data: Data, images: Mapping[str, Any]) -> bool:
    """Whether the data of a run are the known set of this name."""
    known = read_literature().data.get(name)
    pictures = results.get("pictures", {})
    counts = data.classes, pictures.get("train"), pictures.get("test"), data.image_size
    if known is None or counts != known[:4]:
        return False
    if known.mean is None or known.std is None:
        return True
    pixels, expected = [*images["mean"], *images["std"]], [*known.mean, *known.std]
    return (
        data.test_crop in (None, 1.0)
        and len(pixels) == len(expected)
        and max(abs(a - b) for a, b in zip(pixels, expected, strict=True)) < TOLERANCE
    )
