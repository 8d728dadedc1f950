"""Whole runs by several processes: the bytes of one, whatever stops them on the way."""

import json
import logging
import os
import shutil
import signal
import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml

import gvbsm
from gvbsm.config.preset_files import read_preset
from gvbsm.engine.processes import ALONE
from gvbsm.engine.progress import activity
from gvbsm.engine.progress.activity import ACTIVITY
from gvbsm.files import manifest
from gvbsm.files.artifacts import read_json
from gvbsm.files.tensors import load_tensors
from gvbsm.pipeline import work_sharing
from gvbsm.pipeline.continual import run_continual
from gvbsm.pipeline.work_sharing import Teamwork
from gvbsm.store.workdir import Workspace
from support.launch import by_hand, torchrun

# What tells of time, and of the processes themselves.
UNEQUAL = ("results.json", "seconds.json", "continual.json", "gvbsm.log", ".lock")

WORK = """
import sys
import gvbsm
from gvbsm.pipeline.continual import run_continual
preset, workdir = sys.argv[1:]
gvbsm.run(preset, workdir, quiet=True)
run_continual(preset, workdir, quiet=True)
"""
TOGETHER = """
import sys
import gvbsm, yaml
settings = yaml.safe_load(open(sys.argv[1])) | {"baselines": {"methods": []}}
for section in ("squeeze", "evaluation"):
    settings[section]["parallel"] = "pictures"
gvbsm.run(settings, sys.argv[2] + "-together", quiet=True)
"""
# Each process would find other items made.
ASK = """
import json, pathlib, sys
from gvbsm.engine.processes import join
from gvbsm.pipeline.work_sharing import Teamwork
from gvbsm.store.workdir import Workspace
us, folder, asked = join(), pathlib.Path(sys.argv[1]), []
def is_made(item):
    asked.append(item)
    return item % 2 == us.rank
missing = Teamwork(Workspace(folder), us).missing(range(1, 6), is_made)
(folder / f"{us.rank}.json").write_text(json.dumps([missing, asked]))
"""
# The second process is halfway through its teacher when the first asks how far the run is.
HALFWAY = """
import pathlib, sys
from gvbsm.engine.processes import ALONE, join
from gvbsm.engine.progress import bars
from gvbsm.engine.progress.activity import ACTIVITY
from gvbsm.files import manifest
from gvbsm.pipeline.work_sharing import Teamwork
from gvbsm.store.workdir import Workspace
us, folder = join(), pathlib.Path(sys.argv[1])
if us.leads:
    manifest.claim(folder)
us.barrier()
team = Teamwork(Workspace(folder), us)
with team.begun():
    if us.leads:
        us.barrier()
        team.follow({"squeeze/a": 30.0, "squeeze/b": 30.0})
        (folder / "share").write_text(str(ACTIVITY.run_progress().share))
        us.barrier()
    else:
        with team.timed("squeeze/b", ALONE), bars.begin(8, "squeeze", "step", quiet=True) as bar:
            bar.update(4)
            us.barrier()
            us.barrier()  # the part is not finished before its share has been read
assert ACTIVITY.publish is None
"""
# The second process fails when it has made its first images; the first has made some meanwhile.
FAIL = """
import signal, sys
from gvbsm.stages import synthesis
from gvbsm.cli import main
from gvbsm.engine.processes import join
from gvbsm.engine.device import RunError
signal.signal(signal.SIGINT, signal.default_int_handler)  # jobs in the background ignore it
us, make_files = join(), synthesis._make_stack
def make(*arguments):
    make_files(*arguments)
    {fault}
synthesis._make_stack = make
sys.exit(main(["run", sys.argv[1], "--workdir", sys.argv[2]]))
"""


@pytest.fixture(scope="module")
def preset(tmp_path_factory):
    """Four classes of noise about their own grey, and settings of seconds."""
    folder = tmp_path_factory.mktemp("data")
    generator = np.random.default_rng(0)
    arrays = {}
    for split, each in (("train", 10), ("test", 4)):
        labels = np.repeat(np.arange(4), each)
        noise = generator.integers(0, 60, (4 * each, 8, 8, 3))
        arrays[f"{split}_images"] = (noise + 40 * labels[:, None, None, None]).astype(np.uint8)
        arrays[f"{split}_labels"] = labels
    np.savez(folder / "toy.npz", class_names=np.array(list("abcd")), **arrays)
    settings = {
        "ipc": 2,
        "device": "cpu",
        "checkpoint_seconds": 0,
        "data": {"name": "npz", "root": str(folder / "toy.npz")},
        "squeeze": {"backbones": ["convnet8_d1", "wrn10_1", "convnet8_d2"], "epochs": 2},
        "statistics": {"batch_size": 2},  # two chunks
        "synthesis": {
            "iterations": 3,
            "batch_size": 2,  # four groups
            "loop": "original",
            "difficulty_groups": True,
            "init": "group_back",
            "stages": 2,
            "residual": 0.5,
            "residual_source": "nearest",
        },
        "labels": {"epochs": 120},
        "evaluation": {"students": ["convnet8_d1"], "seeds": 2, "tests": 1},
        "baselines": {"methods": ["random-soft", "teacher"]},
        "continual": {"steps": 2, "orders": 2, "epochs": 2, "methods": []},
    }
    settings["squeeze"]["views"] = {"crop": "pad", "padding": 1}
    path = folder / "toy.yaml"
    path.write_text(yaml.safe_dump(settings))
    return path


@pytest.fixture(scope="module")
def whole(preset, tmp_path_factory):
    """The work directory of one process."""
    workdir = tmp_path_factory.mktemp("one") / "run"
    gvbsm.run(read_preset(str(preset)), workdir, quiet=True)
    run_continual(read_preset(str(preset)), workdir, quiet=True)
    return workdir


def started(world, code, preset, workdir):
    script = workdir.with_suffix(".py")
    script.write_text(code)
    return torchrun(world, script, preset, workdir)


@pytest.fixture(scope="module")
def of_two(preset, tmp_path_factory):
    """The work directory of two processes; beside it, that of networks trained together."""
    workdir = tmp_path_factory.mktemp("two") / "run"
    done = started(2, WORK + TOGETHER, preset, workdir)
    assert done.returncode == 0, done.stderr
    return workdir


@pytest.fixture(scope="module")
def half(preset, tmp_path_factory):
    """A work directory in which one of two processes has failed, and what was told."""
    workdir = tmp_path_factory.mktemp("half") / "run"
    code = FAIL.format(fault="if us.rank: raise RunError('broken on purpose')")
    return workdir, started(2, code, preset, workdir)


def content(workdir):
    """Path -> bytes of all that must not depend on how many made it."""
    return {
        str(path.relative_to(workdir)): path.read_bytes()
        for path in sorted(workdir.rglob("*"))
        if path.is_file() and path.name not in UNEQUAL and "report" not in path.parts
    }


def assert_same(workdir, whole):
    ours, theirs = (
        {name: part for name, part in content(folder).items() if ".gvbsm-files" not in name}
        for folder in (workdir, whole)
    )  # each process has a list of the files that it made
    assert ours.keys() == theirs.keys()
    assert [name for name in theirs if ours[name] != theirs[name]] == []


def test_two_processes__make_the_same_bytes_as_one(whole, of_two):
    assert len([name for name in content(whole) if name.endswith("safetensors")]) > 8
    assert_same(of_two, whole)


def test_two_processes__have_the_results_and_the_times_of_one(whole, of_two):
    ours, theirs = (read_json(folder / "results.json") for folder in (of_two, whole))
    accuracies = ("method", "student", "ipc", "top1", "top1_best")
    for our, their in zip(ours["rows"], theirs["rows"], strict=True):
        assert [our[name] for name in accuracies] == [their[name] for name in accuracies]
    ours, theirs = (read_json(folder / "continual.json") for folder in (of_two, whole))
    assert ours["rows"][0]["steps"] == theirs["rows"][0]["steps"]
    ours, theirs = (read_json(folder / "seconds.json") for folder in (of_two, whole))
    assert ours.keys() == theirs.keys()
    assert min(ours.values()) > 0


def test_networks_trained_together__are_those_of_one_process_up_to_rounding(whole, of_two):
    together = of_two.with_name("run-together")
    for path in sorted((whole / "squeeze").glob("*.safetensors")):
        expected = load_tensors(path, "teacher")[0]
        found, header = load_tensors(together / "squeeze" / path.name, "teacher")
        assert header["recipe"]["squeeze"] == load_tensors(path, "teacher")[1]["recipe"]["squeeze"]
        for key, value in expected.items():
            torch.testing.assert_close(found[key], value, rtol=1e-3, atol=1e-4, msg=key)
    assert len(list((together / "evaluation").glob("*.json"))) == 2
    assert not list(together.rglob("*.partial*"))


def test_what_is_missing__is_found_by_process_0_and_told_to_the_others(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(ASK)
    done = torchrun(2, script, tmp_path)
    assert done.returncode == 0, done.stderr
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1))
    assert first == [[1, 3, 5], [1, 2, 3, 4, 5]]
    assert second == [[1, 3, 5], []]


def test_a_failure__ends_all_with_one_line_that_names_the_process(half):
    workdir, done = half
    assert done.returncode == 1
    told = [line for line in done.stderr.splitlines() if line.startswith("gvbsm: ")]
    assert told[0] == "gvbsm: process 1 of 2: broken on purpose"
    assert all("another process has failed" in line for line in told[1:])
    made = list((workdir / "synthesis").glob("group-*"))
    assert made
    assert not (workdir / "synthesis" / "images.safetensors").exists()
    assert not list(workdir.glob("results.json"))


@pytest.mark.parametrize("world", [1, 4])
def test_half_done_work__is_ended_by_any_number(world, half, whole, preset, tmp_path):
    workdir = tmp_path / "run"
    shutil.copytree(half[0], workdir)
    if world == 1:
        gvbsm.run(read_preset(str(preset)), workdir, quiet=True)
        run_continual(read_preset(str(preset)), workdir, quiet=True)
    else:
        done = started(world, WORK, preset, workdir)
        assert done.returncode == 0, done.stderr
    assert_same(workdir, whole)
    assert not list(workdir.glob(".seconds-*"))


def test_a_killed_process__ends_the_others_and_loses_nothing(whole, preset, tmp_path):
    """Without a launcher that watches: the first learns it when they meet."""
    workdir = tmp_path / "run"
    shutil.copytree(whole, workdir)
    (workdir / "synthesis" / "images.safetensors").unlink()
    fault = f"import os\n    if us.rank: os.kill(os.getpid(), {int(signal.SIGKILL)})"
    script = tmp_path / "script.py"
    script.write_text(FAIL.format(fault=fault))
    first, second = by_hand(2, script, preset, workdir)
    err = first.communicate(timeout=180)[1]
    second.communicate(timeout=180)
    assert (first.returncode, second.returncode) == (1, -9)
    assert err.splitlines()[-1].startswith("gvbsm: process 0 of 2: another process has failed")
    gvbsm.run(read_preset(str(preset)), workdir, quiet=True)
    assert_same(workdir, whole)


def test_ctrl_c__is_heard_while_a_process_waits_for_another(preset, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(FAIL.format(fault="import time\n    if us.rank: time.sleep(600)"))
    first, second = by_hand(2, script, preset, tmp_path / "run")
    try:
        groups = tmp_path / "run" / "synthesis"
        end = time.monotonic() + 120
        while len(list(groups.glob("group-*.safetensors"))) < 4 and time.monotonic() < end:
            time.sleep(0.1)
        os.kill(first.pid, signal.SIGINT)
        assert first.communicate(timeout=180)[1].endswith("goes on from the last checkpoint\n")
        assert first.returncode == 130
    finally:
        second.kill()
        second.communicate()


def test_progress__counts_the_part_of_another_process(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(HALFWAY)
    done = torchrun(2, script, tmp_path / "run")
    assert done.returncode == 0, done.stderr
    assert float((tmp_path / "run" / "share").read_text()) == 0.25


def test_progress__says_how_much_of_a_planned_run_is_done(tmp_path, monkeypatch):
    monkeypatch.setattr(activity, "FRESH_SECONDS", 0.0)
    manifest.claim(tmp_path)
    workspace = Workspace(tmp_path)
    team = Teamwork(workspace, ALONE)
    workspace.note("squeeze/old", 5.0)  # of other settings: it is made again
    workspace.note("squeeze/begun", None)
    with team.begun():
        team.follow({"squeeze/old": 60.0, "squeeze/begun": 30.0, "labels/a": 10.0})
        assert ACTIVITY.run_progress().share == 0
        with team.timed("squeeze/begun", ALONE):
            assert ACTIVITY.title == "begun"
        workspace.note("squeeze/old", None)
        assert ACTIVITY.run_progress().share == pytest.approx(0.3)
        with team.timed("labels/a", ALONE):
            pass
        assert ACTIVITY.run_progress().share == pytest.approx(0.4)
    assert ACTIVITY.schedule is None


def test_progress__says_at_the_end_how_long_a_planned_run_took(tmp_path, monkeypatch, caplog):
    manifest.claim(tmp_path)
    team = Teamwork(Workspace(tmp_path), ALONE)
    now = SimpleNamespace(seconds=1000.0)
    monkeypatch.setattr(work_sharing.time, "monotonic", lambda: now.seconds)
    with caplog.at_level(logging.INFO, "gvbsm"), team.begun():
        team.follow({"squeeze/a": 60.0, "labels/a": 10.0})
        now.seconds += 90
    assert caplog.messages == ["finished in 1 min 30 s; 1 min 10 s were planned"]
    with caplog.at_level(logging.INFO, "gvbsm"), team.begun():
        pass  # nothing was planned
    assert len(caplog.messages) == 1


def test_progress__of_a_planned_run_that_is_stopped_says_no_time(tmp_path, caplog):
    manifest.claim(tmp_path)
    team = Teamwork(Workspace(tmp_path), ALONE)

    def stopped():
        with team.begun():
            team.follow({"squeeze/a": 60.0})
            raise KeyboardInterrupt

    with caplog.at_level(logging.INFO, "gvbsm"), pytest.raises(KeyboardInterrupt):
        stopped()
    assert caplog.messages == []
