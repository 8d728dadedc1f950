"""Hugging Face's Hub and Parquet tables: fetch and push folders, read and write a set's table.

The libraries are an extra (`pip install "gvbsm[hub]"`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from gvbsm.config.errors import first_line
from gvbsm.data.pictures import DataError

_AT_ONCE = 256 * 1024**2  # bytes that the rows that are read at once may unpack to
_ROW_BYTES = 1024  # of a row beside its picture


def need(*modules: str) -> None:
    """Check that the extra is installed.

    Raises:
        DataError: Naming what is missing.
    """
    missing = [name for name in modules if find_spec(name) is None]
    if missing:
        raise DataError(
            f"this needs {' and '.join(missing)}: pip install 'gvbsm[hub]', or pip install "
            f"{' '.join(missing)}"
        )


def download(name: str) -> Path:
    """Fetch a repository of data from the Hub; return its folder in the cache.

    Raises:
        DataError: If it is not there or cannot be reached.
    """
    need("huggingface_hub")
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, repo_type="dataset"))
    except Exception as error:  # no network, no such repository, no access
        first = first_line(error)
        raise DataError(f"cannot fetch {name} from the Hugging Face Hub: {first}") from error


def upload(folder: Path, name: str) -> str:
    """Push a folder to the Hub as a data set, made if it is new; return its address.

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


@contextmanager
def bars_off() -> Iterator[None]:
    """Show no progress bars of `datasets` for the block."""
    from datasets.utils import logging as bars

    shown = bars.is_progress_bar_enabled()
    bars.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            bars.enable_progress_bar()


def read_table(path: Path, rows: int, most_bytes: int) -> tuple[list[bytes], list[int]]:
    """Encoded pictures and labels of a Parquet file, `image` and `label`, read a few at a time.

    A column may hold one value once and repeat it in every row, so that the file's size says
    nothing of what it unpacks to. The rows are counted and each picture is measured.

    Args:
        path: The file.
        rows: How many rows it should have.
        most_bytes: The most that an encoded picture may take.

    Raises:
        DataError: If it is no such file, has other rows or a larger picture.
    """
    need("pyarrow")
    import pyarrow.parquet as parquet

    pictures: list[bytes] = []
    labels: list[int] = []
    try:
        with parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(
                _check_table(file, path, rows, most_bytes), columns=["image.bytes", "label"]
            ):
                cells = batch.column(0).field(0)
                if cells.null_count or batch.column(1).null_count:
                    raise DataError(f"{path} has a row without a picture or label; fetch it again")
                if cells.nbytes > most_bytes * len(cells):
                    raise DataError(
                        f"{path} has pictures of more than {most_bytes} bytes; fetch it again"
                    )
                pictures += cells.to_pylist()
                labels += batch.column(1).to_pylist()
    except DataError:
        raise
    except Exception as error:  # Arrow's own, of many kinds
        first = first_line(error)
        raise DataError(f"cannot read {path} as a table of image and label: {first}") from None
    return pictures, labels


def _check_table(file: Any, path: Path, rows: int, most_bytes: int) -> int:
    """Check what a table's file says of its rows and columns; return how many to read at once."""
    import pyarrow as arrow

    metadata, columns = file.metadata, file.schema_arrow
    if metadata.num_rows != rows:
        raise DataError(f"{path} has {metadata.num_rows} rows, the set has {rows} images")
    image, label = columns.field("image").type, columns.field("label").type
    is_picture = arrow.types.is_struct(image) and image.get_field_index("bytes") >= 0
    if not is_picture or not arrow.types.is_binary(image.field("bytes").type):
        raise DataError(f"image of {path} should be a column of encoded pictures, found {image}")
    if not arrow.types.is_integer(label):
        raise DataError(f"label of {path} should be a column of integers, found {label}")
    sizes = [metadata.row_group(group).total_byte_size for group in range(metadata.num_row_groups)]
    if sum(sizes) > rows * (most_bytes + _ROW_BYTES):
        raise DataError(f"{path} unpacks to {sum(sizes)} bytes, too much for {rows} pictures")
    return int(max(1, min(rows, _AT_ONCE // max(1, *sizes, 1))))
