"""Hugging Face's Hub and Parquet tables: fetch and push folders, read and write a set's table.

The libraries are an extra (`pip install "gvbsm[hub]"`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

from gvbsm.pictures import DataError


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
        first = (str(error).splitlines() or [type(error).__name__])[0]
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
        first = (str(error).splitlines() or [type(error).__name__])[0]
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
    with _bars_off():
        table.to_parquet(path)


@contextmanager
def _bars_off() -> Iterator[None]:
    from datasets.utils import logging as bars

    shown = bars.is_progress_bar_enabled()
    bars.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            bars.enable_progress_bar()


def read_table(path: Path, most_bytes: int) -> tuple[list[bytes], list[int]]:
    """Encoded pictures and labels of a Parquet file, if it is no larger than it may be.

    Raises:
        DataError: If it is no such file, or too large.
    """
    need("pyarrow")
    import pyarrow.parquet as parquet

    try:
        with parquet.ParquetFile(path) as file:
            found = file.metadata
            total = sum(found.row_group(i).total_byte_size for i in range(found.num_row_groups))
            if total > most_bytes:
                raise DataError(f"{path} unpacks to {total} bytes, more than {most_bytes}")
            table = file.read(columns=["image", "label"])
        cells, labels = table.column("image").to_pylist(), table.column("label").to_pylist()
        return [cell["bytes"] for cell in cells], [int(label) for label in labels]
    except DataError:
        raise
    except Exception as error:  # Arrow's own, of many kinds
        raise DataError(f"cannot read {path} as a table of image and label: {error}") from error
