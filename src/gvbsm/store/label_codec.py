"""Encode logits and views in few bytes: bit fields, the k largest logits, 8 bits a logit.

A row is one view of one image, in tensors (rows, ...). Each row is encoded by itself.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from gvbsm.config import LabelStorageConfig
from gvbsm.store.label_store import Field

LEVELS = 255  # steps between the least and the largest 8-bit code
ROWS_AT_ONCE = 4096  # rows that are packed at a time
NARROW = ((256, torch.uint8), (32_768, torch.int16))  # number of classes that a type can index


def field(name: str, low: int, high: int) -> Field:
    """The field for integers from `low` to `high`, both included."""
    return Field(name, low, (high - low).bit_length())


def packed_bytes(fields: Sequence[Field]) -> int:
    """Bytes of a packed row."""
    return -(-sum(field.bits for field in fields) // 8)


def row_bytes(fields: Sequence[Field], classes: int, storage: LabelStorageConfig) -> int:
    """Bytes of the view of an image in a store, with its soft label."""
    empty = torch.zeros(1, classes, dtype=torch.float16)
    encoded = encode_logits(empty, storage.top_k, storage.bits).values()
    return packed_bytes(fields) + sum(code.nbytes for code in encoded)


def pack_rows(table: Tensor, fields: Sequence[Field]) -> Tensor:
    """Pack integers into bit fields, the first field in the highest bits of the first byte.

    Args:
        table: int64 (rows, fields).
        fields: Their ranges.

    Returns:
        uint8 (rows, bytes).

    Raises:
        ValueError: If a number is outside of its field.
    """
    lows, limits, shifts = _bounds(fields)
    columns, places, distances = _bytes_of(fields)
    packed = torch.zeros(len(table), packed_bytes(fields), dtype=torch.uint8)
    chunks = (torch.split(tensor, ROWS_AT_ONCE) for tensor in (table, packed))
    for rows, row_bytes in zip(*chunks, strict=True):
        values = rows - lows
        if bool((outside := (values < 0) | (values >= limits)).any()):
            number = int(outside.any(dim=0).nonzero()[0])
            name, low, bits = fields[number]
            allowed = f"[{low}, {low + 2**bits - 1}]"
            raise ValueError(f"{name} must be in {allowed}, got {rows[:, number]}")
        # No two fields have a bit in common, so that their sum is their union.
        values = (values << shifts)[:, columns] >> distances
        row_bytes.index_add_(1, places, (values & 255).to(torch.uint8))
    return packed


def unpack_rows(packed: Tensor, fields: Sequence[Field]) -> Tensor:
    """The inverse of `pack_rows`: uint8 (rows, bytes) to int64 (rows, fields)."""
    lows, limits, shifts = _bounds(fields)
    columns, places, distances = _bytes_of(fields)
    table = torch.zeros(len(packed), len(fields), dtype=torch.int64)
    chunks = (torch.split(tensor, ROWS_AT_ONCE) for tensor in (table, packed))
    for rows, row_bytes in zip(*chunks, strict=True):
        rows.index_add_(1, columns, row_bytes[:, places].long() << distances)
    return table.bitwise_right_shift_(shifts).bitwise_and_(limits - 1).add_(lows)


def _bounds(fields: Sequence[Field]) -> tuple[Tensor, Tensor, Tensor]:
    """Least value, number of values, and bits after the field in its last byte; int64 (fields,)."""
    ends = itertools.accumulate(field.bits for field in fields)
    rows = [(field.low, 2**field.bits, -end % 8) for field, end in zip(fields, ends, strict=True)]
    lows, limits, shifts = torch.tensor(rows).unbind(1)
    return lows, limits, shifts


def _bytes_of(fields: Sequence[Field]) -> tuple[Tensor, Tensor, Tensor]:
    """Every byte of every field: its field, its place, and the bits from it to the field's last."""
    rows, start = [], 0
    for column, field in enumerate(fields):
        end = start + field.bits
        last = (end - 1) // 8
        if field.bits:
            rows += [(column, at, 8 * (last - at)) for at in range(start // 8, last + 1)]
        start = end
    columns, places, distances = torch.tensor(rows, dtype=torch.int64).view(-1, 3).unbind(1)
    return columns, places, distances


def encode_logits(logits: Tensor, top_k: int | None = None, bits: int = 16) -> dict[str, Tensor]:
    """Encode logits for the store.

    With `top_k` the other logits of a row are replaced by their mean (`fill`). It minimizes the
    squared error, which MSE+GT (Eq. 11) measures. At the temperatures of KL, which are large
    compared with the spread of the small logits, it keeps their probability too (docs/labels.md).

    With 8 bits each row has its own offset (`low`) and `scale`, the range of the row / 255, rounded
    up to float16. A logit becomes the nearest of 256 levels; its error is at most half of `scale`.
    With both, `low` is the mean of the other logits, which no kept logit is below.

    Args:
        logits: float16 (rows, classes).
        top_k: Logits that are kept of each row, less than `classes`; None keeps all.
        bits: 16 or 8.

    Returns:
        Named tensors (rows, ...): `logits` float16 or `codes` uint8, (rows, classes or k), the
        largest first if k are kept; `classes` (rows, k), their classes in the narrowest type;
        `fill` float16 (rows,), or, with 8 bits, `low` and `scale` float16 (rows,).
    """
    values, parts = logits.float(), {}
    low = values.amin(dim=1) if bits == 8 else None
    if top_k is not None:
        classes = _ranks(logits).topk(top_k, dim=1).indices
        others = values.double().scatter(1, classes, 0.0).sum(dim=1) / (logits.shape[1] - top_k)
        low = others.half().float()
        values = values.gather(1, classes)
        parts["classes"] = classes.to(_narrowest(logits.shape[1]))
    if bits == 16:
        parts["logits"] = values.half()
        return parts if low is None else {**parts, "fill": low.half()}
    assert low is not None
    scale = _round_up((values.amax(dim=1) - low) / LEVELS)
    steps = scale.float().clamp(min=torch.finfo(torch.float16).tiny / 1024)  # where all are equal
    codes = ((values - low[:, None]) / steps[:, None]).round().clamp(0, LEVELS)
    return {**parts, "codes": codes.to(torch.uint8), "low": low.half(), "scale": scale}


def decode_logits(parts: Mapping[str, Tensor], classes: int) -> Tensor:
    """Decode what `encode_logits` returns to logits, float32 (rows, classes).

    Args:
        parts: Its tensors, for any rows.
        classes: Number of classes.
    """
    if "codes" in parts:
        low = parts["low"].float()
        values = low[:, None] + parts["scale"].float()[:, None] * parts["codes"].float()
    else:
        values = parts["logits"].float()
    if "classes" not in parts:
        return values
    fill = parts["low" if "codes" in parts else "fill"].float()
    logits = fill[:, None].expand(-1, classes).clone()
    return logits.scatter_(1, parts["classes"].long(), values)


def _ranks(logits: Tensor) -> Tensor:
    """Integers in the order of a row's logits; of equal logits the first has the largest.

    No two are equal, so that the k largest are the same on every device. Apart from the sign, the
    bits of a float16 read as an integer have the order of its magnitude.
    """
    bits = logits.view(torch.int16).long()
    size = torch.where(bits < 0, -(2**15) - bits, bits)
    count = logits.shape[1]
    return size * count - torch.arange(count, device=logits.device)


def _narrowest(classes: int) -> torch.dtype:
    return next((kind for most, kind in NARROW if classes <= most), torch.int32)


def _round_up(values: Tensor) -> Tensor:
    """Round numbers that are not negative up to float16."""
    nearest = values.half()
    above = (nearest.view(torch.int16) + 1).view(torch.float16)
    return torch.where(nearest.float() < values, above, nearest)
