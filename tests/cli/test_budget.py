"""`gvbsm run PATH --budget TIME`: settings are chosen once, kept, and can be edited and run."""

import json
import logging
from contextlib import ExitStack
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
import yaml

from gvbsm.backbones import code_of
from gvbsm.cli import main
from gvbsm.cli.parsing import parse_run
from gvbsm.config.build import as_config
from gvbsm.data.datasets import load_dataset
from gvbsm.files.artifacts import ArtifactError
from gvbsm.pipeline.budget import choice, mirror
from gvbsm.pipeline.budget.settle import settle_budget
from gvbsm.pipeline.planning.process_plan import ProcessPlan
from gvbsm.store.workdir import Workspace

FIXED = {  # a run of seconds
    "--ipc": "1",
    "--squeeze.backbones": "convnet16_d2",
    "--squeeze.epochs": "1",
    "--synthesis.init": "real",
    "--synthesis.iterations": "2",
    "--labels.backbones": "convnet16_d2",
    "--labels.epochs": "2",
    "--labels.min_steps": "2",
    "--evaluation.students": "convnet16_d2",
    "--evaluation.seeds": "1",
    "--baselines": "light",
    "--threads": "1",
}
OPTIONS = [word for pair in FIXED.items() for word in pair]


@pytest.fixture(autouse=True)
def pictures(tmp_path, monkeypatch):
    """Digits as a user's own .npz file, in a folder in which commands run."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(mirror, "PASSES", 500)
    monkeypatch.setattr(choice, "Prediction", lambda *_: lambda config: config.labels.epochs)
    data = load_dataset("digits")
    np.savez(
        "mine.npz",
        train_images=data.train.images[:500].permute(0, 2, 3, 1).numpy(),
        train_labels=data.train.labels[:500].numpy(),
        test_images=data.test.images[:100].permute(0, 2, 3, 1).numpy(),
        test_labels=data.test.labels[:100].numpy(),
    )
    return tmp_path / "runs" / "mine"


def test_settings_are_chosen_once_kept_and_run_again(pictures, capsys, caplog):
    caplog.set_level("INFO", "gvbsm")
    assert main(["run", "mine.npz", "--budget", "20m", *OPTIONS]) == 0
    printed = capsys.readouterr().out
    assert "random-soft" in printed
    settings = "8 px, teachers of 1 epoch, 2 iterations, labels of 2 epochs, students for 1 seed"
    choice_line = f"{settings}: about 2 s of 20 min (effort 1.00 of 1; more time changes nothing)"
    assert choice_line in caplog.text
    record = json.loads((pictures / "budget.json").read_text())
    assert record["request"]["seconds"] == 1200
    assert record["request"]["given"]["squeeze.epochs"] == 1
    assert "threads" not in record["request"]["given"]
    assert (record["facts"]["side"], record["facts"]["mirror"]) == (8, False)
    chosen = as_config(str(pictures / "settings.yaml"))
    assert (chosen.ipc, chosen.squeeze.epochs, chosen.labels.views.flip) == (1, 1, False)
    assert chosen.baselines.methods == ("random-hard", "random-soft", "teacher")

    caplog.clear()
    assert main(["run", "mine.npz", "--budget", "20m", *OPTIONS]) == 0
    assert settings not in caplog.text  # nothing is measured again
    assert json.loads((pictures / "budget.json").read_text()) == record

    caplog.clear()
    arguments = [str(pictures / "settings.yaml"), "--workdir", str(pictures), "--threads", "1"]
    assert main(["run", *arguments]) == 0
    assert "squeeze" not in caplog.text  # the same settings: no teacher is trained again


def test_the_epochs_that_the_least_steps_ask_for_are_told(caplog):
    caplog.set_level("INFO", "gvbsm")
    steps = ["--labels.min_steps", "70"]  # of one batch each, at an image per class
    assert main(["settings", "mine.npz", "--budget", "20m", *OPTIONS[:-2], *steps]) == 0
    assert "labels of 70 epochs" in caplog.text


def test_the_usual_budget_limits_only_what_is_left_to_choose(caplog, capsys):
    caplog.set_level("INFO", "gvbsm")
    command = ["settings", "mine.npz", *OPTIONS[:-2], "--labels.epochs", "5000"]
    assert main(command) == 0
    assert "labels of 5,000 epochs, students for 1 seed: about 1 h 23 min (effort" in caplog.text
    assert main([*command, "--budget", "30m"]) == 2
    chosen = command.index("--synthesis.iterations")
    del command[chosen : chosen + 2]
    assert main(command) == 2
    assert "too much for a budget of 30 min" in capsys.readouterr().err.splitlines()[-1]


def test_settings_are_printed_without_a_work_directory(pictures, capsys):
    assert main(["settings", "mine.npz", "--changed", "--budget", "20m", *OPTIONS[:-2]]) == 0
    printed = capsys.readouterr().out
    assert "image_size: 8" in printed
    assert "seed:" not in printed  # its default
    assert not pictures.exists()


def test_a_preset_is_made_smaller_but_for_what_is_given(tmp_path, capsys):
    command = ["settings", "digits", "--budget", "60s", "--squeeze.epochs", "7", "--threads", "1"]
    assert main(command) == 0
    path = tmp_path / "scaled.yaml"
    path.write_text(capsys.readouterr().out)
    scaled, whole = as_config(str(path)), as_config("digits")
    assert 45 <= scaled.labels.epochs <= 54  # a second each, in nine tenths of the budget
    assert scaled.squeeze.epochs == 7
    assert scaled.synthesis.iterations < whole.synthesis.iterations
    assert scaled.evaluation.seeds == whole.evaluation.seeds


def test_one_process_is_timed_in_the_threads_that_the_environment_names(monkeypatch):
    threads = set()

    def predict(_config):
        threads.add(torch.get_num_threads())
        return 1.0

    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setattr(choice, "Prediction", lambda *_: predict)
    assert main(["settings", "mine.npz", "--budget", "20m", *OPTIONS[:-2]]) == 0
    assert threads == {torch.get_num_threads()}


@pytest.mark.parametrize("verb", ["plan", "squeeze"])
def test_log_lines_are_json_objects_if_asked_for(verb, capsys, monkeypatch):
    monkeypatch.setattr(logging.root, "handlers", [])  # else commands leave pytest's as they are
    command = [verb, "mine.npz", "--budget", "20m", "--log-format", "json", *OPTIONS]
    assert main(command) == 0
    lines = map(json.loads, capsys.readouterr().err.splitlines())
    assert any(line["message"].startswith("flips are off") for line in lines)


def test_edited_settings_are_not_overwritten(pictures, capsys, monkeypatch):
    assert main(["squeeze", "mine.npz", "--budget", "20m", *OPTIONS]) == 0
    file = pictures / "settings.yaml"
    file.write_text(file.read_text() + "# mine\n")
    monkeypatch.setattr(choice, "check_mirror", None)  # no network is timed before this fault
    assert main(["squeeze", "mine.npz", "--budget", "10m", *OPTIONS]) == 2
    assert "settings.yaml" in capsys.readouterr().err
    assert file.read_text().endswith("# mine\n")


@pytest.mark.parametrize("start", ["mine.npz", "digits"])
def test_steps_of_continual_are_checked_before_anything_is_timed(start, capsys, monkeypatch):
    monkeypatch.setattr(choice, "check_mirror", None)
    monkeypatch.setattr(choice, "choose", None)
    command = ["continual", start, "--budget", "20m", *OPTIONS, "--continual.steps", "11"]
    assert main(command) == 2
    assert "continual.steps is 11, but there are 10 classes" in capsys.readouterr().err


def test_a_work_directory_that_cannot_be_used_is_refused_before_its_settings_are_replaced(
    pictures, capsys, monkeypatch
):
    monkeypatch.setattr(choice, "check_mirror", None)
    command = ["run", "mine.npz", "--budget", "20m", *OPTIONS]
    with Workspace(pictures).locked():  # by a run of other settings, which goes on by budget.json
        assert main(command) == 2
    assert "another run is at work in" in capsys.readouterr().err
    (pictures.parent / "notes").mkdir()
    (pictures.parent / "notes" / "notes.txt").touch()
    assert main([*command, "--workdir", "runs/notes"]) == 2
    assert "'notes.txt'" in capsys.readouterr().err


def test_two_commands_at_once_have_the_settings_of_the_first(pictures, monkeypatch):
    parsed = parse_run("run", ["mine.npz", "--budget", "20m", *OPTIONS])
    settle = partial(settle_budget, parsed.config, parsed.request, pictures, ProcessPlan())
    first, second = (replace(parsed.config, seed=seed) for seed in (1, 2))

    def choose(*_):
        monkeypatch.setattr(choice, "choose_settings", lambda *_: (first, {}))
        assert settle().seed == 1  # the other command
        return second, {}

    monkeypatch.setattr(choice, "choose_settings", choose)
    assert settle().seed == 1


def test_settings_of_a_run_that_began_meanwhile_are_not_replaced(pictures, monkeypatch):
    parsed = parse_run("run", ["mine.npz", "--budget", "20m", *OPTIONS])
    with ExitStack() as other:

        def choose(*_):
            other.enter_context(Workspace(pictures).locked())
            return parsed.config, {}

        monkeypatch.setattr(choice, "choose_settings", choose)
        with pytest.raises(ArtifactError, match="another run is at work"):
            settle_budget(parsed.config, parsed.request, pictures, ProcessPlan())
    assert not (pictures / "budget.json").exists()


def test_a_set_that_is_not_there_is_told_before_anything_is_timed(pictures, capsys, monkeypatch):
    monkeypatch.setattr(choice, "check_mirror", None)
    sets = ["--baselines.sets", "dm=dm.npz"]
    assert main(["run", "mine.npz", "--budget", "20m", *OPTIONS, *sets]) == 2
    assert "baselines.sets dm: there is no dm.npz" in capsys.readouterr().err
    assert not pictures.exists()


def test_other_pictures_of_the_same_name_leave_the_settings_of_a_run_alone(pictures, capsys):
    assert main(["squeeze", "mine.npz", "--budget", "20m", *OPTIONS]) == 0
    before = (pictures / "budget.json").read_bytes()
    with np.load("mine.npz") as arrays:
        fewer = {name: array[:90] for name, array in arrays.items()}
    np.savez("mine.npz", **fewer)
    assert main(["squeeze", "mine.npz", "--budget", "10m", *OPTIONS]) == 2
    assert "mine belongs to other data (pictures: 500 -> 90)" in capsys.readouterr().err
    assert (pictures / "budget.json").read_bytes() == before


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["mine.npz", "--budget", "soon"], "--budget takes a duration such as 90s, 30m or 2h"),
        (["mine.npz", "--budget", "30s"], "the cheapest run takes about"),
        (["digits", "--baselines", "some"], "--baselines takes one of none, light, all"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_line(arguments, line, capsys, pictures):
    assert main(["run", *arguments]) == 2
    error = capsys.readouterr().err
    assert line in error.splitlines()[-1]
    assert not pictures.exists()


@pytest.mark.parametrize(
    ("source", "options", "line"),
    [
        ("digits", "--evaluation.students resnet19", "unknown backbone 'resnet19'"),
        ("mine.npz", "--evaluation.students resnet19", "unknown backbone 'resnet19'"),
        ("mine.npz", "--evaluation.students convnet128_d6", "a ConvNet of depth 6"),
        ("mine.npz", "--coreset.backbone convnet128", "['airbench', 'convnet128_d2']"),
        ("mine.npz", "--labels.storage.top_k 10", "labels.storage.top_k keeps 10"),
    ],
)
def test_settings_that_cannot_run_are_refused_before_a_network_is_timed(
    source, options, line, capsys, monkeypatch
):
    monkeypatch.setattr(choice, "check_mirror", None)
    monkeypatch.setattr(choice, "choose", None)
    assert main(["run", source, "--budget", "20m", *options.split()]) == 2
    assert line in capsys.readouterr().err.splitlines()[-1]


def test_networks_of_one_s_own_are_loaded_before_they_are_timed(tmp_path, monkeypatch):
    (tmp_path / "net.py").write_text(
        "from torch import nn\n\n\ndef net(classes):\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(64, classes))\n"
    )
    monkeypatch.setattr(choice, "Prediction", lambda *_: lambda _: len(code_of("net.py:net")))
    command = ["settings", "mine.npz", *OPTIONS[:-2], "--evaluation.students", "net.py:net"]
    assert main(command) == 0


def test_sides_at_which_the_settings_cannot_run_are_not_tried(caplog, capsys, monkeypatch):
    caplog.set_level("INFO", "gvbsm")
    images = np.random.default_rng(0).integers(0, 256, (8, 64, 64, 3), dtype=np.uint8)
    labels = np.arange(8) % 2
    arrays = {"train_images": images, "train_labels": labels}
    np.savez("large.npz", **arrays, test_images=images, test_labels=labels)
    monkeypatch.setattr(choice, "check_mirror", lambda *_: mirror.MirrorCheck(50, 50, 2, True))
    for options, side in ([], 64), (["--coreset.backbone", "convnet128"], 32):
        assert main(["settings", "large.npz", "--budget", "2h", "--device", "cpu", *options]) == 0
        assert yaml.safe_load(capsys.readouterr().out)["data"]["image_size"] == side
    assert "64 px are not tried: coreset.backbone names 'convnet128'" in caplog.text


@pytest.mark.parametrize(
    ("options", "both"),
    [
        ("", True),
        ("--labels.storage.pruning 2", False),
        ("--evaluation.batch_size 50", False),
        ("--labels.batch_size 50", False),
        ("--evaluation.batch_size 50 --labels.batch_size 50", True),
        ("--labels.batchnorm running", False),
    ],
)
def test_the_convnet_labels_alone_where_settings_exclude_labels_by_the_batch(
    pictures, capsys, options, both
):
    assert main(["settings", "mine.npz", "--ipc", "10", *options.split()]) == 0
    labels = yaml.safe_load(capsys.readouterr().out)["labels"]
    assert labels["backbones"] == (["airbench", "convnet128_d2"] if both else ["convnet128_d2"])
    assert labels["batchnorm"] == ("batch" if both else "running")
