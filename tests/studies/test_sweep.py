"""Sweeps: one run a point, all that points have in common made once, killed and resumed."""

import csv
import os
import signal
import subprocess
import sys
import time

import pytest
import torch
import yaml

import gvbsm
from gvbsm.cli import main
from gvbsm.config import ConfigError
from gvbsm.config.build import as_config
from gvbsm.data.pictures import DataError
from gvbsm.files.artifacts import read_header, read_json
from gvbsm.files.tensors import load_tensors, save
from gvbsm.pipeline import run as pipeline
from gvbsm.studies import sweep as sweeping
from gvbsm.studies.artifact_reuse import Library
from support.corruptions import stand_in
from support.picture_files import write_npz

STUDY = {
    "title": "matching and loss",
    "source": "none",
    "axes": ["weight", "loss"],
    "grid": {"synthesis.weight_conv": [0.0, 1.0], "evaluation.loss": ["kl", "mse_gt"]},
    "base": {"baselines.methods": ["random-soft", "teacher"]},
    "paper": [
        {
            "data": "npz",
            "student": "convnet8_d1",
            "ipc": 2,
            "figures": {"weight=1.0,loss=kl": 12.3, "weight=1.0,loss=mse_gt": 14.5},
        }
    ],
}
SETTINGS = {
    "ipc": 2,
    "device": "cpu",
    "data": {"name": "npz", "workers": 0},
    "squeeze": {"backbones": ["wrn10_1", "convnet8_d1"], "epochs": 1, "tests": 1},
    "synthesis": {"iterations": 3, "batch_size": 2},
    "labels": {"epochs": 3},
    "evaluation": {"students": ["convnet8_d1"], "seeds": 2, "tests": 1},
    "baselines": {"draws": 2},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Twelve pictures of two classes, a study, and the settings as a YAML file."""
    folder = tmp_path_factory.mktemp("sweep")
    write_npz(folder / "tiny.npz", count=12, channels=1)
    settings = {**SETTINGS, "data": {**SETTINGS["data"], "root": str(folder / "tiny.npz")}}
    (folder / "toy.yaml").write_text(yaml.safe_dump(settings))
    (folder / "study.yaml").write_text(yaml.safe_dump(STUDY, sort_keys=False))
    return folder


def swept(folder, workdir, study="study.yaml", **more):
    found = gvbsm.sweep(str(folder / study), str(folder / "toy.yaml"), workdir, quiet=True, **more)
    return found[study.removesuffix(".yaml")]


@pytest.fixture(scope="module")
def finished(folder):
    """A sweep without a break: its folder, and what it returned."""
    return folder / "whole", swept(folder, folder / "whole")


def inodes(workdir, pattern):
    return [path.stat().st_ino for path in sorted(workdir.glob(f"points/*/{pattern}"))]


def test_sweep__tells_every_point_method_and_student(finished):
    workdir, content = finished
    assert read_json(workdir / "study.json") == content
    assert (content["format"], content["axes"]) == (1, ["weight", "loss"])
    assert content["paper"][0] == {
        "point": "weight=1.0,loss=kl",
        "data": "npz",
        "student": "convnet8_d1",
        "ipc": 2,
        "top1": 12.3,
    }
    assert set(content["versions"]) >= {"gvbsm", "torch", "device", "precision"}
    names = [f"weight={w},loss={loss}" for w in ("0.0", "1.0") for loss in ("kl", "mse_gt")]
    assert [point["name"] for point in content["points"]] == names
    assert all(point["done"] for point in content["points"])
    # teachers are the same at all points; random pictures under kl and mse_gt are not
    assert [(row["point"], row["method"], row["student"]) for row in content["rows"]] == [
        *((name, method, "convnet8_d1") for name in names for method in ("gvbsm", "random-soft")),
        (None, "teacher", "wrn10_1"),
        (None, "teacher", "convnet8_d1"),
    ]


def test_sweep__a_row_is_what_its_run_found(finished):
    workdir, content = finished
    for point in content["points"]:
        (place,) = point["folders"]
        results = read_json(workdir / place / "results.json")
        assert results["config"] == point["config"]
        for kept in results["rows"][:2]:
            (row,) = (
                row
                for row in content["rows"]
                if (row["point"], row["method"]) == (point["name"], kept["method"])
            )
            assert row["axes"] == point["axes"]
            assert row["top1"] == {**kept["top1"], "n": 2}
            assert row["top1_best"] == {**kept["top1_best"], "n": 2}
            assert (row["ipc"], row["seeds"]) == (2, [0])
            assert row["image_bytes"] == 4 * read_header_pixels(workdir / place)
            assert row["label_bytes"] == sum(
                path.stat().st_size
                for path in (place_of(workdir / place, kept["method"]) / "labels").glob("shard-*")
            )


def place_of(run, method):
    return run if method == "gvbsm" else run / "baselines" / "random-0"


def read_header_pixels(run):
    images = gvbsm.load(run).images
    return images[0].numel()


def test_sweep__time_of_one_iteration(finished):
    workdir, content = finished
    for row in content["rows"]:
        if row["method"] != "gvbsm":
            assert (row["synthesis_seconds"], row["seconds_per_iteration"]) == (None, None)
            continue
        (point,) = (p for p in content["points"] if p["name"] == row["point"])
        place = workdir / point["folders"][0]
        seconds = read_json(place / "seconds.json")["synthesis/gvbsm"]
        assert row["synthesis_seconds"] == seconds > 0
        groups = len(read_header(place / "synthesis" / "images.safetensors")["traces"])
        assert row["seconds_per_iteration"] == pytest.approx(seconds / (groups * 3))
        assert groups == 2


def test_sweep__makes_once_what_points_have_in_common(finished):
    workdir, _ = finished
    assert len(inodes(workdir, "results.json")) == 4
    for pattern, made in (
        ("squeeze/wrn10_1.safetensors", 1),
        ("squeeze/convnet8_d1.safetensors", 1),
        ("synthesis/images.safetensors", 2),  # two weights
        ("labels/index.json", 2),
        ("evaluation/gvbsm-convnet8_d1-0.json", 4),
        ("baselines/random-1/labels/shard-00000.safetensors", 1),
        ("baselines/random-0/evaluation/random-soft-convnet8_d1-0.json", 2),  # two losses
    ):
        found = inodes(workdir, pattern)
        assert (len(found), len(set(found))) == (4, made), pattern


def test_sweep__points_lend_the_difficulty_of_the_pictures(folder, tmp_path):
    settings = yaml.safe_load((folder / "toy.yaml").read_text())

    def point(name, **synthesis):
        config = as_config(settings, {"synthesis": synthesis, "baselines.methods": ["sre2l"]})
        return sweeping._PointRun(pipeline.Run(config, tmp_path / name, quiet=True))

    first = point("first", init="group_back")
    (made,) = (each for each in first.artifacts if each.clock == "difficulty")
    save(made.path, {"difficulty": torch.zeros(12)}, {"kind": "difficulty", "recipe": made.recipe})
    second = point("second", loop="original", difficulty_groups=True)
    assert Library(tmp_path).link(second.run.workspace, second.artifacts) == 1
    assert second.run.workspace.difficulty.samefile(made.path)
    assert "difficulty" not in {each.clock for each in point("third").artifacts}


def test_sweep__equal_points_of_two_studies_are_one_run(folder, finished, tmp_path):
    workdir, content = finished
    other = {
        **STUDY,
        "axes": ["only"],
        "points": {"same": {"synthesis.weight_conv": 1.0, "evaluation.loss": "kl"}},
    }
    del other["grid"], other["paper"]
    (folder / "other.yaml").write_text(yaml.safe_dump(other))
    before = snapshot(workdir)
    found = swept(folder, workdir, "other.yaml")
    assert found["points"][0]["folders"] == content["points"][2]["folders"]
    assert found["rows"][0]["recipe"] == content["rows"][4]["recipe"]
    assert {path: before[path] for path in before} == {
        path: kept for path, kept in snapshot(workdir).items() if path in before
    }


def test_sweep__points_of_other_pictures_have_folders_of_their_own(folder, tmp_path):
    write_npz(folder / "more.npz", count=16, channels=1)
    points = {name: {"data.root": str(folder / f"{name}.npz")} for name in ("tiny", "more")}
    study = {"title": "pictures", "source": "none", "axes": ["pictures"], "points": points}
    (folder / "roots.yaml").write_text(yaml.safe_dump(study, sort_keys=False))
    options = {"baselines": {"methods": []}}
    found, again = (swept(folder, tmp_path, "roots.yaml", options=options) for _ in range(2))
    folders = [point["folders"][0] for point in found["points"]]
    assert [name.split("-")[1] for name in folders] == ["tiny", "more"]
    assert [point["folders"][0] for point in again["points"]] == folders


def test_sweep__points_of_other_weights_have_folders_of_their_own(folder, tmp_path):
    """Paths have no effect, but what the files hold has."""
    for name, content in (("a", b"1"), ("b", b"2"), ("copy of a", b"1")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "wrn10_1.safetensors").write_bytes(content)
    runs = sweeping._PointRuns(tmp_path, 1, True)

    def place(name):
        squeeze = {"backbones": ["wrn10_1"], "pretrained": True}
        squeeze["weights_dir"] = str(tmp_path / name)
        return runs._folder("weights", as_config(str(folder / "toy.yaml"), {"squeeze": squeeze}))

    assert place("a") == place("copy of a") != place("b")


def test_sweep__points_lend_the_corrupted_pictures(folder, tmp_path, monkeypatch):
    calls = stand_in(monkeypatch)
    corruptions = {"kinds": ["fog"], "severities": [3]}
    options = {
        "synthesis": {"iterations": 1},
        "evaluation": {"corruptions": corruptions, "seeds": 1},
        "baselines": {"methods": ["teacher"]},
    }
    study = {"title": "corrupted", "source": "none", "axes": ["loss"]}
    study["grid"] = {"evaluation.loss": ["kl", "mse_gt"]}
    (folder / "corrupted.yaml").write_text(yaml.safe_dump(study, sort_keys=False))
    swept(folder, tmp_path, "corrupted.yaml", options=options)
    copies = inodes(tmp_path, "corruptions/fog.safetensors")
    tests = inodes(tmp_path, "corruptions/teachers/wrn10_1.json")
    assert (len(copies), len({*copies}), len(tests), len({*tests})) == (2, 1, 2, 1)
    (images,) = load_tensors(next(tmp_path.glob("points/*/corruptions/fog.*")), "corrupted")[0][
        "images"
    ]
    assert len(calls) == len(images)  # of all points together


def snapshot(workdir):
    return {
        str(path.relative_to(workdir)): (path.stat().st_mtime_ns, path.stat().st_ino)
        for path in (workdir / "points").rglob("*")
        if path.is_file()
    }


def test_sweep__again_makes_nothing_and_tells_the_same(folder, finished, monkeypatch):
    workdir, content = finished
    before = snapshot(workdir)
    monkeypatch.setattr(pipeline.Run, "all_stages", lambda _: pytest.fail("there is no work"))
    assert swept(folder, workdir) == content
    assert snapshot(workdir) == before


def test_sweep__reads_the_data_once(folder, finished, monkeypatch):
    reads = []
    load = sweeping.load_data
    monkeypatch.setattr(sweeping, "load_data", lambda *a: reads.append(1) or load(*a))
    monkeypatch.setattr(pipeline, "load_data", lambda *_: pytest.fail("read again"))
    swept(folder, finished[0])
    assert reads == [1]


def test_csv_and_table(folder, finished, capsys):
    workdir, content = finished
    with (workdir / "study.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert [float(line["top1_mean"]) for line in lines] == [
        row["top1"]["mean"] for row in content["rows"]
    ]
    assert lines[0]["weight"] == "0.0"
    arguments = [str(folder / "study.yaml"), str(folder / "toy.yaml"), "--workdir", str(workdir)]
    assert main(["sweep", *arguments, "--quiet"]) == 0
    out, _ = capsys.readouterr()
    assert out.startswith("study: matching and loss (none)\n")
    assert out.count("12.3") == 1
    assert f"results: {workdir / 'study'}.json and .csv" in out


def test_repeat__pools_the_students_of_several_seeds(folder, finished, tmp_path):
    single = {**STUDY, "axes": ["only"], "points": {"one": {"evaluation.loss": "kl"}}}
    del single["grid"], single["paper"]
    (folder / "single.yaml").write_text(yaml.safe_dump(single))
    content = swept(folder, tmp_path / "w", "single.yaml", repeat=2)
    row = content["rows"][0]
    assert (row["seeds"], row["top1"]["n"]) == ([0, 1], 4)
    runs = [
        read_json(tmp_path / "w" / place / "results.json")
        for place in content["points"][0]["folders"]
    ]
    assert [run["config"]["seed"] for run in runs] == [0, 1]
    assert row["top1"]["values"] == [
        value for run in runs for value in run["rows"][0]["top1"]["values"]
    ]
    teachers = [row for row in content["rows"] if row["method"] == "teacher"]
    assert [row["top1"]["n"] for row in teachers] == [2, 2]


def test_repeat__counts_the_students_of_the_same_seeds_once(folder, tmp_path):
    single = {**STUDY, "axes": ["only"], "points": {"one": {"evaluation.loss": "kl"}}}
    del single["grid"], single["paper"]
    (folder / "fixed.yaml").write_text(yaml.safe_dump(single))
    fixed = {name: {"seed": 0} for name in ("squeeze", "synthesis", "labels", "evaluation")}
    rows = swept(folder, tmp_path / "w", "fixed.yaml", options=fixed, repeat=2)["rows"]
    counts = {row["method"]: row["top1"]["n"] for row in rows}
    # random pictures are drawn with the seed of the run
    assert counts == {"gvbsm": 2, "random-soft": 4, "teacher": 1}


def test_faults_are_told_before_any_work(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(pipeline.Run, "all_stages", lambda _: pytest.fail("work was begun"))
    with pytest.raises(ConfigError, match="ConvNet of depth 9 halves"):
        swept(folder, tmp_path / "w", options={"evaluation": {"students": ["convnet8_d9"]}})
    with pytest.raises(DataError, match="500 images of 1 crop"):
        swept(folder, tmp_path / "w", options={"ipc": 500, "synthesis": {"init": "crops"}})
    unlike = {"evaluation": {"batch_size": 4}, "labels": {"batch_size": 8}}
    baselines = {"draws": 2, "methods": ["random-unaugmented"]}
    (folder / "late.yaml").write_text(
        yaml.safe_dump({**STUDY, "base": {}, "paper": [], "grid": {"ipc": [1], "seed": [0]}})
    )
    with pytest.raises(ConfigError, match="labels each training batch as it comes"):
        swept(folder, tmp_path / "w", "late.yaml", options={**unlike, "baselines": baselines})
    assert not (tmp_path / "w").exists()


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        ([], "gvbsm sweep STUDY PRESET ..., got neither"),
        (["ipc"], "gvbsm sweep STUDY PRESET ..., got ipc"),
        (["ipcc", "digits"], "there is no study 'ipcc'; did you mean ipc?"),
        (["ipc", "digit"], "there is no preset 'digit'; did you mean digits"),
        (
            ["ipc", "digits", "--ipc", "3"],
            "ipc: --ipc is the setting that the study varies; leave it out",
        ),
        (["table1-alpha", "digits", "--ipc", "0"], "ipc must be positive, got 0"),
        (["table1-alpha", "digits", "--ipcc", "1"], "there is no setting 'ipcc'; did you mean ipc"),
        (["table1-alpha", "digits", "--repeat", "0"], "repeat must be at least 1, got 0"),
        (["table11-teacher-epochs", "imagenet-1k"], "table11-teacher-epochs does not fit"),
    ],
)
def test_a_fault_of_the_command_is_one_line(argv, words, capsys):
    assert main(["sweep", *argv]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert words in err


def test_help_lists_the_studies(capsys):
    assert main(["sweep", "--help"]) == 0
    out, _ = capsys.readouterr()
    for words in ("table1-alpha", "(table 1)", "--repeat", "figure5-components"):
        assert words in out
    assert "(none" not in out


COMMAND = "import sys; from gvbsm.cli import main; sys.exit(main(sys.argv[1:]))"


def test_sweep__killed_in_the_middle_ends_in_the_same_files(folder, finished, tmp_path):
    workdir = tmp_path / "killed"
    arguments = [str(folder / "study.yaml"), str(folder / "toy.yaml"), "--workdir", str(workdir)]
    process = subprocess.Popen(
        [sys.executable, "-c", COMMAND, "sweep", *arguments, "--quiet"],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    deadline = time.monotonic() + 120
    while not list(workdir.glob("points/*loss=mse-gt*/evaluation/*-0.json")):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.03)
    process.send_signal(signal.SIGKILL)
    process.wait()
    partial = read_json(workdir / "study.json")
    assert partial["points"][0]["done"]
    assert not partial["points"][-1]["done"]
    assert len(partial["rows"]) < len(finished[1]["rows"])
    before = snapshot(workdir)
    content = swept(folder, workdir)
    first = partial["points"][0]["folders"][0].removeprefix("points/")
    assert {k: v for k, v in snapshot(workdir).items() if k.startswith(f"points/{first}")} == {
        k: v for k, v in before.items() if k.startswith(f"points/{first}")
    }
    kept = ("study", "point", "axes", "method", "student", "top1", "top1_best", "recipe")
    assert [[row[key] for key in kept] for row in content["rows"]] == [
        [row[key] for key in kept] for row in finished[1]["rows"]
    ]
    for path in finished[0].glob("points/*/synthesis/images.safetensors"):
        assert path.read_bytes() == (workdir / path.relative_to(finished[0])).read_bytes()


def test_sweep__settings_without_effect_make_no_new_folders(folder, finished):
    workdir, content = finished
    options = {
        "threads": 1,
        "checkpoint_seconds": 9.0,
        "data": {"in_memory": True},
        "synthesis": {"groups": 1},
    }
    again = swept(folder, workdir, options=options)
    assert [p["folders"] for p in again["points"]] == [p["folders"] for p in content["points"]]
    assert [row["recipe"] for row in again["rows"]] == [row["recipe"] for row in content["rows"]]
