"""Check Parquet files of a table before their columns are read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from gvbsm.data.pictures import DataError
from gvbsm.data.sources.hub_budget import MOST_GROWTH, VALUE_BYTES, Budget, budget_of

BATCH_BYTES = 64 * 1024**2  # of cells that are decoded at once to be counted
ROW_BYTES = 64  # of a row in memory beside its cells
_REPEATING = {"DELTA_BYTE_ARRAY", "PLAIN_DICTIONARY", "RLE_DICTIONARY"}  # encodings of cells


def read_metadata(path: str) -> Any:
    """`pyarrow.parquet.FileMetaData` of a file, which may lie on the Hub."""
    import fsspec
    from pyarrow import parquet

    with fsspec.open(path, "rb") as file:
        return parquet.read_metadata(file)


def check_parquet(files: Mapping[str, Any], columns: Sequence[str]) -> None:
    """Check that some columns of Parquet files do not decode to far more than their bytes.

    Sizes come from the files' metadata. Where cells may be repeated, the column is decoded in small
    batches and counted: one second a gigabyte, in 0.4 GB of memory.

    Args:
        files: Path -> `pyarrow.parquet.FileMetaData`.
        columns: The columns that are read.

    Raises:
        DataError: Naming the file; or if a column holds lists.
    """
    groups = [
        (path, group, _chunks(metadata, group, columns, path))
        for path, metadata in files.items()
        for group in range(metadata.num_row_groups)
    ]
    total = budget_of(sum(_packed(chunks) for _, _, chunks in groups))
    total.add(ROW_BYTES * sum(metadata.num_rows for metadata in files.values()), next(iter(files)))
    for path, group, chunks in groups:
        single = Budget(_packed(chunks), _packed(chunks) + MOST_GROWTH)
        for nbytes in _decoded_parts(path, group, chunks):
            single.add(nbytes, path)
            total.add(nbytes, path)


def _packed(chunks: Sequence[Any]) -> int:
    return sum(chunk.total_compressed_size for chunk in chunks)


def _chunks(metadata: Any, group: int, columns: Sequence[str], path: str) -> list[Any]:
    """Metadata of a row group's chunks, one for each leaf of the columns."""
    chunks = []
    for number in range(metadata.num_columns):
        leaf = metadata.schema.column(number)
        if not any(leaf.path == name or leaf.path.startswith(f"{name}.") for name in columns):
            continue
        if leaf.max_repetition_level > 0:
            raise DataError(
                f"{leaf.path} of {path} holds lists: expected one picture and one label a row"
            )
        chunks.append(metadata.row_group(group).column(number))
    return chunks


def _decoded_parts(path: str, group: int, chunks: Sequence[Any]) -> Iterator[int]:
    """Bytes of a row group's cells, part by part; first those that the metadata give."""
    import pyarrow.parquet as parquet

    yield sum(
        max(chunk.total_uncompressed_size, VALUE_BYTES * chunk.num_values) for chunk in chunks
    )
    counted = [chunk for chunk in chunks if _may_repeat(chunk)]
    if not counted:
        return
    stored = sum(chunk.total_uncompressed_size for chunk in counted)  # the most of one cell too
    decoded = 0
    with parquet.ParquetFile(path, pre_buffer=False) as file:
        for batch in file.iter_batches(
            max(1, BATCH_BYTES // max(1, stored)),
            row_groups=[group],
            columns=[chunk.path_in_schema for chunk in counted],
            use_threads=False,
        ):
            before, decoded = decoded, decoded + batch.nbytes
            yield max(0, decoded - max(before, stored))


def _may_repeat(chunk: Any) -> bool:
    """Whether a chunk may hold fewer bytes of text or pictures than its rows have."""
    if chunk.physical_type not in ("BYTE_ARRAY", "FIXED_LEN_BYTE_ARRAY"):
        return False
    return chunk.has_dictionary_page or bool(_REPEATING & set(chunk.encodings))
