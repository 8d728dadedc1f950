"""The Hub and Parquet tables: what is fetched, pushed, written, and said when the Hub is away."""

import pytest

from gvbsm.data.pictures import DataError
from gvbsm.exchange import hub
from support.picture_files import encoded
from support.tables import noise, write_repeated

pytest.importorskip("datasets")
pyarrow = pytest.importorskip("pyarrow")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


def test_the_hub_out_of_reach_is_one_line(monkeypatch, tmp_path):
    huggingface_hub = pytest.importorskip("huggingface_hub")

    def away(*_arguments, **_options):
        raise OSError("no network\nand more")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", away)
    with pytest.raises(DataError, match=r"cannot fetch user/name .*: no network$"):
        hub.download("user/name")
    monkeypatch.setattr(huggingface_hub.HfApi, "create_repo", away)
    with pytest.raises(DataError, match=r"cannot push to user/name .*: no network$"):
        hub.upload(tmp_path, "user/name")


def test_what_is_uploaded(monkeypatch, tmp_path):
    huggingface_hub = pytest.importorskip("huggingface_hub")
    seen = {}
    monkeypatch.setattr(huggingface_hub.HfApi, "create_repo", lambda _, name, **k: seen.update(k))
    monkeypatch.setattr(
        huggingface_hub.HfApi, "upload_folder", lambda _, **k: seen.update(k) or "https://address"
    )
    assert hub.upload(tmp_path, "user/name") == "https://address"
    assert (seen["folder_path"], seen["repo_id"]) == (tmp_path, "user/name")
    assert seen["repo_type"] == "dataset"


def read_all(path, rows, most_bytes=10**6):
    return list(hub.read_pictures(path, rows, most_bytes))


def read_both(path, rows, most_bytes):
    return hub.read_labels(path, rows), read_all(path, rows, most_bytes)


def test_tables_are_written_and_read(tmp_path):
    path = tmp_path / "t.parquet"
    hub.write_table(path, [encoded(1), encoded(2)], [1, 0], ["a", "b"])
    assert list(hub.read_pictures(path, 2, 10**6)) == [encoded(1), encoded(2)]
    assert hub.read_labels(path, 2) == [1, 0]
    for read in (read_all, hub.read_labels):
        with pytest.raises(DataError, match="has 2 rows, the set has 3 images"):
            read(path, 3)
    with pytest.raises(DataError, match="more than 10 bytes"):
        read_all(path, 2, 10)
    path.write_bytes(b"PAR1 and nothing")
    for read in (read_all, hub.read_labels):
        with pytest.raises(DataError, match="cannot read"):
            read(path, 2)


def test_tables_that_unpack_to_far_more_than_pictures_are_refused(tmp_path):
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    kind = arrow.struct([("bytes", arrow.binary()), ("path", arrow.string())])

    def refused(cells, labels, message):
        table = arrow.table({"image": arrow.array(cells, type=kind), "label": labels})
        file = tmp_path / "t.parquet"
        parquet.write_table(table, file, compression="zstd", dictionary_pagesize_limit=1 << 30)
        with pytest.raises(DataError, match=message):
            read_both(tmp_path / "t.parquet", len(cells), 1000)

    repeated = [{"bytes": bytes(20_000), "path": None}] * 300
    refused(repeated, [0] * 300, "pictures of more than 1000 bytes")
    assert (tmp_path / "t.parquet").stat().st_size < 2000
    refused([{"bytes": bytes(10**6), "path": None}], [0], "unpacks to .* too much for 1 pictures")
    refused([None] * 50, [0] * 50, "without a picture")
    refused([{"bytes": b"p", "path": None}] * 2, [0, None], "without a label")
    refused([{"bytes": b"p", "path": None}], [None], "label of .* column of integers")
    refused([{"bytes": b"p", "path": None}], ["a"], "label of .* column of integers")


def test_pictures_that_are_repeated_are_read_a_few_at_a_time(tmp_path, monkeypatch):
    """One picture of 300 KB in 2,000 rows: 0.6 GB, of which 3 pictures are in memory at once."""
    file = write_repeated(tmp_path, image=(noise(300_000), 2000)) / "train.parquet"
    monkeypatch.setattr(hub, "_BATCH_BYTES", 1_000_000)
    before = pyarrow.total_allocated_bytes()
    for picture in hub.read_pictures(file, 2000, 310_000):
        assert len(picture) == 300_000
        assert pyarrow.total_allocated_bytes() - before < 10_000_000
