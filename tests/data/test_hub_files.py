"""Files of Hugging Face's sets: none that lies outside is read, whatever names it."""

import json
import os

import pytest

from gvbsm.config import DataConfig
from gvbsm.data.datasets import load_dataset
from gvbsm.data.pictures import DataError
from gvbsm.data.sources.hub_files import check_data_files
from gvbsm.data.sources.request import Request
from support.tables import table, write

datasets = pytest.importorskip("datasets")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def test_a_pipe_in_a_folder_is_named(tmp_path):
    root = write(tmp_path / "set", train=table(0, 4))
    os.mkfifo(root / "metadata.csv")
    with pytest.raises(DataError, match=r"metadata\.csv is no regular file"):
        load_dataset("hub", root)


@pytest.mark.parametrize("path", ["{outside}/train.parquet", "../private/train.parquet"])
def test_a_readme_names_no_file_outside(path, tmp_path):
    outside = write(tmp_path / "private", train=table(0, 4))
    root = write(tmp_path / "set", test=table(0, 4))
    place = path.format(outside=outside)
    lines = [
        "---",
        "configs:",
        "- config_name: default",
        "  data_files:",
        "  - split: train",
        f"    path: {place}",
        "  - split: test",
        "    path: test.parquet",
        "---",
    ]
    (root / "README.md").write_text("\n".join(lines), encoding="utf-8")
    with pytest.raises(DataError, match=r"private/train\.parquet', a file outside of"):
        load_dataset("hub", root)


def test_a_link_to_a_table_outside_is_not_followed(tmp_path):
    outside = write(tmp_path / "private", train=table(0, 4))
    root = write(tmp_path / "set", test=table(0, 4))
    (root / "train.parquet").symlink_to(outside / "train.parquet")
    with pytest.raises(DataError, match=r"train\.parquet', a file outside of"):
        load_dataset("hub", root)


@pytest.mark.parametrize("several", [True, False])
def test_a_state_names_no_file_outside(several, tmp_path):
    table(0, 4).save_to_disk(tmp_path / "private")
    root = tmp_path / "set"
    saved = datasets.DatasetDict({"train": table(0, 4)}) if several else table(0, 4)
    saved.save_to_disk(root)
    state = root / "train" / "state.json" if several else root / "state.json"
    content = json.loads(state.read_text())
    (tmp_path / "private" / "data-00000-of-00001.arrow").rename(tmp_path / "secret.arrow")
    content["_data_files"][0]["filename"] = os.path.relpath(tmp_path / "secret.arrow", state.parent)
    state.write_text(json.dumps(content))
    with pytest.raises(DataError, match=r"state\.json names .*secret\.arrow', a file outside of"):
        load_dataset("hub", root)
    state.write_text("[" * 100_000)
    with pytest.raises(DataError, match=r"state\.json is not as save_to_disk writes it"):
        load_dataset("hub", root)


def test_a_set_on_the_hub_names_no_file_of_this_machine(tmp_path):
    request = Request(DataConfig(), None, tmp_path, member="user/name")
    check_data_files({"train": ["hf://datasets/user/name/a.parquet"]}, request, "user/name")
    secret = write(tmp_path / "private", train=table(0, 4)) / "train.parquet"
    for path in (str(secret), f"zip://a.png::{secret}"):
        with pytest.raises(DataError, match="a file outside of"):
            check_data_files({"train": [path]}, request, "user/name")
