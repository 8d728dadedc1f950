"""Load the tables of a data set in Hugging Face's formats, each split by its own files.

What the files hold is looked at first: their kinds, sizes, and the classes that they declare.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gvbsm.config.errors import first_line
from gvbsm.data.classes import class_name
from gvbsm.data.pictures import DataError
from gvbsm.data.sources.hub import bars_off
from gvbsm.data.sources.hub_files import check_data_files, check_folder
from gvbsm.data.sources.request import Request

MOST_LETTERS = 300  # of what a library says of a fault
MOST_ROWS = 20_000_000  # of one split
MOST_RATIO = 200  # of unpacked to packed bytes: encoded pictures do not compress so well
SMALL = 64 * 1024**2  # bytes that are unpacked whatever the ratio


def load_tables(name: str, request: Request) -> dict[str, Any]:
    """Each split's table, with the features that its own files declare.

    Args:
        name: A folder, or USER/NAME on the Hub.
        request: Its root is the folder, or None; its subset the configuration.

    Raises:
        DataError: If the set cannot be read, or its files differ within a split or are too large.
    """
    import datasets

    folder = request.root
    if folder is not None and not folder.is_dir():
        raise DataError(f"{folder} is no folder: expected one in Hugging Face's formats")
    try:
        if folder is not None:
            check_folder(folder)
        with _quiet():
            if folder is not None and (folder / "dataset_dict.json").is_file():
                return dict(datasets.load_from_disk(name))
            if folder is not None and (folder / "state.json").is_file():  # one split alone
                return {"train": datasets.load_from_disk(name)}
            apart = _files_apart(name, request)
            if apart is None:
                return dict(datasets.load_dataset(name, name=request.config.subset))
            return {
                side: datasets.load_dataset(apart.form, data_files={side: files})[side]
                for side, files in apart.files.items()
            }
    except DataError:
        raise
    except Exception as error:  # no network, no such set, several configurations, broken files
        cause = error.__cause__ or error
        first = first_line(cause)[:MOST_LETTERS]
        raise DataError(
            f"cannot read {name} as a Hugging Face data set: {first}"
            " (--data.subset names one of its configurations)"
        ) from error


def declared_names(kind: Any) -> tuple[str, ...] | None:
    """Names of the classes that a column declares by its type; None if it declares none."""
    import datasets

    if not isinstance(kind, datasets.ClassLabel):
        return None
    return tuple(class_name(name) for name in kind.names)


@contextmanager
def _quiet() -> Iterator[None]:
    """Suppress the library's messages, and its progress bars unless a terminal shows them."""
    logger = logging.getLogger("datasets")
    level = logger.level
    logger.setLevel(logging.ERROR)
    watched = sys.stderr is not None and sys.stderr.isatty()
    try:
        with nullcontext() if watched else bars_off():
            yield
    finally:
        logger.setLevel(level)


@dataclass(frozen=True)
class _Apart:
    """Files of each split that must not be loaded together, and the name of their format."""

    form: str
    files: Mapping[str, Sequence[str]]


def _files_apart(name: str, request: Request) -> _Apart | None:
    """Files of each split, if the splits' Parquet or Arrow files declare classes differently.

    Loaded together, the numbers of all files would be taken by the names of the first one.

    Raises:
        DataError: If two files of one split differ, or a file is too large.
    """
    import datasets

    builder = datasets.load_dataset_builder(name, name=request.config.subset)
    check_data_files(builder.config.data_files or {}, request, name)
    form = type(builder).__module__.rpartition(".")[2]
    if form not in ("parquet", "arrow"):
        return None
    files = {str(side): list(paths) for side, paths in builder.config.data_files.items()}
    declared = {}
    for side, paths in files.items():
        # of files on the Hub, the first of each split: each is a request
        read = paths if Path(paths[0]).is_file() else paths[:1]
        if form == "parquet":
            schemas = _parquet_schemas(read, f"{side} of {name}")
        else:
            schemas = [_arrow_schema(path) for path in read]
        columns = [_declared_columns(schema) for schema in schemas]
        for path, other in zip(read, columns, strict=True):
            if other != columns[0]:
                raise DataError(
                    f"{read[0]} and {path} declare different classes, but are of one split: write "
                    "them anew with one list of classes"
                )
        declared[side] = columns[0]
    first = next(iter(declared.values()))
    return _Apart(form, files) if any(each != first for each in declared.values()) else None


def _parquet_schemas(paths: Sequence[str], where: str) -> list[Any]:
    """Arrow schemas of one split's Parquet files.

    Raises:
        DataError: If they have too many rows, or unpack to far more than their bytes.
    """
    import fsspec
    import pyarrow.parquet as parquet

    rows, schemas = 0, []
    for path in paths:
        with fsspec.open(path, "rb") as file:
            metadata = parquet.read_metadata(file)
        _check_unpacked(metadata, path)
        rows += metadata.num_rows
        schemas.append(metadata.schema.to_arrow_schema())
    if rows > MOST_ROWS:
        raise DataError(f"{where} has {rows} rows, more than {MOST_ROWS}: take a part of it")
    return schemas


def _check_unpacked(metadata: Any, path: str) -> None:
    """Check that no column of bytes or text unpacks to far more than it takes in the file."""
    for group in range(metadata.num_row_groups):
        for number in range(metadata.num_columns):
            chunk = metadata.row_group(group).column(number)
            packed, unpacked = chunk.total_compressed_size, chunk.total_uncompressed_size
            if chunk.physical_type != "BYTE_ARRAY" or unpacked <= MOST_RATIO * packed:
                continue
            # an entry of a dictionary may be repeated in every row
            most = unpacked * max(1, chunk.num_values) if chunk.has_dictionary_page else unpacked
            if most > SMALL:
                raise DataError(
                    f"{path} unpacks {packed} bytes of {chunk.path_in_schema} to as many as "
                    f"{most}, as no pictures do: write it anew"
                )


def _arrow_schema(path: str) -> Any:
    import fsspec
    import pyarrow as pa

    with fsspec.open(path, "rb") as file:
        try:
            return pa.ipc.open_stream(file).schema
        except pa.ArrowInvalid:
            file.seek(0)
            return pa.ipc.open_file(file).schema


def _declared_columns(schema: Any) -> dict[str, tuple[str, ...]]:
    """Names of the classes of each column of class labels."""
    import datasets

    features = datasets.Features.from_arrow_schema(schema)
    columns = {column: declared_names(kind) for column, kind in features.items()}
    return {column: names for column, names in columns.items() if names is not None}
