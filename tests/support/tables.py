"""Write data sets in Hugging Face's formats."""

import pytest

from support.picture_files import encoded

datasets = pytest.importorskip("datasets")


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
