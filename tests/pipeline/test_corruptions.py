"""Students of all sets, and teachers, are tested on one set of corrupted test pictures."""

import sys
from statistics import fmean

import numpy as np
import pytest
import torch

from gvbsm import api
from gvbsm.cli import main
from gvbsm.config.build import as_config
from gvbsm.data.corrupted.copies import choose_pictures
from gvbsm.files.artifacts import read_json
from gvbsm.files.tensors import load_tensors
from gvbsm.pipeline.planning.planner import plan_here
from gvbsm.pipeline.run import Run
from gvbsm.pipeline.training.corruptions import corrupted_copies
from gvbsm.reporting.show import describe, result_table
from support.corruptions import stand_in
from support.workdirs import quick_settings, write_arrays

CORRUPTIONS = {"kinds": ["snow", "fog"], "severities": [5, 1], "pictures": 30}


@pytest.fixture(scope="module")
def arrays(tmp_path_factory):
    return write_arrays(tmp_path_factory.mktemp("data") / "toy.npz")


def settings_of(arrays, corruptions=None, **evaluation):
    data = {"name": "npz", "root": str(arrays)}
    baselines = {"methods": ["random-hard", "teacher", "full"], "full_epochs": 2}
    settings = quick_settings(data, baselines=baselines)
    settings["squeeze"]["backbones"] = ["convnet8_d1"]
    settings["synthesis"]["iterations"] = settings["labels"]["epochs"] = 4
    settings["checkpoint_seconds"] = 60
    settings["evaluation"] |= {"corruptions": corruptions or {}, **evaluation}
    return settings


def without(row, *names):
    return {key: value for key, value in row.items() if key not in names}


def test_rows_of_a_run(arrays, tmp_path, monkeypatch):
    calls = stand_in(monkeypatch)
    results = api.run(settings_of(arrays, CORRUPTIONS), tmp_path / "w", quiet=True)
    assert len(calls) == 2 * 2 * 30  # once for all rows
    for row in results["rows"]:
        found = row["corruptions"]
        assert (found["pictures"], found["severities"]) == (30, [5, 1])
        assert found["source"].startswith("imagecorruptions")
        assert [*found["kinds"]] == [*found["by_severity"]] == ["snow", "fog"]
        students = len(row["top1"]["values"])
        assert len(found["clean"]["values"]) == len(found["kinds"]["fog"]["values"]) == students
        for kind, score in found["kinds"].items():
            assert score["mean"] == pytest.approx(fmean(found["by_severity"][kind]))
        means = [score["mean"] for score in found["kinds"].values()]
        assert row["metrics"]["corrupted"]["mean"] == pytest.approx(fmean(means))
    copies, header = load_tensors(tmp_path / "w" / "corruptions" / "fog.safetensors", "corrupted")
    assert copies["images"].shape == (2, 30, 3, 8, 8)
    assert header["recipe"]["severities"] == [5, 1]

    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "w").rglob("*.json")}
    again = api.run(settings_of(arrays, CORRUPTIONS), tmp_path / "w", quiet=True)
    assert again["rows"] == results["rows"]
    changed = {path.name for path, time in times.items() if path.stat().st_mtime_ns != time}
    assert changed <= {"results.json", "seconds.json", "finished.json"}
    assert len(calls) == 2 * 2 * 30

    plan = plan_here(as_config(settings_of(arrays, CORRUPTIONS)), tmp_path / "w", quiet=True)
    parts = [part for part in plan.parts if part.key.startswith("corruptions")]
    noted = read_json(tmp_path / "w" / "seconds.json")
    assert {part.key for part in parts} == {key for key in noted if key.startswith("corruptions")}
    assert all(part.is_made for part in parts)
    expected = sum(time for key, time in noted.items() if key.startswith("corruptions"))
    assert 0 < results["seconds"]["corruptions"] == pytest.approx(expected)
    file = tmp_path / "w" / "corruptions" / "fog.safetensors"
    nbytes = next(part.nbytes for part in parts if part.key == "corruptions/fog")
    assert nbytes < file.stat().st_size < nbytes + 10_000

    plain = api.run(settings_of(arrays), tmp_path / "plain", quiet=True)
    for row, other in zip(results["rows"], plain["rows"], strict=True):
        assert "corruptions" not in other
        metrics = without(row.get("metrics", {}), "corrupted")
        if row["method"] != "teacher":
            assert metrics == other["metrics"]
        times = ("seconds", "metrics", "corruptions")
        assert without(row, *times) == without(other, "seconds", "metrics")
    for path in (tmp_path / "plain").glob("**/evaluation/*.json"):
        assert "corruptions" not in read_json(path)["recipe"]
    assert not (tmp_path / "plain" / "corruptions").exists()

    shown = describe(tmp_path / "w")
    assert "corrupted %" in shown
    assert "corrupted" not in describe(tmp_path / "plain")
    own = results["rows"][0]["metrics"]["corrupted"]
    assert f"{own['mean']:.1f} ± {own['std']:.1f}" in result_table(tmp_path / "w", "md")
    assert "corrupted" in result_table(tmp_path / "w", "csv").splitlines()[0]


def test_accuracies_are_those_of_the_copies(arrays, tmp_path, monkeypatch):
    """The teacher, asked by hand about each copy."""
    stand_in(monkeypatch)
    run = Run(as_config(settings_of(arrays, CORRUPTIONS)), tmp_path, quiet=True)
    (row,) = [row for row in run.all_stages()["rows"] if row["method"] == "teacher"]
    teacher, normalize = run.teachers["convnet8_d1"], run.data.normalization.normalize
    index = choose_pictures(40, 30, run.config.seed)
    images, labels = run.data.test.images[index], run.data.test.labels[index]

    def accuracy(pictures):
        with torch.no_grad():
            right = teacher(normalize(pictures)).argmax(1) == labels
        return 100 * float(right.double().mean())

    found = row["corruptions"]
    assert found["clean"]["values"] == [pytest.approx(accuracy(images))]
    for kind, by_severity in found["by_severity"].items():
        copies = load_tensors(run.workspace.corrupted(kind), "corrupted")[0]["images"]
        assert by_severity == [pytest.approx(accuracy(pictures)) for pictures in copies]
    strong, mild = (copies[row].float() - images.float() for row in (0, 1))
    assert strong.abs().mean() > 2 * mild.abs().mean()  # the severities are 5 and 1


def test_copies_depend_on_the_seed_of_the_run_alone(arrays, tmp_path, monkeypatch):
    stand_in(monkeypatch)

    def copies_of(name, **changes):
        settings = {**settings_of(arrays, {**CORRUPTIONS, "kinds": ["fog"]}), **changes}
        run = Run(as_config(settings), tmp_path / name, quiet=True)
        corrupted_copies(run.context)
        return run.workspace.corrupted("fog").read_bytes()

    first = copies_of("first")
    evaluation = settings_of(arrays, {**CORRUPTIONS, "kinds": ["fog"]}, seed=5)["evaluation"]
    assert copies_of("same", evaluation=evaluation) == first
    assert copies_of("other", seed=1) != first


@pytest.fixture
def toy_c(arrays, tmp_path):
    """A folder in the form of CIFAR-10-C: fog changes nothing at severity 1, and then hides all."""
    content = np.load(arrays)
    folder = tmp_path / "toy-C"
    folder.mkdir()
    np.save(folder / "labels.npy", np.tile(content["test_labels"], 5))
    clean = content["test_images"]
    np.save(folder / "fog.npy", np.concatenate([clean, *[np.zeros_like(clean)] * 4]))
    return folder


def settings_of_folder(arrays, folder, *methods):
    settings = settings_of(arrays, {"kinds": ["fog"], "severities": [1, 2], "folder": str(folder)})
    settings["baselines"]["methods"] = list(methods)
    return settings


def test_sets_of_a_folder_need_no_library(arrays, toy_c, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "imagecorruptions", None)
    (row,) = api.run(settings_of_folder(arrays, toy_c), tmp_path / "w", quiet=True)["rows"]
    found = row["corruptions"]
    assert (found["source"], found["pictures"]) == ("toy-C", 40)
    unchanged, black = found["by_severity"]["fog"]
    assert unchanged == pytest.approx(row["top1"]["mean"]) == found["clean"]["mean"]
    assert black == 25  # one answer to all
    assert not (tmp_path / "w" / "corruptions").exists()


def test_results_of_a_folder_whose_content_has_changed_are_made_again(arrays, toy_c, tmp_path):
    settings = settings_of_folder(arrays, toy_c, "teacher", "full")
    path, workdir = toy_c / "fog.npy", tmp_path / "w"

    def fog(row):
        return row["corruptions"]["by_severity"]["fog"]

    first = api.run(settings, workdir, quiet=True)["rows"]
    tests = [workdir / "evaluation", workdir / "baselines" / "full", workdir / "corruptions"]
    files = [file for folder in tests for file in folder.rglob("*.json")]
    assert len({file.parent for file in files}) == 3
    before = [file.stat().st_mtime_ns for file in files]
    path.touch()  # the same content at another time
    assert api.run(settings, workdir, quiet=True)["rows"] == first
    assert [file.stat().st_mtime_ns for file in files] == before

    np.save(path, np.load(path)[::-1])  # severity 5 first, of as many bytes
    again = api.run(settings, workdir, quiet=True)["rows"]
    assert [fog(row) for row in again] == [[25, 25]] * 3
    assert [fog(row) for row in first] != [[25, 25]] * 3
    assert all(file.stat().st_mtime_ns != time for file, time in zip(files, before, strict=True))
    assert [row["top1"] for row in again] == [row["top1"] for row in first]


def test_a_missing_library_ends_the_command_before_any_work(arrays, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "imagecorruptions", None)
    arguments = ["run", "npz", "--data-root", str(arrays), "--workdir", str(tmp_path / "w")]
    assert main([*arguments, "--evaluation.corruptions.kinds", "fog,snow"]) == 2
    assert "pip install 'gvbsm[corruptions]'" in capsys.readouterr().err
    assert not (tmp_path / "w" / "squeeze").exists()
    assert main([*arguments, "--evaluation.corruptions.kinds", "rain"]) == 2
    assert "rain" in capsys.readouterr().err
