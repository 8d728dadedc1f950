"""The baseline `full`: students on all real pictures, each seed by itself, resumed and kept."""

import pytest

from gvbsm import api
from gvbsm.config import ConfigError
from gvbsm.config.build import as_config, build_config
from gvbsm.files.artifacts import read_json
from gvbsm.pipeline.run import Run
from gvbsm.pipeline.training.full_data import train_full
from gvbsm.store.recipes import Recipes, full_training
from support.toy import StoppedError
from support.workdirs import quick_settings, write_arrays, write_files


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
    assert 0 < row["seconds"] == results["seconds"]["full"]
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


def test_full__files_that_are_read_by_workers_give_the_same(tmp_path):
    folder, losses = write_files(tmp_path / "pictures"), []
    for workers in (0, 2):
        data = {"name": "folder", "root": str(folder), "image_size": 8, "in_memory": False}
        baselines = {"methods": ["full"], "full_epochs": 2}
        settings = quick_settings({**data, "workers": workers}, baselines=baselines)
        run = Run(as_config(settings), tmp_path / str(workers), quiet=True)
        assert run.data.train.images is None
        train_full(run.context)
        (row,) = run.write_results()["rows"]
        assert (row["method"], len(row["top1"]["values"])) == ("full", 2)
        assert row["top1"]["mean"] > 50  # of four classes
        losses.append(read_json(run.workspace.full("convnet8_d1", 1))["losses"])
    assert losses[0] == losses[1]


@pytest.mark.parametrize(
    ("settings", "changes"),
    [
        ({"pretrained": True, "weights_dir": "weights"}, False),
        ({"settings_of": {"convnet8_d1": {"epochs": 7, "batch_size": 5}}}, False),
        ({"epochs": 7}, False),
        ({"tests": 1}, False),
        ({"batch_size": 5}, True),
        ({"seed": 5}, True),
    ],
)
def test_full__recipe_holds_what_its_training_reads_alone(settings, changes):
    before, after = (
        Recipes(build_config({"squeeze": squeeze}), "toy", "fp32").full("convnet8_d1", 0)
        for squeeze in ({}, settings)
    )
    assert (before != after) == changes


def test_full__training_is_that_of_no_teacher():
    squeeze = {"pretrained": True, "weights_dir": "w", "batch_size": 5}
    squeeze |= {"settings_of": {"convnet8_d1": {"batch_size": 7}}}
    training = full_training(build_config({"squeeze": squeeze, "evaluation": {"tests": 3}}))
    assert (training.pretrained, training.weights_dir, training.settings_of) == (False, None, {})
    assert (training.batch_size, training.tests, training.epochs) == (5, 3, 200)


def test_full_epochs__must_be_positive():
    with pytest.raises(ConfigError, match=r"baselines\.full_epochs must be positive, got 0"):
        build_config({"baselines": {"full_epochs": 0}})
