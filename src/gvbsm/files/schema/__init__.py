"""Schemas of every JSON object that is read: types, limits and conditions between entries.

A JSON object is a file or the header of a safetensors file. Its author is not trusted: `checked`
reports the first invalid entry in one line, with the file, the entry, the expected and the present
value. Sizes are limited before memory is allocated by them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gvbsm.files.artifacts import read_header, read_json
from gvbsm.files.schema.base import MOST_BYTES, Manifest, checked
from gvbsm.files.schema.runs import (
    Account,
    AnalysisHeader,
    CheckpointHeader,
    ChosenForms,
    ChosenSettings,
    Continual,
    Data,
    Finished,
    GroupHeader,
    RecipeHeader,
    Results,
    Seconds,
    StatisticsHeader,
    StudentHeader,
    StudentHistory,
    StudentRecipe,
    StudyFile,
    TeacherHeader,
    TestedHeader,
    current_history,
)
from gvbsm.files.schema.sets import (
    PACKED,
    ImagesHeader,
    LabelIndex,
    RunSettings,
    SetFacts,
    check_facts,
)

__all__ = [
    "Account",
    "MOST_BYTES",
    "PACKED",
    "AnalysisHeader",
    "CheckpointHeader",
    "ChosenForms",
    "ChosenSettings",
    "Continual",
    "Data",
    "Finished",
    "SetFacts",
    "ImagesHeader",
    "LabelIndex",
    "Results",
    "RunSettings",
    "Seconds",
    "StudentHeader",
    "StudentHistory",
    "StudentRecipe",
    "StudyFile",
    "TeacherHeader",
    "check_facts",
    "checked",
    "checked_header",
    "checked_json",
    "current_history",
]

HEADERS: dict[str, type[Manifest]] = {
    "teacher": TestedHeader,
    "forgetting": TestedHeader,
    "student": StudentHeader,
    "statistics": StatisticsHeader,
    "images": ImagesHeader,
    "film": RecipeHeader,
    "group": GroupHeader,
    "analysis": AnalysisHeader,
    "checkpoint": CheckpointHeader,
}
"""Kind of a file -> the schema of its header."""


def checked_json(model: type[Manifest], path: Path) -> dict[str, Any]:
    """Read a JSON object that gvbsm wrote, and validate it by a schema.

    Raises:
        ArtifactError: As `read_json`, or naming the first invalid entry.
    """
    content = read_json(path)
    checked(model, content, path)
    return content


def checked_header(path: Path) -> dict[str, Any]:
    """Read the header of a file, and validate it by the schema of its kind (`HEADERS`).

    Raises:
        ArtifactError: As `read_header`, or naming the first invalid entry.
    """
    header = read_header(path)
    if model := HEADERS.get(str(header.get("kind"))):
        checked(model, header, path)
    return header
