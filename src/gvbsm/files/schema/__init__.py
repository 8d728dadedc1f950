"""What manifests hold: the types, limits and agreements of every JSON object that is read back.

A manifest is a JSON file or the JSON header of a safetensors file. Whoever wrote one is not
trusted: `checked` turns the first entry that does not fit into one line, with the file, the entry,
what was expected and what was found. Sizes are limited before they decide how much memory is taken.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gvbsm.files.artifacts import read_header
from gvbsm.files.schema.base import MOST_BYTES, Manifest, checked
from gvbsm.files.schema.runs import (
    AnalysisHeader,
    CheckpointHeader,
    Continual,
    Data,
    GroupHeader,
    RecipeHeader,
    Results,
    Seconds,
    StatisticsHeader,
    StudentHistory,
    StudentRecipe,
    StudyFile,
    TeacherHeader,
    TestedHeader,
    current_history,
)
from gvbsm.files.schema.sets import (
    PACKED,
    Facts,
    ImagesHeader,
    LabelIndex,
    RunSettings,
    check_facts,
    check_images,
    check_labels,
)

__all__ = [
    "MOST_BYTES",
    "PACKED",
    "AnalysisHeader",
    "CheckpointHeader",
    "Continual",
    "Data",
    "Facts",
    "ImagesHeader",
    "LabelIndex",
    "Results",
    "RunSettings",
    "Seconds",
    "StudentHistory",
    "StudentRecipe",
    "StudyFile",
    "TeacherHeader",
    "check_facts",
    "check_images",
    "check_labels",
    "checked",
    "checked_header",
    "current_history",
]

HEADERS: dict[str, type[Manifest]] = {
    "teacher": TestedHeader,
    "forgetting": TestedHeader,
    "statistics": StatisticsHeader,
    "images": ImagesHeader,
    "film": RecipeHeader,
    "group": GroupHeader,
    "analysis": AnalysisHeader,
    "checkpoint": CheckpointHeader,
}
"""What is checked of each kind of file before its header is used."""


def checked_header(path: Path) -> dict[str, Any]:
    """The header of a file, once its entries are found to fit its kind (`HEADERS`).

    Raises:
        ArtifactError: As `read_header`, or naming the first entry that does not fit.
    """
    header = read_header(path)
    if model := HEADERS.get(str(header.get("kind"))):
        checked(model, header, path)
    return header
