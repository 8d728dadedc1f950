"""Choose the columns of a Hugging Face table that hold the pictures and the labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from gvbsm.data.classes import class_name
from gvbsm.data.pictures import DataError
from gvbsm.data.sources.request import Request

USUAL_PICTURES = ("image", "img")
USUAL_LABELS = ("label", "labels", "fine_label", "cls", "class")


class Columns(NamedTuple):
    """Names of the columns of pictures and of labels."""

    picture: str
    label: str


def choose_columns(features: Mapping[str, Any], request: Request, name: str) -> Columns:
    """Choose the two columns by their types and usual names, or take those that are configured.

    Args:
        features: Column -> type, as `datasets.Features`.
        request: `image_column` and `label_column` of its settings name columns.
        name: The data set, for messages.

    Raises:
        DataError: If a configured column is missing or of another type, or several columns
            qualify.
    """
    label = _label_column(features, request, name)
    return Columns(_picture_column(features, request, name), label)


def declared_names(kind: Any) -> tuple[str, ...] | None:
    """Names of the classes that a column declares by its type; None if it declares none."""
    import datasets

    if not isinstance(kind, datasets.ClassLabel):
        return None
    return tuple(class_name(name) for name in kind.names)


def holds_labels(kind: Any) -> bool:
    """Whether the cells of a column of this type are integers or text."""
    return _dtype(kind).startswith(("int", "uint", "string"))


def _single(
    columns: Sequence[str], usual: Sequence[str], content: str, setting: str, name: str
) -> str:
    """The one column of a kind, or among several the one with a usual name."""
    if len(columns) == 1:
        return columns[0]
    for column in usual:
        if column in columns:
            return column
    raise DataError(
        f"which column of {name} holds {content}? Candidates: {', '.join(columns) or 'none'}; "
        f"name one as --data.{setting}"
    )


def _configured(column: str, features: Mapping[str, Any], setting: str, name: str) -> str:
    if column not in features:
        raise DataError(f"{name} has no column {column!r} (--data.{setting}): {list(features)}")
    return column


def _dtype(kind: Any) -> str:
    return str(getattr(kind, "dtype", "")).removeprefix("large_")


def _picture_column(features: Mapping[str, Any], request: Request, name: str) -> str:
    """The column that holds pictures: by its type, or the one that is configured."""
    import datasets

    images = [column for column, kind in features.items() if isinstance(kind, datasets.Image)]
    if request.config.image_column is None:
        return _single(images, USUAL_PICTURES, "pictures", "image_column", name)
    column = _configured(request.config.image_column, features, "image_column", name)
    kind = features[column]
    encoded = _dtype(kind) in ("binary", "string")
    encoded |= isinstance(kind, dict) and bool({"bytes", "path"} & kind.keys())
    if column not in images and not encoded:
        raise DataError(
            f"column {column!r} of {name} holds no pictures, but {kind}: expected encoded bytes, "
            f"paths or one of {images}"
        )
    return column


def _label_column(features: Mapping[str, Any], request: Request, name: str) -> str:
    """The column that holds labels: by its type, else by its name."""
    if request.config.label_column is not None:
        return _configured(request.config.label_column, features, "label_column", name)
    columns = [column for column, kind in features.items() if declared_names(kind) is not None]
    if not columns:
        columns = [
            column
            for column in USUAL_LABELS
            if column in features and holds_labels(features[column])
        ]
    return _single(columns, USUAL_LABELS, "labels", "label_column", name)
