"""The Hub and Parquet tables: what is fetched, pushed, written, and said when the Hub is away."""

import pytest

from gvbsm.data.pictures import DataError
from gvbsm.data.sources import hub
from support.picture_files import encoded

pytest.importorskip("datasets")
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


def test_tables_are_written_and_read(tmp_path):
    path = tmp_path / "t.parquet"
    hub.write_table(path, [encoded(1), encoded(2)], [1, 0], ["a", "b"])
    assert hub.read_table(path, 2, 10**6) == ([encoded(1), encoded(2)], [1, 0])
    with pytest.raises(DataError, match="has 2 rows, the set has 3 images"):
        hub.read_table(path, 3, 10**6)
    with pytest.raises(DataError, match="more than 10 bytes"):
        hub.read_table(path, 2, 10)
    path.write_bytes(b"PAR1 and nothing")
    with pytest.raises(DataError, match="cannot read"):
        hub.read_table(path, 2, 10**6)


def test_tables_that_unpack_to_far_more_than_pictures_are_refused(tmp_path):
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    kind = arrow.struct([("bytes", arrow.binary()), ("path", arrow.string())])

    def refused(cells, labels, message):
        table = arrow.table({"image": arrow.array(cells, type=kind), "label": labels})
        parquet.write_table(table, tmp_path / "t.parquet", compression="zstd",
                            dictionary_pagesize_limit=1 << 30)  # fmt: skip
        with pytest.raises(DataError, match=message):
            hub.read_table(tmp_path / "t.parquet", len(cells), 1000)

    repeated = [{"bytes": bytes(20_000), "path": None}] * 300
    refused(repeated, [0] * 300, "pictures of more than 1000 bytes")
    assert (tmp_path / "t.parquet").stat().st_size < 2000
    refused([{"bytes": bytes(10**6), "path": None}], [0], "unpacks to .* too much for 1 pictures")
    refused([None] * 50, [0] * 50, "without a picture")
    refused([{"bytes": b"p", "path": None}], [None], "label of .* column of integers")
    refused([{"bytes": b"p", "path": None}], ["a"], "label of .* column of integers")
