"""Types and limits that all schemas share, and the message about an invalid entry."""

from __future__ import annotations

import re
import reprlib
import unicodedata
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from gvbsm.files.artifacts import DamagedError

MOST_BYTES = 16 * 1024**3  # of pixels, or of anything else that is read at once
MOST_CLASSES, MOST_SIDE = 100_000, 4096
MOST_EPOCHS = 1_000_000
MOST_SHARDS = 1_000_000

M = TypeVar("M", bound="Manifest")


class Manifest(BaseModel):
    """Validated entries of a JSON object; other entries are ignored."""

    model_config = ConfigDict(strict=True, extra="ignore", frozen=True)


def _check_names(names: list[str]) -> list[str]:
    normal = [unicodedata.normalize("NFC", name) for name in names]
    if len(set(normal)) < len(normal):
        twice = next(name for name in normal if normal.count(name) > 1)
        raise ValueError(f"should name every class once, but has {twice!r} twice")
    return names


Text = Annotated[str, Field(max_length=10_000)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Whole = Annotated[int, Field(ge=0, lt=2**63)]
Positive = Annotated[int, Field(ge=1, lt=2**63)]
Percent = Annotated[float, Field(ge=0, le=100, allow_inf_nan=False)]
Mean = Annotated[float, Field(ge=-1000, le=1000)]  # of channels, and finite in float32
Deviation = Annotated[float, Field(ge=1e-6, le=1000)]
Side = Annotated[int, Field(ge=1, le=MOST_SIDE)]
Images = Annotated[int, Field(ge=1, le=MOST_BYTES)]
Classes = Annotated[int, Field(ge=1, le=MOST_CLASSES)]
ClassNames = Annotated[
    list[Text], Field(min_length=2, max_length=MOST_CLASSES), AfterValidator(_check_names)
]


def checked(model: type[M], content: Mapping[str, Any], path: Path) -> M:
    """Validate a JSON object.

    Raises:
        DamagedError: If an entry is invalid, naming the first.
    """
    try:
        return model.model_validate(content)
    except ValidationError as error:
        raise DamagedError(path, first_fault(error)) from None


def entries_as(model: type[Manifest], expected: str) -> AfterValidator:
    """Return the check of a mapping that is kept whole: the entries of `model` must be valid.

    Args:
        model: The entries that are read.
        expected: What the mapping should be, for the message.
    """

    def check(entries: dict[str, Any]) -> dict[str, Any]:
        try:
            model.model_validate(entries)
        except ValidationError as error:
            raise ValueError(f"should {expected}: {first_fault(error)}") from None
        return entries

    return AfterValidator(check)


def first_fault(error: ValidationError) -> str:
    """`ENTRY should be a valid integer, found 'x'`, in one line of printable characters."""
    first = error.errors(include_url=False, include_context=False)[0]
    entry = ".".join(_printable(str(key)) for key in first["loc"])
    message = re.sub("^(Input|List|Value error,) ", "", first["msg"])
    if first["type"] == "missing":
        return f"it lacks {entry}"
    if first["type"] == "value_error" and not entry:  # entries that do not agree
        return _printable(message, 300)
    return f"{entry} {_printable(message, 300)}, found {_printable(reprlib.repr(first['input']))}"


def _printable(text: str, most: int = 80) -> str:
    return text[:most].encode("unicode_escape").decode() if not text.isprintable() else text[:most]
