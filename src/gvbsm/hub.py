"""Data sets in Hugging Face's formats, and its Hub: the one place that knows these libraries.

They are an extra (`pip install "gvbsm[hub]"`). A set's pictures stay in its Arrow files, which are
mapped into memory, until they are decoded.
"""

from __future__ import annotations

import io
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from gvbsm.pictures import DataError, Lying, Split
from gvbsm.sources import Raw, Request, hold_out

TEST_SPLITS = ("test", "validation", "val", "valid")


@dataclass(frozen=True, order=True)
class Row:
    """A picture in a table."""

    split: str
    index: int
    nbytes: int
    table: Any = field(compare=False, repr=False)
    column: str = field(compare=False, repr=False)

    def open(self) -> Image.Image:
        """Read its bytes and open them."""
        cell = self.table[self.index][self.column]
        return Image.open(io.BytesIO(cell["bytes"]))

    def __str__(self) -> str:
        return f"{self.split}[{self.index}]"


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


def read_hub(request: Request) -> Raw:
    """Read a set of the Hub (`request.member`), or a local folder in its formats.

    Training pictures are the split `train`, test pictures the first of `TEST_SPLITS` whose labels
    are told; without one, a share of `train` is held out.

    Raises:
        DataError: If it cannot be read, or no column is found for pictures or labels.
    """
    need("datasets")
    name = request.member or str(request.need_root())
    tables = _load(name, request)
    if "train" not in tables:
        raise DataError(f"{name} has no split named train, only {', '.join(tables)}")
    features = tables["train"].features
    picture = _picture_column(features, request, name)
    label = _label_column(features, request, name)
    names, number = _classes(tables, label, name)
    train = _split("train", tables["train"], picture, label, number)
    for side in TEST_SPLITS:
        if side in tables:
            test = _split(side, tables[side], picture, label, number)
            if bool((test.labels >= 0).all()):  # -1 stands for labels that are kept secret
                return Raw(names, train, test)
    return Raw(names, *hold_out(train, names, request))


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


def _load(name: str, request: Request) -> Mapping[str, Any]:
    import datasets

    try:
        with _quiet():
            if (Path(name) / "dataset_dict.json").is_file():  # as `save_to_disk` leaves it
                found: Any = datasets.load_from_disk(name)
            else:
                found = datasets.load_dataset(name, name=request.subset)
    except Exception as error:  # no network, no such set, several configurations, broken files
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise DataError(
            f"cannot read {name} as a Hugging Face data set: {first}"
            " (--data.subset names one of its configurations)"
        ) from error
    return dict(found)


def _only(found: Sequence[str], usual: Sequence[str], what: str, setting: str, name: str) -> str:
    """The one column of a kind, or among several the one with a usual name."""
    if len(found) == 1:
        return found[0]
    for column in usual:
        if column in found:
            return column
    raise DataError(
        f"which column of {name} holds {what}? Candidates: {', '.join(found) or 'none'}; "
        f"name one as --data.{setting}"
    )


def _chosen(column: str, features: Mapping[str, Any], setting: str, name: str) -> str:
    if column not in features:
        raise DataError(f"{name} has no column {column!r} (--data.{setting}): {list(features)}")
    return column


def _picture_column(features: Mapping[str, Any], request: Request, name: str) -> str:
    import datasets

    if request.image_column is not None:
        _chosen(request.image_column, features, "image_column", name)
    found = [column for column, kind in features.items() if isinstance(kind, datasets.Image)]
    if request.image_column in found:
        return str(request.image_column)
    if request.image_column is not None:
        raise DataError(f"column {request.image_column!r} of {name} holds no pictures: {found}")
    return _only(found, ("image", "img"), "pictures", "image_column", name)


def _label_column(features: Mapping[str, Any], request: Request, name: str) -> str:
    import datasets

    if request.label_column is not None:
        return _chosen(request.label_column, features, "label_column", name)
    found = [column for column, kind in features.items() if isinstance(kind, datasets.ClassLabel)]
    usual = ("label", "labels", "fine_label", "cls", "class")
    if not found:
        kinds = {c: str(getattr(kind, "dtype", "")) for c, kind in features.items()}
        found = [c for c in usual if kinds.get(c, "").startswith(("int", "uint", "string"))]
    return _only(found, usual, "labels", "label_column", name)


def _classes(
    tables: Mapping[str, Any], label: str, name: str
) -> tuple[tuple[str, ...], Callable[[Any], int]]:
    """The classes' names, and the number of a class as a cell tells it."""
    import datasets

    kind = tables["train"].features[label]
    if isinstance(kind, datasets.ClassLabel):
        return tuple(kind.names), int
    dtype = str(getattr(kind, "dtype", ""))
    if dtype in ("string", "large_string"):
        names = tuple(sorted(set(tables["train"].unique(label))))
        number = {value: index for index, value in enumerate(names)}
        return names, lambda value: number.get(value, -1)
    if dtype.startswith(("int", "uint")):
        count = max(tables["train"].unique(label), default=-1) + 1
        return tuple(str(index) for index in range(count)), int
    raise DataError(f"column {label!r} of {name} must hold numbers or words, found {kind}")


def _split(side: str, table: Any, picture: str, label: str, number: Callable[[Any], int]) -> Split:
    import datasets

    told = table.with_format(None)[label]
    labels: Tensor = torch.tensor([number(value) for value in told], dtype=torch.int64)
    cells = table.select_columns([picture]).cast_column(picture, datasets.Image(decode=False))
    paths: list[Lying] = []
    for index, (nbytes, path) in enumerate(_cells(cells, picture)):
        if nbytes is None:
            paths.append(Path(path))
        else:
            paths.append(Row(side, index, nbytes, cells, picture))
    return Split(labels, paths=tuple(paths))


def _cells(table: Any, column: str) -> Iterator[tuple[int | None, str]]:
    """Bytes of each cell, told by its offsets alone, or where its file lies."""
    import pyarrow.compute as compute

    for start in range(0, len(table), 10_000):
        rows = table.with_format("arrow")[start : start + 10_000][column]
        sizes = compute.binary_length(compute.struct_field(rows, "bytes")).to_pylist()
        yield from zip(sizes, compute.struct_field(rows, "path").to_pylist(), strict=True)


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
