"""Check Arrow files of a table before they are read."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator, Sequence
from typing import Any

from gvbsm.config.errors import first_line
from gvbsm.data.pictures import DataError
from gvbsm.data.sources.hub_budget import VALUE_BYTES, budget_of

_MAGIC = b"ARROW1\0\0"  # of a file with a footer, before its stream


def check_arrow(paths: Sequence[str]) -> None:
    """Check that Arrow files do not decode to far more than their bytes.

    Plain buffers are mapped into memory as they are. Counted are compressed buffers, by the sizes
    that they state, and cells that a dictionary repeats.

    Raises:
        DataError: Naming the file; or if it is damaged, or has cells that are shared in another
            way than by a dictionary.
    """
    import pyarrow as pa

    budget = budget_of(sum(os.stat(path).st_size for path in paths))  # noqa: PTH116
    for path in paths:
        try:
            with pa.memory_map(path) as file:
                _check_types(_reader(file).schema, path)
                for nbytes in _decompressed_parts(file):
                    budget.add(nbytes, path)
                for nbytes in _repeated_parts(file):
                    budget.add(nbytes, path)
        except (pa.ArrowException, OSError, IndexError, struct.error) as error:
            raise DataError(f"{path} is a damaged Arrow file: {first_line(error)}") from error


def arrow_schema(path: str) -> Any:
    """Schema of an Arrow file, streamed or with a footer, which may lie on the Hub."""
    import fsspec

    with fsspec.open(path, "rb") as file:
        return _reader(file).schema


def _has_footer(file: Any) -> bool:
    file.seek(0)
    magic = file.read(len(_MAGIC))
    file.seek(0)
    return bool(magic == _MAGIC)


def _reader(file: Any) -> Any:
    import pyarrow as pa

    return pa.ipc.open_file(file) if _has_footer(file) else pa.ipc.open_stream(file)


def _types(kind: Any, name: str) -> Iterator[tuple[str, Any]]:
    """Dotted name and type of a column and of all columns inside of it."""
    yield name, kind
    for number in range(kind.num_fields):
        field = kind.field(number)
        yield from _types(field.type, f"{name}.{field.name}")


def _check_types(schema: Any, path: str) -> None:
    """Check that no column shares cells in a way that is not counted."""
    from pyarrow import types

    for column in schema:
        for name, kind in _types(column.type, column.name):
            shared = types.is_run_end_encoded(kind) or types.is_union(kind) or "view" in str(kind)
            if types.is_dictionary(kind):
                shared = not _is_cell(kind.value_type)
            if shared:
                raise DataError(
                    f"{name} of {path} is a column of {kind}, whose cells may share their bytes: "
                    "expected binary, string or numbers; write it anew as such"
                )


def _is_cell(kind: Any) -> bool:
    """Whether a type is a plain text, a sequence of bytes or a number."""
    from pyarrow import types

    sized = types.is_binary(kind) or types.is_string(kind)
    return bool(
        sized
        or types.is_large_binary(kind)
        or types.is_large_string(kind)
        or types.is_primitive(kind)
    )


def _decompressed_parts(file: Any) -> Iterator[int]:
    """For each message of a file, the bytes that its compressed buffers state to decode to."""
    import pyarrow as pa

    file.seek(len(_MAGIC) if _has_footer(file) else 0)
    for message in pa.ipc.MessageReader.open_stream(file):
        places = _compressed_buffers(message.metadata.to_pybytes(), message.type)
        yield sum(max(0, struct.unpack_from("<q", message.body, offset)[0]) for offset in places)


def _compressed_buffers(metadata: bytes, kind: str) -> list[int]:
    """Offsets of a message's buffers in its body, if it is a batch that is compressed.

    Each such buffer begins with its size once it is decompressed, -1 if it is stored as it is.

    Args:
        metadata: The message as a FlatBuffer (`Message.fbs` of the Arrow format).
        kind: "record batch", "dictionary" or another kind of message.
    """
    if kind not in ("record batch", "dictionary"):
        return []
    batch = _child(metadata, _child(metadata, 0), field=2)  # Message.header
    if kind == "dictionary":
        batch = _child(metadata, batch, field=1)  # DictionaryBatch.data
    buffers, compression = (_field(metadata, batch, field) for field in (2, 3))
    if compression is None or buffers is None:
        return []
    (vector,) = struct.unpack_from("<I", metadata, buffers)
    (count,) = struct.unpack_from("<I", metadata, buffers + vector)
    pairs = struct.iter_unpack("<qq", metadata[buffers + vector + 4 :][: 16 * count])
    return [offset for offset, length in pairs if length > 0]


def _field(metadata: bytes, table: int, field: int) -> int | None:
    """Position of a field of a FlatBuffer's table, None if it is left out."""
    start = table - struct.unpack_from("<i", metadata, table)[0]
    (size,) = struct.unpack_from("<H", metadata, start)
    slot = 4 + 2 * field
    if slot >= size:
        return None
    (offset,) = struct.unpack_from("<H", metadata, start + slot)
    return table + offset if offset else None


def _child(metadata: bytes, table: int, field: int | None = None) -> int:
    """Position of the table that a field refers to; without a field, of the root."""
    position = table if field is None else _field(metadata, table, field)
    if position is None:
        raise IndexError(f"a message lacks field {field}")
    return int(position + struct.unpack_from("<I", metadata, position)[0])


def _repeated_parts(file: Any) -> Iterator[int]:
    """For each batch of a file, the bytes of the cells that its dictionaries repeat."""
    from pyarrow import types

    reader = _reader(file)
    if not any(
        types.is_dictionary(kind) for field in reader.schema for _, kind in _types(field.type, "")
    ):
        return
    count = getattr(reader, "num_record_batches", None)
    batches = reader if count is None else map(reader.get_batch, range(count))
    for batch in batches:
        yield sum(_repeated_bytes(column) for column in batch.columns)


def _repeated_bytes(column: Any) -> int:
    """Bytes of a column's cells once dictionaries are replaced by their values."""
    from pyarrow import compute, types

    if types.is_struct(column.type):
        return sum(map(_repeated_bytes, column.flatten()))
    if types.is_nested(column.type):
        return _repeated_bytes(column.flatten())  # lists
    if not types.is_dictionary(column.type):
        return 0
    if types.is_primitive(column.type.value_type):
        return VALUE_BYTES * len(column)
    lengths = compute.binary_length(column.dictionary).cast("int64")
    return int(compute.sum(lengths.take(column.indices)).as_py() or 0)
