"""Read data sets in Hugging Face's formats, from a folder or from the Hub.

Pictures stay encoded in Arrow files, which are mapped into memory. Classes of two splits are
matched by name. A file that a table names is read only if it lies inside of the set.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from gvbsm.data.classes import Classes, class_name, labels_of, number_classes
from gvbsm.data.pictures import DataError, PictureFile, Split, open_file
from gvbsm.data.reading import Findings
from gvbsm.data.sources.hub_columns import choose_columns, declared_names, holds_labels
from gvbsm.data.sources.hub_files import file_inside, folders_of
from gvbsm.data.sources.hub_library import need
from gvbsm.data.sources.hub_tables import check_train, load_tables
from gvbsm.data.sources.request import MOST_PICTURES, Raw, Request, hold_out

TEST_SPLITS = ("test", "validation", "val", "valid")

Value = int | str | None
"""A cell of a label column: a class's number or name, None without a label."""


@dataclass(frozen=True, order=True)
class TableRow:
    """A picture in a table."""

    split: str
    index: int
    nbytes: int
    table: Any = field(compare=False, repr=False)
    column: str = field(compare=False, repr=False)
    files: tuple[str, ...] = field(compare=False, repr=False)

    def open(self) -> Image.Image:
        """Read its bytes and open them."""
        cell = self.table[self.index][self.column]
        return open_file(io.BytesIO(cell["bytes"]))

    def __str__(self) -> str:
        return f"{self.split}[{self.index}]"


@dataclass(frozen=True)
class _Source:
    """A data set: its name, its column of pictures, and the folders that these may lie in."""

    name: str
    column: str
    folders: tuple[Path, ...]


def read_hub(request: Request) -> Raw:
    """Read a set of the Hub (`request.member`), or a local folder in its formats.

    Training pictures are the split `train`, test pictures the first of `TEST_SPLITS` that has
    labels; without one, a share of `train` is held out. Rows without a picture or a label are left
    out.

    Raises:
        DataError: If it cannot be read, no column is found for pictures or labels, or the classes
            of the splits do not match.
    """
    need("datasets")
    name = request.member or str(request.need_root())
    tables = load_tables(name, request)
    check_train(tables, name)
    features = tables["train"].features
    columns = picture, label = choose_columns(features, request, name)
    source = _Source(name, picture, folders_of(request))
    values = _values(tables["train"], label, f"train of {name}")
    known = [value for value in values if value is not None]
    classes = number_classes(known, declared_names(features[label]), f"train of {name}")
    train, notes = _split("train", tables["train"], source, values, classes)
    notes += classes.notes
    others = [side for side in tables if side != "train"]
    for side in TEST_SPLITS:
        if side not in tables:
            continue
        others.remove(side)
        if set(columns) <= set(tables[side].features):
            values = _values(tables[side], label, f"{side} of {name}")
            if any(value is not None for value in values):
                matched = _match(values, classes, f"{side} of {name}")
                test, more = _split(side, tables[side], source, values, matched)
                notes += [*more, *matched.notes]
                raw = Raw(classes.names, train, test)
                break
        notes.append(f"{side} of {name} has no labels: it is not used")
    else:
        raw = hold_out(train, classes.names, request)
    findings = Findings()
    findings.leave_out("splits that are not used", *others)
    return replace(raw, notes=tuple(notes), left_out=findings.left_out)


# Labels


def _values(table: Any, label: str, where: str) -> list[Value]:
    """The class of each row: its name if the split declares names, else its number."""
    if len(table) > MOST_PICTURES:
        raise DataError(
            f"{where} has {len(table)} rows, more than {MOST_PICTURES}: take a part of it"
        )
    kind = table.features[label]
    names = declared_names(kind)
    if names is None and not holds_labels(kind):
        raise DataError(f"column {label!r} of {where} must hold numbers or words, found {kind}")
    values: list[Value] = []
    for cell in table.with_format(None)[label]:
        if isinstance(cell, str):
            values.append(class_name(cell) or None)
        elif cell is None or cell < 0:  # -1 stands for a label that is kept secret
            values.append(None)
        elif names is not None and cell >= len(names):
            raise DataError(f"{where} has the label {cell}, but names {len(names)} classes")
        else:
            values.append(cell if names is None else names[cell])
    return values


def _match(values: Sequence[Value], classes: Classes, where: str) -> Classes:
    """Map the labels of another split to the classes of the training pictures.

    If one split has names and the other only numbers, a number is the index of a name in the
    training classes, or is itself the name.
    """
    words = any(isinstance(value, str) for value in values)
    named = any(isinstance(value, str) for value in classes.label_of)
    if words == named:
        return replace(classes, notes=())
    places: dict[int | str, int] = {label: label for label in range(len(classes.names))}
    names: dict[int | str, int] = {name: label for label, name in enumerate(classes.names)}
    note = f"labels of {where} are numbers: taken as places in the classes of train"
    return replace(classes, label_of=names if words else places, notes=() if words else (note,))


# Pictures


def _split(
    side: str, table: Any, source: _Source, values: Sequence[Value], classes: Classes
) -> tuple[Split, list[str]]:
    """Collect the rows with a picture and a label, and note those that are left out.

    Raises:
        DataError: If none is left, or a picture's file is outside of the set.
    """
    where = f"{side} of {source.name}"
    kept: list[int | str] = []
    paths: list[PictureFile] = []
    missing: dict[str, list[int]] = {"picture": [], "label": []}
    cells = _picture_table(table, source)
    files = tuple(entry["filename"] for entry in cells.cache_files)
    for index, (nbytes, path) in enumerate(_cells(cells, source.column)):
        value = values[index]
        if value is None or (nbytes is None and not path):
            missing["label" if value is None else "picture"].append(index)
            continue
        kept.append(value)
        if nbytes is None:
            paths.append(file_inside(path, source.folders, f"{where}, row {index}"))
        else:
            paths.append(TableRow(side, index, nbytes, cells, source.column, files))
    notes = [
        f"{where}: {len(rows)} of {len(table)} rows have no {what} and are left out "
        f"(first: {rows[0]})"
        for what, rows in missing.items()
        if rows
    ]
    if not kept:
        raise DataError(f"{where} has no row with a picture and a label")
    labels = torch.tensor(labels_of(kept, classes, where), dtype=torch.int64)
    return Split(labels, paths=tuple(paths)), notes


def _picture_table(table: Any, source: _Source) -> Any:
    """Select the column of pictures, as encoded bytes or as paths of files."""
    import datasets

    try:
        alone = table.select_columns([source.column])
        return alone.cast_column(source.column, datasets.Image(decode=False))
    except Exception as error:  # Arrow's own, of many kinds
        raise DataError(
            f"column {source.column!r} of {source.name} cannot be read as pictures: {error}"
        ) from error


def _cells(table: Any, column: str) -> Iterator[tuple[int | None, str]]:
    """Yield the byte size of each cell, None without bytes, and the path of its file."""
    from pyarrow import compute

    for start in range(0, len(table), 10_000):
        cells = table.with_format("arrow")[start : start + 10_000][column]
        sizes = compute.binary_length(compute.struct_field(cells, "bytes")).to_pylist()
        yield from zip(sizes, compute.struct_field(cells, "path").to_pylist(), strict=True)
