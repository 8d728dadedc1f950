"""Hugging Face's tables: what their files hold is looked at before they are loaded."""

import pyarrow as pa
import pytest

from gvbsm.data.datasets import load_dataset
from gvbsm.data.pictures import DataError
from gvbsm.data.sources import hub_tables
from support.tables import noise, repeated_rows, table, write, write_repeated

datasets = pytest.importorskip("datasets")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def test_a_table_that_repeats_a_large_cell_is_not_loaded(tmp_path, monkeypatch):
    """One picture of 300 KB in 2,000 rows; loaded, it would take 0.6 GB of disk and memory."""
    root = write_repeated(tmp_path / "set", image=(noise(300_000), 2000))
    assert (root / "train.parquet").stat().st_size < 400_000
    monkeypatch.setattr(datasets, "load_dataset", lambda *_a, **_k: pytest.fail("it was loaded"))
    message = r"train\.parquet should decode its 30\d{4} bytes to at most .*, found .* or more"
    with pytest.raises(DataError, match=message):
        load_dataset("hub", root)


def test_a_column_that_nobody_needs_is_not_read(tmp_path):
    root = write_repeated(tmp_path / "set", caption=(noise(300_000).hex(), 2000))
    data = load_dataset("hub", root)
    assert len(data.train) + len(data.test) == 2000
    (cached,) = (tmp_path / "cache").rglob("*.arrow")
    assert cached.stat().st_size < 2_000_000


def test_a_set_that_was_loaded_before_is_not_counted_again(tmp_path, monkeypatch):
    root = write(tmp_path / "set", train=table(0, 4))
    first = load_dataset("hub", root)
    with monkeypatch.context() as patch:
        patch.setattr(hub_tables, "check_parquet", lambda *_: pytest.fail("it was counted"))
        assert load_dataset("hub", root).fingerprint == first.fingerprint
    write(tmp_path / "set", train=table(0, 6))
    checked = []
    monkeypatch.setattr(hub_tables, "check_parquet", lambda *arguments: checked.append(arguments))
    load_dataset("hub", root)
    assert len(checked) == 1


@pytest.mark.parametrize("several", [True, False])
def test_a_saved_set_that_repeats_a_large_cell_is_not_loaded(several, tmp_path, monkeypatch):
    saved = datasets.DatasetDict({"train": table(0, 4)}) if several else table(0, 4)
    saved.save_to_disk(tmp_path / "set")
    (file,) = (tmp_path / "set").rglob("*.arrow")
    rows = repeated_rows(image=(noise(300_000), 2000))
    with pa.ipc.new_stream(file, rows.schema) as stream:
        stream.write_table(rows)
    monkeypatch.setattr(datasets, "load_from_disk", lambda *_a, **_k: pytest.fail("it was loaded"))
    with pytest.raises(DataError, match=r"\.arrow should decode its 3\d{5} bytes to at most"):
        load_dataset("hub", tmp_path / "set")


def test_nothing_but_faults_goes_to_a_file_of_errors(tmp_path, capfd):
    root = write(tmp_path / "set", train=table(0, 4), test=table(4, 2))
    capfd.readouterr()
    load_dataset("hub", root)
    assert capfd.readouterr().err == ""


def test_too_many_rows_are_refused_before_they_are_loaded(tmp_path, monkeypatch):
    root = write(tmp_path / "set", train=table(0, 4))
    monkeypatch.setattr(hub_tables, "MOST_PICTURES", 3)
    with pytest.raises(DataError, match=r"train of .* has 4 rows, more than 3"):
        load_dataset("hub", root)


def test_a_hub_out_of_reach_is_one_line(monkeypatch):
    def away(*_arguments, **_options):
        raise OSError("no network\nand more")

    monkeypatch.setattr(datasets, "load_dataset_builder", away)
    with pytest.raises(DataError, match=r"cannot read user/name .*: no network \("):
        load_dataset("hub/user/name")
