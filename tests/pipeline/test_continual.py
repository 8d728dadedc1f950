"""The class-incremental protocol: its steps by hand, its files, stops, and the command."""

import itertools
import logging
import re
import shutil
from contextlib import suppress
from dataclasses import replace
from statistics import fmean

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import gvbsm.pipeline.run
import gvbsm.stages.evaluation
from gvbsm.backbones import build_backbone
from gvbsm.cli import main
from gvbsm.config import ConfigError, LabelStorageConfig
from gvbsm.config.build import build_config, for_method
from gvbsm.config.keys import merge
from gvbsm.engine.seeds import generator_for
from gvbsm.files.artifacts import ArtifactError, read_json
from gvbsm.files.tensors import load_tensors
from gvbsm.pipeline import continual
from gvbsm.pipeline.continual import (
    SeenOutputs,
    at_step,
    class_order,
    classes_seen,
    keep_classes,
    memory_data,
    run_continual,
)
from gvbsm.pipeline.run import Run
from gvbsm.store.workdir import Workspace
from support.toy import StoppedError

STUDENT = "convnet8_d1"
SETTINGS = {
    "ipc": 2,
    "device": "cpu",
    "data": {"name": "digits"},
    "squeeze": {"backbones": [STUDENT], "epochs": 1, "tests": 1, "views": {"crop": "none"}},
    "synthesis": {"iterations": 2, "batch_size": 20},
    "labels": {"epochs": 2, "batch_size": 8, "full_batch_up_to": 0},
    "evaluation": {"students": [STUDENT], "seeds": 1, "batch_size": 8},
    "continual": {"steps": 3, "orders": 2},
}
COUNTS = [4, 7, 10]


@pytest.fixture(autouse=True)
def _level_of_the_logger():
    logger = logging.getLogger("gvbsm")
    level = logger.level
    yield
    logger.setLevel(level)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A work directory in which the protocol has run, and what it returned."""
    workdir = tmp_path_factory.mktemp("finished")
    return workdir, run_continual(SETTINGS, workdir, quiet=True)


# Orders and steps


@given(st.integers(1, 60), st.integers(0, 5))
def test_an_order_is_a_permutation_and_belongs_to_its_seed(classes, number):
    order = class_order(classes, generator_for(3, "continual", number))
    assert sorted(order) == list(range(classes))
    assert order == class_order(classes, generator_for(3, "continual", number))


def test_orders_differ():
    orders = {tuple(class_order(10, generator_for(0, "continual", n))) for n in range(20)}
    assert len(orders) == 20


@pytest.mark.parametrize(
    ("classes", "steps", "seen"),
    [
        (10, 5, [2, 4, 6, 8, 10]),
        (10, 4, [3, 6, 8, 10]),  # 3 + 3 + 2 + 2
        (34, 10, [4, 8, 12, 16, 19, 22, 25, 28, 31, 34]),
        (3, 3, [1, 2, 3]),
        (7, 1, [7]),
    ],
)
def test_classes_seen_after_each_step(classes, steps, seen):
    assert classes_seen(classes, steps) == seen


# A memory


def test_a_memory_holds_the_classes_seen_alone_relabeled_as_they_came(data):
    images = torch.arange(8, dtype=torch.uint8).view(8, 1, 1, 1).expand(8, 3, 8, 8)
    labels = torch.tensor([0, 0, 1, 1, 2, 2, 3, 3])
    memory = memory_data(data, images, labels, [3, 1])
    assert memory.class_names == ("dog", "bee")
    assert memory.train.labels.tolist() == [1, 1, 0, 0]
    assert memory.train.images[:, 0, 0, 0].tolist() == [2, 3, 6, 7]
    of = data.test.labels
    expected = [index for index in range(16) if of[index] in (1, 3)]
    assert torch.equal(memory.test.images, data.test.images[expected])
    assert memory.test.labels.tolist() == [0 if of[index] == 3 else 1 for index in expected]
    assert memory.normalization == data.normalization


def test_a_memory_of_all_classes_is_the_data_again(data):
    memory = memory_data(data, data.train.images, data.train.labels, range(4))
    for mine, all_ in ((memory.train, data.train), (memory.test, data.test)):
        assert torch.equal(mine.images, all_.images)
        assert torch.equal(mine.labels, all_.labels)


def test_files_of_the_classes_seen(streamed):
    split = keep_classes(streamed.test, [2], 4)
    of = streamed.test.labels.tolist()
    assert split.paths == tuple(
        path for path, label in zip(streamed.test.paths, of, strict=True) if label == 2
    )
    assert split.labels.tolist() == [0] * 4


def test_a_teachers_outputs_are_those_of_the_classes_in_their_order():
    table = torch.arange(8.0).view(2, 4)
    seen = SeenOutputs(nn.Identity(), torch.tensor([3, 0]))
    assert seen(table).tolist() == [[3.0, 0.0], [7.0, 4.0]]


def test_small_memories_get_the_epochs_that_the_least_steps_need():
    labels = {"epochs": 6, "min_steps": 20, "batch_size": 99}
    config = build_config(merge(SETTINGS, {"labels": labels}))
    step = at_step(config, 8)  # 8 images, one batch
    assert (step.labels.epochs, step.labels.batch_size) == (20, 8)
    assert (step.labels.store, step.evaluation.tests) == (False, 1)
    packed = replace(config, labels=replace(config.labels, storage=LabelStorageConfig(bits=8)))
    assert at_step(packed, 8) == step  # the teachers label each batch as it comes
    assert at_step(config, 20).labels.epochs == 7  # 20 images, three batches
    own = replace(config, continual=replace(config.continual, epochs=9))
    assert (at_step(own, 8).labels.epochs, at_step(own, 20).labels.epochs) == (20, 9)
    own = replace(config, continual=replace(config.continual, epochs=2, min_steps=0))
    assert (at_step(own, 8).labels.epochs, at_step(own, 20).labels.epochs) == (2, 2)


def test_students_are_asked_for_the_classes_seen_alone(tmp_path, monkeypatch):
    """Each step's training, as `train_student` is called: pictures, labels, outputs."""
    run = Run(build_config(merge(SETTINGS, {"continual": {"orders": 1, "methods": []}})), tmp_path)
    order = class_order(10, run.runtime.generator("continual", 0))
    seen_by_step = []

    def record(student, number, task, judge, *rest):
        images, labels, data = task.images, task.labels, judge.data
        seen = order[: len(data.class_names)]
        whole, _ = load_tensors(tmp_path / "synthesis" / "images.safetensors", "images")
        rows = [row for row in range(20) if whole["labels"][row] in seen]
        assert torch.equal(images, whole["images"][rows])
        assert [seen[label] for label in labels.tolist()] == whole["labels"][rows].tolist()
        tested = [label for label in run.data.test.labels.tolist() if label in seen]
        assert [seen[label] for label in data.test.labels.tolist()] == tested

        pictures = torch.randn(5, 1, 8, 8)
        (teacher,) = run.teachers.for_labels(run.config)
        found = task.labeler.logits(pictures)
        assert torch.equal(found, teacher(pictures)[:, seen].half().float())
        plan, stored = task.labeler.joined([0])
        assert stored is None
        assert sorted(plan.order.tolist()) == list(range(len(images)))
        assert int(plan.mixes.partners.max()) < len(images)
        seen_by_step.append(seen)
        return genuine(student, number, task, judge, *rest)

    genuine = continual.train_student
    monkeypatch.setattr(continual, "train_student", record)
    continual.Protocol(run).learn()
    assert seen_by_step == [order[:count] for count in COUNTS]


def test_students_are_trained_in_the_form_that_their_recipe_names(tmp_path, monkeypatch):
    chosen = {STUDENT: {"training": "bf16 channels-last"}}
    monkeypatch.setattr(gvbsm.pipeline.run, "choose_forms", lambda *_: chosen)
    run = Run(build_config(merge(SETTINGS, {"continual": {"orders": 1, "methods": []}})), tmp_path)
    trained = []

    def record(student, number, task, judge, runtime, path, recipe):
        trained.append((runtime.form.name, recipe["precision"]))
        return genuine(student, number, task, judge, runtime, path, recipe)

    genuine = continual.train_student
    monkeypatch.setattr(continual, "train_student", record)
    continual.Protocol(run).learn()
    assert trained == [("bf16 channels-last", "bf16 channels-last")] * len(COUNTS)


# Results


def test_the_results_have_their_schema(finished):
    workdir, results = finished
    assert read_json(workdir / "continual.json") == results
    names = "classes class_names orders rows note config origin versions"
    assert results.keys() == {*names.split()}
    assert results["classes"] == COUNTS
    assert results["class_names"] == [str(digit) for digit in range(10)]
    assert [sorted(order) for order in results["orders"]] == [list(range(10))] * 2
    assert results["config"]["continual"]["steps"] == 3
    assert [row["method"] for row in results["rows"]] == ["gvbsm", "random-soft", "sre2l"]
    for row in results["rows"]:
        assert row.keys() == {"method", "student", "ipc", "steps", "average", "seconds"}
        assert (row["student"], row["ipc"], len(row["steps"])) == (STUDENT, 2, 3)
        assert row["seconds"] > 0


def test_rows_are_the_single_results_and_the_average_is_over_the_steps(finished):
    workdir, results = finished
    for row in results["rows"]:
        curves = []
        for number, order in enumerate(results["orders"]):
            curve = []
            for step, count in enumerate(COUNTS):
                name = f"{row['method']}-{STUDENT}-{number}-{count}.json"
                single = read_json(workdir / "continual" / name)
                assert single["recipe"]["classes"] == order[:count]
                assert len(single["top1"]) == 1
                assert row["steps"][step]["values"][number] == single["top1"][0]
                curve.append(single["top1"][0])
            curves.append(sum(curve) / 3)
        assert row["average"]["values"] == pytest.approx(curves)
        assert row["average"]["mean"] == pytest.approx(sum(curves) / 2)
        assert row["average"]["std"] == pytest.approx(abs(curves[0] - curves[1]) / 2**0.5)
    assert len(list((workdir / "continual").iterdir())) == 3 * 2 * 3


def test_rows_count_the_times_of_their_own_orders(finished, tmp_path):
    workdir = shutil.copytree(finished[0], tmp_path / "w")
    seconds = Workspace(workdir).seconds()
    fewer = run_continual(merge(SETTINGS, {"continual": {"orders": 1}}), workdir, quiet=True)
    for row in fewer["rows"]:
        start = f"continual/{row['method']}/{STUDENT}/0/"
        assert row["seconds"] == pytest.approx(sum(seconds[f"{start}{count}"] for count in COUNTS))


def test_each_order_draws_its_own_random_pictures(finished):
    workdir, _ = finished
    drawn = [
        load_tensors(workdir / f"baselines/random-{number}/synthesis/images.safetensors", "images")
        for number in (0, 1)
    ]
    assert not torch.equal(drawn[0][0]["images"], drawn[1][0]["images"])


def test_the_accuracy_is_that_of_the_test_pictures_of_the_classes_seen(finished):
    """As many right as whole pictures, of the count of these classes."""
    workdir, results = finished
    labels = Run(build_config(SETTINGS), workdir, quiet=True).data.test.labels
    for number, order in enumerate(results["orders"]):
        for step, count in enumerate(COUNTS):
            pictures = int(torch.isin(labels, torch.tensor(order[:count])).sum())
            for row in results["rows"]:
                right = row["steps"][step]["values"][number] * pictures / 100
                assert right == pytest.approx(round(right), abs=1e-6)


def test_random_pictures_with_hard_labels_need_no_teacher(tmp_path):
    settings = {
        "method": "random-hard",
        "evaluation": {"loss": "hard", "hard_target": "mixed"},
        "baselines": {"methods": []},
        "continual": {"steps": 5, "orders": 1, "methods": []},
    }
    results = run_continual(merge(SETTINGS, settings), tmp_path, quiet=True)
    assert [row["method"] for row in results["rows"]] == ["random-hard"]
    assert results["rows"][0]["average"]["mean"] == pytest.approx(
        fmean(step["mean"] for step in results["rows"][0]["steps"])
    )
    assert not (tmp_path / "squeeze").exists()


def test_students_learn(tmp_path):
    """Real pictures, two digits more a step: far above chance, and fewer right of more classes."""
    settings = {
        "ipc": 10,
        "evaluation": {"loss": "hard", "optimizer": {"lr": 0.02}},
        "labels": {
            "epochs": 60,
            "full_batch_up_to": 100,
            "views": {"crop": "none", "flip": False, "cutmix": 0},
        },
        "method": "random-hard",
        "baselines": {"methods": []},
        "continual": {"steps": 5, "orders": 1, "methods": []},
    }
    row = run_continual(merge(SETTINGS, settings), tmp_path, quiet=True)["rows"][0]
    first, last = row["steps"][0]["mean"], row["steps"][-1]["mean"]
    assert first >= 85
    assert last >= 50  # chance is 10
    assert first > last


# What is made again


def test_a_file_in_the_place_of_the_results_is_told_before_any_training(tmp_path):
    workspace = Workspace(tmp_path)
    workspace.claim()
    workspace.continual.write_text("of the user")
    with pytest.raises(ArtifactError, match=r"continual\.json is in the way"):
        run_continual(SETTINGS, tmp_path, quiet=True)
    assert not (tmp_path / "squeeze").exists()


def test_a_finished_one_is_not_made_again(finished, monkeypatch):
    workdir, results = finished
    before = {path: path.read_bytes() for path in (workdir / "continual").iterdir()}

    def forbidden(*_arguments, **_options):
        raise AssertionError("nothing is to be trained")

    monkeypatch.setattr(continual, "train_student", forbidden)
    assert run_continual(SETTINGS, workdir, quiet=True) == results
    fewer = run_continual(merge(SETTINGS, {"continual": {"orders": 1}}), workdir, quiet=True)
    assert fewer["rows"][0]["steps"][0]["values"] == results["rows"][0]["steps"][0]["values"][:1]
    assert fewer["rows"][0]["average"]["std"] is None
    run_continual(SETTINGS, workdir, quiet=True)
    assert {path: path.read_bytes() for path in (workdir / "continual").iterdir()} == before


@pytest.mark.parametrize(
    ("settings", "trained"),
    [
        ({"continual": {"steps": 5}}, {2, 4, 6, 8, 10} - set(COUNTS)),
        ({"continual": {"epochs": 3}}, set(COUNTS)),
        ({"evaluation": {"gamma": 0.5}}, set(COUNTS)),
        ({"evaluation": {"tests": 2, "seeds": 4}}, set()),
        ({"baselines": {"methods": []}}, set()),
    ],
)
def test_a_changed_setting_makes_what_it_must(finished, monkeypatch, settings, trained):
    workdir, _ = finished
    run = Run(build_config(merge(SETTINGS, settings)), workdir, quiet=True)
    protocol = continual.Protocol(run)
    asked = set()

    def deal(missing, *_):
        asked.update(training.of[2] for training in missing)
        return iter(())

    monkeypatch.setattr(run.team, "deal", deal)
    with suppress(ArtifactError):  # there are no results of those that were not trained
        protocol._curves([protocol._image_set(run.config, 0)], STUDENT)
    assert asked == trained


def stopping(calls):
    """A hook that lets all networks together answer so many times."""
    left = itertools.count(calls, -1)

    def stop(_module, _arguments):
        if next(left) <= 0:
            raise StoppedError

    return stop


@pytest.mark.parametrize("every", [1, 3])
def test_stopped_and_resumed_results_are_the_same_files(
    every, finished, tmp_path, checkpoint_every, monkeypatch
):
    """Stops in the first training, at its test, and within later ones."""
    whole, results = finished
    checkpoint_every(every)
    for calls in (1, 2, 6, 20):
        with monkeypatch.context() as patch:
            stop = stopping(calls)

            def build(*arguments, stop=stop, **options):
                model = build_backbone(*arguments, **options)
                model.register_forward_pre_hook(stop)
                return model

            patch.setattr(gvbsm.stages.evaluation, "build_backbone", build)
            with pytest.raises(StoppedError):
                run_continual(SETTINGS, tmp_path, quiet=True)
        assert not (tmp_path / "continual.json").exists()
    again = run_continual(SETTINGS, tmp_path, quiet=True)
    assert [{**row, "seconds": 0} for row in again["rows"]] == [
        {**row, "seconds": 0} for row in results["rows"]
    ]
    files = sorted(path.name for path in (whole / "continual").iterdir())
    assert sorted(path.name for path in (tmp_path / "continual").iterdir()) == files
    for name in files:
        assert (tmp_path / "continual" / name).read_bytes() == (
            whole / "continual" / name
        ).read_bytes()


# Faults and the command


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"continual": {"steps": 11}}, "steps is 11, but there are 10 classes"),
        ({"continual": {"steps": 10}, "ipc": 1}, "has a single image"),
        ({"continual": {"students": ["resnet8"]}}, "did you mean resnet18"),
        ({"method": "sre2l", "baselines": {"methods": []}}, r"set continual\.methods to \[\]"),
        ({"continual": {"methods": ["forgetting-soft"]}}, r"coreset\.epochs must be at least 2"),
        (
            {"continual": {"students": ["resnet18"]}, "evaluation": {"micro_batch": 1}},
            "leave one picture at once: resnet18",
        ),
    ],
)
def test_what_cannot_succeed_is_told_before_any_work(tmp_path, settings, words):
    with pytest.raises(ValueError, match=words) as caught:
        run_continual(merge(SETTINGS, settings), tmp_path, quiet=True)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "squeeze").exists()


@pytest.mark.parametrize(
    ("section", "words"),
    [
        ({"steps": 0}, r"continual\.steps must be positive"),
        ({"orders": -1}, r"continual\.orders must be positive"),
        ({"epochs": 0}, r"continual\.epochs must be positive"),
        ({"min_steps": -1}, r"continual\.min_steps must not be negative"),
        ({"students": []}, r"continual\.students is empty"),
        ({"methods": ["full"]}, r"continual\.methods"),
    ],
)
def test_faults_of_the_settings(section, words):
    with pytest.raises(ConfigError, match=words):
        build_config({"continual": section})


def test_baselines_presets_bring_no_rivals():
    config = build_config(SETTINGS)
    for method in ("sre2l", "random-soft", "random-hard"):
        assert for_method(config, method).continual.methods == ()


def test_the_command_on_digits(tmp_path, capsys):
    options = f"""--quiet --device cpu --ipc 1
        --squeeze.backbones [{STUDENT}] --squeeze.epochs 1 --synthesis.iterations 1
        --continual.min_steps 0 --continual.steps 2 --continual.orders 1 --continual.epochs 1
        --continual.students [{STUDENT}] --continual.methods [random-hard]"""
    argv = ["digits", "--workdir", str(tmp_path), *options.split()]
    assert main(["continual", *argv]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    lines = out.splitlines()
    assert lines[0].split() == ["method", "student", "ipc", "5", "10", "average"]
    rows = read_json(tmp_path / "continual.json")["rows"]
    for line, row in zip(lines[2:4], rows, strict=True):
        accuracies = [*(step["mean"] for step in row["steps"]), row["average"]["mean"]]
        shown = [f"{value:.1f}" for value in accuracies]
        assert line.split() == [row["method"], STUDENT, "1", *shown]
    assert lines[5] == "top-1 % by classes seen, 1 order of the classes"
    assert re.search(r"teachers.*know all classes from the start", out)
    assert str(tmp_path / "continual.json") in out

    assert main(["show", str(tmp_path)]) == 0
    shown, _ = capsys.readouterr()
    assert "\n".join(lines[:7]) in shown
    assert main(["continual", *argv, "--continual.steps", "11"]) == 2
    assert capsys.readouterr().err.count("\n") == 1
