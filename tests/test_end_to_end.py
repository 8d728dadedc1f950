"""The whole pipeline on a small set, through the command line, killed and resumed."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
import time

import pytest
import torch
import yaml

import gvbsm
from support.workdirs import digests, rows_without_times, write_arrays

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}

# Says READY once the slow imports are over, so that kills fall into the work and not before it.
COMMAND = (
    "import sys, gvbsm.pipeline.run; print('READY', flush=True); "
    "from gvbsm.cli import main; sys.exit(main(sys.argv[1:]))"
)


@pytest.fixture(scope="module")
def preset(tmp_path_factory):
    """Four classes that differ in where they are bright, and settings that take a few seconds."""
    folder = tmp_path_factory.mktemp("data")
    write_arrays(folder / "toy.npz")
    settings = {
        "ipc": 3,
        "checkpoint_seconds": 0.05,
        "data": {"name": "npz", "root": str(folder / "toy.npz")},
        "squeeze": {
            "backbones": ["wrn10_1", "convnet16_d2"],
            "epochs": 6,
            "views": {"crop": "pad", "padding": 1, "flip": False},
        },
        "synthesis": {
            "iterations": 80,
            "batch_size": 6,
            "views": {"scale": [0.6, 1.0], "flip": False, "roll": 1},
        },
        "labels": {"epochs": 120, "views": {"scale": [0.6, 1.0], "flip": False, "cutmix": 1.0}},
        "evaluation": {"students": ["convnet16_d2"], "seeds": 2, "tests": 3},
    }
    path = folder / "toy.yaml"
    path.write_text(yaml.safe_dump(settings))
    return path


@pytest.fixture(scope="module")
def finished(preset, tmp_path_factory):
    """A work directory of one uninterrupted run, and what the run printed."""
    workdir = tmp_path_factory.mktemp("finished") / "run"
    process = start(preset, workdir)
    output, errors = process.communicate(timeout=240)
    assert process.returncode == 0, errors
    return workdir, output


def start(preset, workdir, *arguments):
    command = [sys.executable, "-c", COMMAND, "run", str(preset), "--workdir", str(workdir)]
    return subprocess.Popen(
        [*command, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=ENVIRONMENT,
    )


def test_run__prints_the_table_and_where_things_are(finished):
    workdir, output = finished
    for word in ("gvbsm", "random-hard", "random-soft", "sre2l", "teacher", "±"):
        assert word in output
    for name in ("results.json", "images.png", "synthesis/images.safetensors", "report/index.html"):
        assert (workdir / name).is_file()
        assert str(workdir / name) in output


def test_run__results_have_the_documented_shape(finished):
    workdir, _ = finished
    results = json.loads((workdir / "results.json").read_text())
    assert {row["method"] for row in results["rows"]} == {
        "gvbsm",
        "random-hard",
        "random-soft",
        "sre2l",
        "teacher",
    }
    for row in results["rows"]:
        sizes = set() if row["method"] == "teacher" else {"image_bytes", "label_bytes"}
        assert set(row) - {"metrics"} == {
            "method",
            "student",
            "ipc",
            "top1",
            "top1_best",
            "seconds",
            *sizes,
        }
        values = row["top1"]["values"]
        assert row["top1"]["mean"] == pytest.approx(sum(values) / len(values))
        assert 0 <= row["top1"]["mean"] <= row["top1_best"]["mean"] <= 100
        assert row["seconds"] > 0
    seconds = results["seconds"]
    for part in ("full", "corruptions"):  # no student on all pictures, no test on corrupted ones
        assert seconds.pop(part) == 0
    assert set(seconds) == {"squeeze", "statistics", "synthesis", "labels", "evaluation"}
    assert all(seconds.values())
    assert results["config"]["ipc"] == 3
    assert results["versions"]["torch"] == torch.__version__


def test_run__students_learn_from_the_distilled_images(finished):
    rows = {row["method"]: row["top1"]["mean"] for row in rows_without_times(finished[0])}
    assert rows["gvbsm"] > 60  # chance is 25


def test_load__gives_images_labels_and_a_dataset(finished):
    distilled = gvbsm.load(finished[0])
    assert distilled.images.dtype == torch.uint8
    assert distilled.images.shape == (12, 3, 8, 8)
    assert distilled.labels.tolist() == [0] * 3 + [1] * 3 + [2] * 3 + [3] * 3
    assert distilled.class_names == ("a", "b", "c", "d")
    assert distilled.soft_labels.read(119)["logits"].shape == (12, 4)
    image, label = distilled.dataset()[5]
    pixels = image * torch.tensor(distilled.normalization.std)[:, None, None]
    pixels = pixels + torch.tensor(distilled.normalization.mean)[:, None, None]
    torch.testing.assert_close(pixels * 255, distilled.images[5].float(), atol=1e-3, rtol=0)
    assert label == 1


def test_run__second_time_makes_nothing(finished, preset):
    workdir, _ = finished
    before = {path: path.stat().st_mtime_ns for path in workdir.rglob("*.safetensors")}
    gvbsm.run(str(preset), workdir, quiet=True)
    assert {path: path.stat().st_mtime_ns for path in workdir.rglob("*.safetensors")} == before


def test_run__a_changed_setting_redoes_its_stage_and_what_follows(finished, preset, tmp_path):
    workdir = tmp_path / "copy"
    shutil.copytree(finished[0], workdir)
    before = digests(workdir)
    settings = yaml.safe_load(preset.read_text())
    settings["labels"]["epochs"] = 100
    results = gvbsm.run(settings, workdir, quiet=True)
    after = digests(workdir)
    changed = {name for name in {*before, *after} if before.get(name) != after.get(name)}
    kept = {name for name in before if name.split("/")[0] in ("squeeze", "statistics", "synthesis")}
    kept |= {name for name in before if "/synthesis/" in name}
    assert changed
    assert not changed & kept
    assert {name for name in after if "labels/" in name or "evaluation/" in name} <= changed | {
        name for name in after if name not in before
    }
    assert results["config"]["labels"]["epochs"] == 100


@pytest.mark.timeout(900)
def test_run__killed_at_ten_random_moments_ends_in_the_same_files(finished, preset, tmp_path):
    reference, _ = finished
    workdir = tmp_path / "killed"
    chance = random.Random(0)
    kills = 0
    while kills < 10:
        process = start(preset, workdir, "--quiet")
        assert process.stdout is not None
        assert process.stdout.readline().strip() == "READY"
        time.sleep(chance.uniform(0.05, 1.2))
        if process.poll() is None:
            kills += 1
        process.kill()
        process.communicate()
        if (workdir / "images.png").exists():  # finished before the tenth kill: start over
            for path in workdir.rglob("*.json"):
                path.unlink()
    process = start(preset, workdir, "--quiet")
    _, errors = process.communicate(timeout=240)
    assert process.returncode == 0, errors
    assert digests(workdir) == digests(reference)
    assert rows_without_times(workdir) == rows_without_times(reference)
