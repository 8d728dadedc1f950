"""Write data sets in Hugging Face's formats."""

import json

import numpy as np
import pytest

from support.picture_files import encoded

datasets = pytest.importorskip("datasets")

KINDS = ("image", "label")


def table(start, count, labels=None, names=("ant", "bee"), **more):
    """Pictures whose red is their number."""
    kinds = {"image": datasets.Image(), "label": datasets.ClassLabel(names=list(names))}
    columns = {
        "image": [{"bytes": encoded(i), "path": None} for i in range(start, start + count)],
        "label": labels or [i % 2 for i in range(count)],
    }
    made = datasets.Dataset.from_dict(columns, features=datasets.Features(kinds))
    for name, values in more.items():
        made = made.add_column(name, values)
    return made


def write(folder, **splits):
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in splits.items():
        content.to_parquet(folder / f"{name}.parquet")
    return folder


def noise(nbytes):
    """Bytes that cannot be compressed."""
    return np.random.default_rng(0).bytes(nbytes)


def repeated_rows(**repeated):
    """Two classes of one small picture; each argument, (cell, rows), is a column of one cell."""
    import pyarrow as pa

    count = max(rows for _, rows in repeated.values())
    index = pa.array(np.zeros(count, dtype=np.int32))
    cells = {"image": encoded(1)} | {name: cell for name, (cell, _) in repeated.items()}
    columns = {
        name: pa.DictionaryArray.from_arrays(index, pa.array([cell]))
        for name, cell in cells.items()
    }
    paths = pa.nulls(count, pa.string())
    columns["image"] = pa.StructArray.from_arrays([columns["image"], paths], ["bytes", "path"])
    if "label" not in columns:
        columns["label"] = pa.array(np.arange(count) % 2)
    return pa.table(columns)


def write_repeated(folder, **repeated):
    """Write `repeated_rows` as a Parquet file, in which each cell is stored once."""
    import pyarrow.parquet as pq

    rows = repeated_rows(**repeated)
    label = datasets.Value("string" if "label" in repeated else "int64")
    others = {name: datasets.Value("string") for name in repeated if name not in KINDS}
    features = datasets.Features({"image": datasets.Image(), "label": label, **others})
    folder.mkdir(parents=True, exist_ok=True)
    with pq.ParquetWriter(
        folder / "train.parquet", rows.schema, store_schema=False, dictionary_pagesize_limit=1 << 30
    ) as writer:
        header = json.dumps({"info": {"features": features.to_dict()}})
        writer.add_key_value_metadata({"huggingface": header})
        writer.write_table(rows)
    return folder
