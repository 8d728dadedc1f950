"""Parquet files are counted before they are read: what they decode to, in little memory."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gvbsm.data.pictures import DataError
from gvbsm.data.sources import hub_budget, hub_parquet
from gvbsm.data.sources.hub_parquet import check_parquet, read_metadata
from support.tables import noise, write_repeated

PICTURE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def check(*paths, columns=("image", "label")):
    check_parquet({str(path): read_metadata(str(path)) for path in paths}, columns)


def write_cells(path, cells, **options):
    pictures = pa.array([{"bytes": cell, "path": None} for cell in cells], PICTURE)
    labels = pa.array([number % 2 for number in range(len(cells))])
    pq.write_table(pa.table({"image": pictures, "label": labels}), path, **options)
    return path


def test_a_small_file_of_one_cell_in_two_million_rows_takes_little_memory(tmp_path):
    file = write_repeated(tmp_path, image=(noise(300_000), 2_000_000)) / "train.parquet"
    before, pa_before = pa.default_memory_pool(), pa.total_allocated_bytes()
    with pytest.raises(DataError, match=r"should decode its \d+ bytes to at most .* found"):
        check(file)
    assert pa.total_allocated_bytes() - pa_before < 10**8
    assert before.max_memory() < 5 * 10**8


@pytest.mark.parametrize(
    "options",
    [
        {"dictionary_pagesize_limit": 1 << 30},
        {"dictionary_pagesize_limit": 1 << 30, "row_group_size": 300},
        {"use_dictionary": False, "column_encoding": {"image.bytes": "DELTA_BYTE_ARRAY"}},
        {"use_dictionary": False, "compression": "zstd"},
    ],
)
def test_every_way_to_repeat_a_cell_is_counted(options, tmp_path):
    """A dictionary, one for each row group, shared prefixes, compression: 300 MB in a few KB."""
    file = write_cells(tmp_path / "t.parquet", [noise(300_000)] * 1000, **options)
    assert file.stat().st_size < 5_000_000
    with pytest.raises(DataError, match=r"t\.parquet should decode"):
        check(file)


def test_files_are_counted_together(tmp_path, monkeypatch):
    monkeypatch.setattr(hub_budget, "MOST_GROWTH", 1_000_000)
    monkeypatch.setattr(hub_parquet, "MOST_GROWTH", 1_000_000)
    files = [
        write_cells(tmp_path / f"{number}.parquet", [noise(1000)] * 600) for number in range(2)
    ]
    for file in files:
        check(file)
    with pytest.raises(DataError, match=r"1\.parquet should decode"):
        check(*files)


def test_pictures_that_are_stored_once_pass(tmp_path, monkeypatch):
    """With and without a dictionary, whatever the size of the row groups."""
    monkeypatch.setattr(hub_budget, "MOST_GROWTH", 0)
    monkeypatch.setattr(hub_budget, "MOST_RATIO", 2)
    monkeypatch.setattr(hub_parquet, "MOST_GROWTH", 10_000)
    content = noise(800_000)
    cells = [content[start : start + 20_000] for start in range(0, len(content), 20_000)]
    for number, options in enumerate(({}, {"use_dictionary": False}, {"row_group_size": 7})):
        check(write_cells(tmp_path / f"{number}.parquet", cells, **options))


def test_rows_without_bytes_are_counted(tmp_path):
    """An empty picture or none takes no byte of a file, and an object in memory."""
    rows = {"image": pa.nulls(5_000_000, PICTURE), "label": pa.nulls(5_000_000, pa.int64())}
    pq.write_table(pa.table(rows), tmp_path / "t.parquet")
    with pytest.raises(DataError, match=r"t\.parquet should decode its \d+ bytes"):
        check(tmp_path / "t.parquet")


def test_a_label_that_is_repeated_is_counted(tmp_path):
    file = write_repeated(tmp_path, label=(noise(300_000).hex(), 2000)) / "train.parquet"
    with pytest.raises(DataError, match="should decode"):
        check(file)


def test_a_column_of_lists_is_refused(tmp_path):
    pq.write_table(pa.table({"image": [[b"a", b"b"]], "label": [1]}), tmp_path / "t.parquet")
    with pytest.raises(DataError, match=r"image\.list\.element of .* holds lists"):
        check(tmp_path / "t.parquet")
