"""Load the tables of a data set in Hugging Face's formats, each split by its own files.

The files are checked first: their kinds, the bytes that they decode to, and the classes that they
declare.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from gvbsm.config.errors import first_line
from gvbsm.data.pictures import DataError
from gvbsm.data.sources.hub_arrow import arrow_schema, check_arrow
from gvbsm.data.sources.hub_columns import choose_columns, declared_names
from gvbsm.data.sources.hub_files import check_data_files, check_folder, state_files
from gvbsm.data.sources.hub_library import bars_off
from gvbsm.data.sources.hub_parquet import check_parquet, read_metadata
from gvbsm.data.sources.request import MOST_PICTURES, Request

MOST_LETTERS = 300  # of what a library says of a fault

Files = Mapping[str, Sequence[str]]
"""Split -> paths or addresses of its files."""


def load_tables(name: str, request: Request) -> dict[str, Any]:
    """Load each split as a table with the features that its own files declare.

    Of Parquet files, only the columns of pictures and labels are read.

    Args:
        name: A folder, or USER/NAME on the Hub.
        request: Its root is the folder, or None; its subset the configuration.

    Raises:
        DataError: If the set cannot be read or has no split `train`, or its files differ within a
            split or decode to too much.
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
                _check_saved(folder.rglob("state.json"))
                return dict(datasets.load_from_disk(name))
            if folder is not None and (folder / "state.json").is_file():  # one split alone
                _check_saved([folder / "state.json"])
                return {"train": datasets.load_from_disk(name)}
            return _load_files(name, request)
    except DataError:
        raise
    except Exception as error:  # no network, no such set, several configurations, broken files
        cause = error.__cause__ or error
        first = first_line(cause)[:MOST_LETTERS]
        raise DataError(
            f"cannot read {name} as a Hugging Face data set: {first}"
            " (--data.subset names one of its configurations)"
        ) from error


def _check_saved(states: Iterable[Path]) -> None:
    """Check the Arrow files that states of `save_to_disk` name."""
    check_arrow([str(file) for state in states for file in state_files(state)])


def check_train(splits: Mapping[str, Any], name: str) -> None:
    """Check that a set has a split named `train`.

    Raises:
        DataError: Naming those that it has.
    """
    if "train" not in splits:
        raise DataError(f"{name} has no split named train, only {', '.join(splits)}")


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


def _load_files(name: str, request: Request) -> dict[str, Any]:
    """Load a set that is no folder of `save_to_disk`: files of data, or pictures with metadata."""
    import datasets

    subset = request.config.subset
    builder = datasets.load_dataset_builder(name, name=subset)
    check_data_files(builder.config.data_files or {}, request, name)
    form = type(builder).__module__.rpartition(".")[2]
    if form not in ("parquet", "arrow"):
        return dict(datasets.load_dataset(name, name=subset))
    files = {str(side): list(paths) for side, paths in builder.config.data_files.items()}
    schemas = _schemas(form, files, name)
    check_train(schemas, name)
    columns: dict[str, Any] = {}
    if form == "parquet":
        features = builder.info.features or datasets.Features.from_arrow_schema(schemas["train"])
        columns["columns"] = list(dict.fromkeys(choose_columns(features, request, name)))
    declared = [_declared_columns(schema) for schema in schemas.values()]
    if all(classes == declared[0] for classes in declared):
        return _load_checked(form, name, {"name": subset, **columns})
    # Loaded together, the numbers of all files would be taken by the names of the first one.
    tables: dict[str, Any] = {}
    for side, paths in files.items():
        tables |= _load_checked(form, form, {"data_files": {side: paths}, **columns})
    return tables


def _load_checked(form: str, path: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Load files once it is clear what they decode to; what was loaded is in a cache."""
    import datasets

    builder = datasets.load_dataset_builder(path, **options)
    if not Path(builder.cache_dir).exists():
        local = datasets.DownloadManager().download(
            {str(side): list(paths) for side, paths in builder.config.data_files.items()}
        )
        paths = [file for side in local.values() for file in side]
        if form == "parquet":
            check_parquet({file: read_metadata(file) for file in paths}, options["columns"])
        else:
            check_arrow(paths)
    return dict(datasets.load_dataset(path, **options))


def _schemas(form: str, files: Files, name: str) -> dict[str, Any]:
    """The Arrow schema of each split: that of its first file.

    Raises:
        DataError: If two files of one split declare different classes, or it has too many rows.
    """
    first = {}
    for side, paths in files.items():
        # of files on the Hub, the first of each split alone: each is a request
        read = paths if Path(paths[0]).is_file() else paths[:1]
        if form == "parquet":
            schemas = _parquet_schemas(read, f"{side} of {name}")
        else:
            schemas = [arrow_schema(path) for path in read]
        first[side] = schemas[0]
        expected = _declared_columns(schemas[0])
        for path, schema in zip(read, schemas, strict=True):
            if _declared_columns(schema) != expected:
                raise DataError(
                    f"{read[0]} and {path} declare different classes, but are of one split: write "
                    "them anew with one list of classes"
                )
    return first


def _parquet_schemas(paths: Sequence[str], where: str) -> list[Any]:
    metadata = [read_metadata(path) for path in paths]
    rows = sum(file.num_rows for file in metadata)
    if rows > MOST_PICTURES:
        raise DataError(f"{where} has {rows} rows, more than {MOST_PICTURES}: take a part of it")
    return [file.schema.to_arrow_schema() for file in metadata]


def _declared_columns(schema: Any) -> dict[str, tuple[str, ...]]:
    """Names of the classes of each column of class labels."""
    import datasets

    features = datasets.Features.from_arrow_schema(schema)
    columns = {column: declared_names(kind) for column, kind in features.items()}
    return {column: names for column, names in columns.items() if names is not None}
