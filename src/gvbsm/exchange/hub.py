"""Distilled sets on the Hugging Face Hub: download, upload, and the Parquet table of a set."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from gvbsm.config.errors import first_line
from gvbsm.data.pictures import DataError
from gvbsm.data.sources.hub_library import bars_off, need

_BATCH_BYTES = 64 * 1024**2  # of pictures that are decoded at once
_ROW_BYTES = 1024  # of a row beside its picture


def split_name(source: str) -> tuple[str, str | None] | None:
    """Split USER/NAME or USER/NAME/FOLDER into USER/NAME and the folder; None if it is neither."""
    match = re.fullmatch(r"([\w.-]+/[\w.-]+)(?:/(?!\.{1,2}$)([\w.+-]+))?", source)
    return None if match is None else (match[1], match[2])


def download(name: str, folder: str | None = None) -> Path:
    """Download a data set from the Hub; return its folder in the cache.

    Args:
        name: USER/NAME.
        folder: Download this folder of it alone.

    Raises:
        DataError: If there is none, or the Hub cannot be reached.
    """
    need("huggingface_hub")
    from huggingface_hub import snapshot_download

    try:
        patterns = None if folder is None else [f"{folder}/*"]
        return Path(snapshot_download(name, repo_type="dataset", allow_patterns=patterns))
    except Exception as error:  # no network, no such repository, no access
        first = first_line(error)
        raise DataError(f"cannot fetch {name} from the Hugging Face Hub: {first}") from error


def upload(folder: Path, name: str) -> str:
    """Upload a folder to the Hub as the data set USER/NAME; return its address.

    The data set is created if there is none. Hidden files are left out.

    Raises:
        DataError: If the Hub refuses it, for lack of a login or of rights.
    """
    need("huggingface_hub")
    from huggingface_hub import HfApi

    try:
        hub = HfApi()
        hub.create_repo(name, repo_type="dataset", exist_ok=True)
        return str(
            hub.upload_folder(
                folder_path=folder, repo_id=name, repo_type="dataset", ignore_patterns=[".*"]
            )
        )
    except Exception as error:
        first = first_line(error)
        raise DataError(f"cannot push to {name} on the Hugging Face Hub: {first}") from error


def write_table(
    path: Path, pictures: Sequence[bytes], labels: Sequence[int], class_names: Sequence[str]
) -> None:
    """Write encoded pictures and labels as a Parquet file that `datasets` reads as such."""
    need("datasets")
    import datasets

    kinds = {
        "image": datasets.Image(),
        "label": datasets.ClassLabel(names=list(class_names)),
    }
    cells = [{"bytes": picture, "path": None} for picture in pictures]
    features = datasets.Features(kinds)
    table = datasets.Dataset.from_dict({"image": cells, "label": list(labels)}, features=features)
    with bars_off():
        table.to_parquet(path)


def read_labels(path: Path, rows: int) -> list[int]:
    """Read the labels of a Parquet table of `image` and `label`.

    Raises:
        DataError: If it is no such table, has another number of rows or lacks a label.
    """
    with _opened(path, rows) as table:
        labels = table.read(columns=["label"], use_threads=False).column(0)
        if labels.null_count:
            raise DataError(f"{path} has a row without a label; fetch it again")
        return list(labels.to_pylist())


def read_pictures(path: Path, rows: int, most_bytes: int) -> Iterator[bytes]:
    """Read the encoded pictures of a Parquet table one by one.

    A column may store one picture once and repeat it in every row, so that the file's size says
    nothing of what it decodes to. A few pictures are in memory at once.

    Args:
        path: The file.
        rows: How many rows it should have.
        most_bytes: The most that an encoded picture may take.

    Raises:
        DataError: As for `read_labels`; or if pictures take more than `most_bytes`.
    """
    with _opened(path, rows) as table:
        groups = [table.metadata.row_group(n) for n in range(table.metadata.num_row_groups)]
        sizes = [group.total_byte_size for group in groups]  # without compression
        if sum(sizes) > rows * (most_bytes + _ROW_BYTES):
            raise DataError(f"{path} unpacks to {sum(sizes)} bytes, too much for {rows} pictures")
        at_once = max(1, min(rows, _BATCH_BYTES // max([1, *sizes])))
        for batch in table.iter_batches(at_once, columns=["image.bytes"], use_threads=False):
            cells = batch.column(0).field(0)
            if cells.null_count:
                raise DataError(f"{path} has a row without a picture; fetch it again")
            if cells.nbytes > most_bytes * len(cells):
                raise DataError(
                    f"{path} has pictures of more than {most_bytes} bytes; fetch it again"
                )
            yield from cells.to_pylist()


@contextmanager
def _opened(path: Path, rows: int) -> Iterator[Any]:
    """Open a Parquet table of images and labels as a `pyarrow.parquet.ParquetFile`.

    Raises:
        DataError: If it cannot be read, in the block too, or is no such table.
    """
    need("pyarrow")
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(path) as file:
            _check_table(file, path, rows)
            yield file
    except DataError:
        raise
    except Exception as error:  # Arrow's own, of many kinds
        first = first_line(error)
        raise DataError(f"cannot read {path} as a table of image and label: {first}") from None


def _check_table(file: Any, path: Path, rows: int) -> None:
    """Check what a table's file says of its rows and columns."""
    from pyarrow import types

    columns = file.schema_arrow
    if file.metadata.num_rows != rows:
        raise DataError(f"{path} has {file.metadata.num_rows} rows, the set has {rows} images")
    image, label = columns.field("image").type, columns.field("label").type
    is_picture = types.is_struct(image) and image.get_field_index("bytes") >= 0
    if not is_picture or not types.is_binary(image.field("bytes").type):
        raise DataError(f"image of {path} should be a column of encoded pictures, found {image}")
    if not types.is_integer(label):
        raise DataError(f"label of {path} should be a column of integers, found {label}")
