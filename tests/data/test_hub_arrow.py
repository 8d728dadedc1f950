"""Arrow files are counted before they are read: compressed buffers, and cells of dictionaries."""

import pyarrow as pa
import pytest
from pyarrow import ipc

from gvbsm.data.pictures import DataError
from gvbsm.data.sources import hub_budget
from gvbsm.data.sources.hub_arrow import arrow_schema, check_arrow
from support.tables import noise, repeated_rows


def write(path, rows, footer, compression=None):
    writer = ipc.new_file if footer else ipc.new_stream
    options = ipc.IpcWriteOptions(compression=compression)
    with writer(path, rows.schema, options=options) as stream:
        stream.write_table(rows, max_chunksize=1000)
    return str(path)


def plain_rows(cells):
    return pa.table({"image": pa.array(cells, pa.binary()), "label": list(range(len(cells)))})


@pytest.mark.parametrize("footer", [True, False])
@pytest.mark.parametrize("compression", [None, "lz4", "zstd"])
def test_what_compressed_buffers_decode_to_is_counted_exactly(
    footer, compression, tmp_path, monkeypatch
):
    """Against the bytes that the batches take once they are read."""
    rows = plain_rows([bytes(1000)] * 2500)
    file = write(tmp_path / "t.arrow", rows, footer, compression)
    assert arrow_schema(file) == rows.schema
    monkeypatch.setattr(hub_budget, "MOST_RATIO", 0)
    size = (tmp_path / "t.arrow").stat().st_size
    nbytes = 0 if compression is None else sum(batch.nbytes for batch in rows.to_batches(1000))
    if compression is not None:
        assert size < nbytes // 10
    monkeypatch.setattr(hub_budget, "MOST_GROWTH", nbytes + 3000 * 8 - size)
    check_arrow([file])
    if compression is not None:
        monkeypatch.setattr(hub_budget, "MOST_GROWTH", nbytes - 3000 * 8 - size)
        with pytest.raises(DataError, match=r"t\.arrow should decode"):
            check_arrow([file])


@pytest.mark.parametrize("footer", [True, False])
@pytest.mark.parametrize("column", ["image", "label", "caption"])
def test_cells_of_a_dictionary_are_counted(footer, column, tmp_path):
    cell = noise(300_000) if column == "image" else noise(300_000).hex()
    file = write(tmp_path / "t.arrow", repeated_rows(**{column: (cell, 2000)}), footer)
    with pytest.raises(DataError, match=r"t\.arrow should decode"):
        check_arrow([file])
    check_arrow([write(tmp_path / "few.arrow", repeated_rows(**{column: (cell, 20)}), footer)])


def test_columns_whose_cells_share_their_bytes_are_refused(tmp_path):
    runs = pa.RunEndEncodedArray.from_arrays(pa.array([9], pa.int32()), pa.array([b"a"]))
    for cells in (runs, pa.array([b"a"] * 9, pa.binary_view())):
        file = write(tmp_path / "t.arrow", pa.table({"image": cells}), footer=False)
        with pytest.raises(
            DataError, match=r"image of .*t\.arrow is a column of .* expected binary"
        ):
            check_arrow([file])


@pytest.mark.parametrize("footer", [True, False])
def test_damaged_files_are_refused(footer, tmp_path):
    file = tmp_path / "t.arrow"
    write(file, plain_rows([noise(1000)] * 20), footer, "zstd")
    content = file.read_bytes()
    for damaged in (b"", content[:40], content[: len(content) // 2], b"ARROW1", bytes(3000)):
        file.write_bytes(damaged)
        with pytest.raises(DataError, match=r"t\.arrow is a damaged Arrow file"):
            check_arrow([str(file)])
