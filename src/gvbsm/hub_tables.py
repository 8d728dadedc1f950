"""Load the tables of a data set in Hugging Face's formats, each split by its own files.

What the files hold is looked at first: their kinds, sizes, and the classes that they declare.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from gvbsm.classes import class_name
from gvbsm.pictures import DataError
from gvbsm.sources import Request

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
    if folder is not None:
        _check_files(folder)
    try:
        with _quiet():
            if folder is not None and (folder / "dataset_dict.json").is_file():
                return dict(datasets.load_from_disk(name))
            if folder is not None and (folder / "state.json").is_file():  # one split alone
                return {"train": datasets.load_from_disk(name)}
            apart = _files_apart(name, request)
            if apart is None:
                return dict(datasets.load_dataset(name, name=request.subset))
            return {
                side: datasets.load_dataset("parquet", data_files={side: files})[side]
                for side, files in apart.items()
            }
    except DataError:
        raise
    except Exception as error:  # no network, no such set, several configurations, broken files
        cause = error.__cause__ or error
        first = (str(cause).splitlines() or [type(cause).__name__])[0]
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
    """Keep the library's own messages from the terminal for the block."""
    logger = logging.getLogger("datasets")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _check_files(folder: Path) -> None:
    """Check that a folder holds files and folders alone: reading a pipe would never end."""
    waiting = [folder]
    while waiting:
        with os.scandir(waiting.pop()) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(Path(entry.path))
                elif not (entry.is_file() or entry.is_dir()) and entry.name[0] != ".":
                    raise DataError(
                        f"{entry.path} is no regular file (a pipe, a device or a broken link): "
                        "move it out of the data set"
                    )


def _files_apart(name: str, request: Request) -> dict[str, list[str]] | None:
    """Files of each split, if the splits' Parquet files declare classes differently.

    Loaded together, the numbers of all files would be taken by the names of the first one.

    Raises:
        DataError: If two files of one split differ, or a file is too large.
    """
    import datasets

    builder = datasets.load_dataset_builder(name, name=request.subset)
    if not type(builder).__module__.endswith("parquet.parquet"):
        return None
    files = {str(side): list(paths) for side, paths in builder.config.data_files.items()}
    declared = {}
    for side, paths in files.items():
        # of files on the Hub, the first of each split: each is a request
        read = paths if Path(paths[0]).is_file() else paths[:1]
        metadata = [_read_metadata(path) for path in read]
        if sum(each.num_rows for each in metadata) > MOST_ROWS:
            raise DataError(f"{side} of {name} has more than {MOST_ROWS} rows: take a part of it")
        columns = [_declared_columns(each) for each in metadata]
        for path, other in zip(read, columns, strict=True):
            if other != columns[0]:
                raise DataError(
                    f"{read[0]} and {path} declare different classes, but are of one split: write "
                    "them anew with one list of classes"
                )
        declared[side] = columns[0]
    first = next(iter(declared.values()))
    return files if any(columns != first for columns in declared.values()) else None


def _read_metadata(path: str) -> Any:
    """What a Parquet file's end says of it.

    Raises:
        DataError: If one of its columns unpacks to far more than the file's bytes.
    """
    import fsspec
    import pyarrow.parquet as parquet

    with fsspec.open(path, "rb") as file:
        metadata = parquet.read_metadata(file)
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
    return metadata


def _declared_columns(metadata: Any) -> dict[str, tuple[str, ...]]:
    """Names of the classes of each column of class labels in a Parquet file."""
    import datasets

    features = datasets.Features.from_arrow_schema(metadata.schema.to_arrow_schema())
    columns = {column: declared_names(kind) for column, kind in features.items()}
    return {column: names for column, names in columns.items() if names is not None}
