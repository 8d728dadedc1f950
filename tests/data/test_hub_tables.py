"""Hugging Face's tables: what their files hold is looked at before they are loaded."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gvbsm.data.datasets import load_dataset
from gvbsm.data.pictures import DataError
from gvbsm.data.sources import hub_tables
from support.tables import table, write

datasets = pytest.importorskip("datasets")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def test_a_parquet_file_that_unpacks_to_gigabytes_is_not_loaded(tmp_path, monkeypatch):
    """One entry of 20 MB in a dictionary, repeated in 300 rows."""
    cell = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    entry = {"bytes": bytes(20 << 20), "path": None}
    file = tmp_path / "set" / "train.parquet"
    file.parent.mkdir()
    with pq.ParquetWriter(
        file, pa.schema({"image": cell, "label": pa.int64()}), compression="zstd",
        use_dictionary=True, dictionary_pagesize_limit=1 << 30,
    ) as writer:  # fmt: skip
        rows = {"image": pa.array([entry] * 8, type=cell), "label": pa.array([0, 1] * 4)}
        writer.write_table(pa.table(rows))
    assert file.stat().st_size < 10_000
    monkeypatch.setattr(datasets, "load_dataset", lambda *_a, **_k: pytest.fail("it was loaded"))
    with pytest.raises(DataError, match=r"train\.parquet unpacks .* of image\.bytes to as many"):
        load_dataset("hub", file.parent)


def test_nothing_but_faults_goes_to_a_file_of_errors(tmp_path, capfd):
    root = write(tmp_path / "set", train=table(0, 4), test=table(4, 2))
    capfd.readouterr()
    load_dataset("hub", root)
    assert capfd.readouterr().err == ""


def test_too_many_rows_are_refused_before_they_are_loaded(tmp_path, monkeypatch):
    root = write(tmp_path / "set", train=table(0, 4))
    monkeypatch.setattr(hub_tables, "MOST_ROWS", 3)
    with pytest.raises(DataError, match=r"train of .* has 4 rows, more than 3"):
        load_dataset("hub", root)


def test_a_hub_out_of_reach_is_one_line(monkeypatch):
    def away(*_arguments, **_options):
        raise OSError("no network\nand more")

    monkeypatch.setattr(datasets, "load_dataset_builder", away)
    with pytest.raises(DataError, match=r"cannot read user/name .*: no network \("):
        load_dataset("hub/user/name")
