"""Hugging Face's formats: columns, splits and classes; and what is told when the Hub is away."""

import sys

import pytest

from gvbsm import hub
from gvbsm.datasets import load_dataset
from gvbsm.pictures import DataError
from test_shards import encoded, reds
from workdirs import assert_seen_alike

datasets = pytest.importorskip("datasets")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


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


def test_a_folder_of_parquet_files(tmp_path, runtime):
    root = write(tmp_path / "set", train=table(0, 6), test=table(6, 4))
    kept = load_dataset("hub", root, cache_dir=tmp_path)
    streamed = load_dataset("hub", root, cache_dir=tmp_path, in_memory=False)
    for data in (kept, streamed):
        assert (data.class_names, data.channels, data.image_size) == (("ant", "bee"), 3, 8)
        assert (reds(data.train), reds(data.test)) == (list(range(6)), [6, 7, 8, 9])
        assert data.train.labels.tolist() == [0, 1] * 3
    assert [str(path) for path in streamed.test.paths[:2]] == ["test[0]", "test[1]"]
    assert all(path.nbytes == len(encoded(i)) for i, path in enumerate(streamed.train.paths))
    assert_seen_alike(kept, streamed, runtime)


def test_the_fingerprint_follows_the_pictures(tmp_path):
    def prints(name, **splits):
        root = write(tmp_path / name, **splits)
        return load_dataset("hub", root, cache_dir=tmp_path, in_memory=False).fingerprint

    first = prints("a", train=table(0, 4), test=table(4, 2))
    assert prints("b", train=table(0, 4), test=table(4, 2)) == first
    assert prints("c", train=table(0, 4), test=table(4, 2, labels=[1, 0])) != first


def test_splits(tmp_path):
    """`test` without labels, as ImageNet's, gives way to `validation`; else a share is held out."""
    secret = table(8, 2, labels=[-1, -1])
    root = write(tmp_path / "a", train=table(0, 4), validation=table(4, 2), test=secret)
    assert reds(load_dataset("hub", root).test) == [4, 5]
    alone = load_dataset("hub", write(tmp_path / "b", train=table(0, 8)), val_fraction=0.25)
    assert (len(alone.train), len(alone.test)) == (6, 2)
    assert sorted(reds(alone.train) + reds(alone.test)) == list(range(8))


def test_columns(tmp_path):
    words = table(0, 4).remove_columns("label").add_column("label", ["x", "y", "x", "y"])
    data = load_dataset("hub", write(tmp_path / "a", train=words))
    assert data.class_names == ("x", "y")
    renamed = table(0, 4, n=[0, 1, 2, 2]).rename_columns({"image": "pic", "label": "kind"})
    root = write(tmp_path / "b", train=renamed, test=renamed)
    assert load_dataset("hub", root).class_names == ("ant", "bee")  # found by their types
    numbers = load_dataset("hub", root, label_column="n", image_column="pic")
    assert (numbers.class_names, numbers.train.labels.tolist()) == (("0", "1", "2"), [0, 1, 2, 2])
    for wrong, message in (
        ({"label_column": "no"}, "no column 'no'"),
        ({"image_column": "n"}, "holds no pictures"),
        ({"label_column": "pic"}, "numbers or words"),
    ):
        with pytest.raises(DataError, match=message):
            load_dataset("hub", root, **wrong)
    two = table(0, 4).rename_columns({"label": "a"})
    two = two.add_column("b", [0, 1] * 2).cast_column("b", datasets.ClassLabel(names=["p", "q"]))
    with pytest.raises(DataError, match=r"which column .* holds labels\? Candidates: a, b"):
        load_dataset("hub", write(tmp_path / "c", train=two))


def test_a_folder_left_by_save_to_disk(tmp_path):
    made = datasets.DatasetDict({"train": table(0, 4), "validation": table(4, 2)})
    made.save_to_disk(tmp_path / "disk")
    assert reds(load_dataset("hub", tmp_path / "disk").test) == [4, 5]


def test_faults(tmp_path, monkeypatch):
    with pytest.raises(DataError, match="no split named train, only test"):
        load_dataset("hub", write(tmp_path / "a", test=table(0, 4)))
    with pytest.raises(DataError, match="pass either hub/USER/NAME"):
        load_dataset("hub")
    with pytest.raises(DataError, match="pass either hub/USER/NAME"):
        load_dataset("hub/a/b", tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"cannot read .*empty as a Hugging Face data set"):
        load_dataset("hub", tmp_path / "empty")
    monkeypatch.setitem(sys.modules, "datasets", None)
    monkeypatch.setattr(hub, "find_spec", lambda name: None)
    with pytest.raises(DataError, match=r"needs datasets: pip install 'gvbsm\[hub\]'"):
        load_dataset("hub/user/name")


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
    monkeypatch.setattr(datasets, "load_dataset", away)
    with pytest.raises(DataError, match=r"cannot read user/name .*: no network \("):
        load_dataset("hub/user/name")


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
    assert hub.read_table(path, 10**6) == ([encoded(1), encoded(2)], [1, 0])
    with pytest.raises(DataError, match=r"more than 10$"):
        hub.read_table(path, 10)
    path.write_bytes(b"PAR1 and nothing")
    with pytest.raises(DataError, match="cannot read"):
        hub.read_table(path, 10**6)
