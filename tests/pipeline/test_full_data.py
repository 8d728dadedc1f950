"""The baseline `full`: students on all real pictures, each seed by itself, resumed and kept."""

import pytest

from gvbsm import api
from gvbsm.config import ConfigError
from gvbsm.config.build import build_config
from gvbsm.files.artifacts import read_json
from support.toy import StoppedError
from support.workdirs import quick_settings, write_arrays


def settings_of(tmp_path, **baselines):
    data = {"name": "npz", "root": str(write_arrays(tmp_path / "toy.npz"))}
    settings = quick_settings(data, baselines={"methods": ["teacher", "full"], **baselines})
    settings["squeeze"]["backbones"] = ["wrn10_1"]
    return settings


def rows_of(results, method):
    return [row for row in results["rows"] if row["method"] == method]


def test_full__is_a_row_a_student_over_its_seeds(tmp_path):
    settings = settings_of(tmp_path, full_epochs=4)
    results = api.run(settings, tmp_path / "w", quiet=True)
    (row,) = rows_of(results, "full")
    assert (row["student"], row["ipc"], len(row["top1"]["values"])) == ("convnet8_d1", None, 2)
    assert [row["student"] for row in rows_of(results, "teacher")] == ["wrn10_1"]
    files = sorted((tmp_path / "w" / "baselines" / "full").glob("*.json"))
    assert [path.name for path in files] == ["convnet8_d1-0.json", "convnet8_d1-1.json"]
    first, second = map(read_json, files)
    assert first["losses"] != second["losses"]  # other weights, other batches
    assert first["epochs"] == second["epochs"] == [2, 4]
    times = [path.stat().st_mtime_ns for path in files]
    again = api.run(settings, tmp_path / "w", quiet=True)
    assert again["rows"] == results["rows"]
    assert [path.stat().st_mtime_ns for path in files] == times
    longer = api.run(settings_of(tmp_path, full_epochs=6), tmp_path / "w", quiet=True)
    assert read_json(files[0])["epochs"] == [3, 6]
    assert rows_of(longer, "teacher")[0]["top1"] == rows_of(results, "teacher")[0]["top1"]


def test_full__goes_on_where_it_was_stopped(tmp_path, monkeypatch):
    settings = settings_of(tmp_path, full_epochs=6)
    whole = api.run(settings, tmp_path / "whole", quiet=True)
    from gvbsm.stages import supervised

    calls, loss = [], supervised._picture_loss

    def stop(*arguments):
        calls.append(1)
        if len(calls) > 20:  # in the second student of `full`
            raise StoppedError
        return loss(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(supervised, "_picture_loss", stop)
        with pytest.raises(StoppedError):
            api.run(settings, tmp_path / "w", quiet=True)
    resumed = api.run(settings, tmp_path / "w", quiet=True)
    assert rows_of(resumed, "full")[0]["top1"] == rows_of(whole, "full")[0]["top1"]


def test_full_epochs__must_be_positive():
    with pytest.raises(ConfigError, match=r"baselines\.full_epochs must be positive, got 0"):
        build_config({"baselines": {"full_epochs": 0}})
