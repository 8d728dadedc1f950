"""Squeeze: a teacher that is trained on the toy set knows it, and is the one that was saved."""

import math
from dataclasses import replace

import pytest
import torch
from torch import nn

import gvbsm.stages.squeeze
from gvbsm.backbones import build_backbone
from gvbsm.config import OptimizerConfig, SqueezeConfig, ViewConfig
from gvbsm.data.loading import plain_batches
from gvbsm.engine.accuracy import accuracy
from gvbsm.engine.device import RunError
from gvbsm.engine.seeds import seeded
from gvbsm.files.artifacts import read_header
from gvbsm.stages.squeeze import squeeze_teacher
from gvbsm.stages.supervised import PictureTraining
from gvbsm.store.teachers import load_teacher
from support.toy import CONVNET, WRN, StoppedError, keep_built, stop_after

PLAIN = ViewConfig(crop="none", flip=False)
PADDED = ViewConfig(crop="pad", padding=1, flip=False)
CONFIG = SqueezeConfig(
    epochs=6,
    batch_size=16,
    optimizer=OptimizerConfig(name="adam", lr=0.01, weight_decay=1e-4),
    views=PADDED,
    tests=3,
)


def squeezed(backbone, data, config, runtime, path):
    task = PictureTraining("squeeze", backbone, config)
    squeeze_teacher(task, data, runtime, path, {"stage": "squeeze"})
    return path


@pytest.mark.parametrize("backbone", [CONVNET, WRN])
def test_teacher_learns_and_the_last_epoch_is_saved(backbone, data, runtime, tmp_path):
    config = replace(CONFIG, epochs=12)
    path = squeezed(backbone, data, config, runtime, tmp_path / "teacher.safetensors")
    loaded = load_teacher(path, data, runtime)
    found = accuracy(loaded, plain_batches(data, data.test, 5, runtime, workers=0), runtime)
    history = read_header(path)["history"]
    assert history["epochs"] == [4, 8, 12]
    assert history["top1"][-1] == found
    assert found >= 75.0  # chance is 25
    assert history["losses"][-1] < history["losses"][0]
    assert list(tmp_path.iterdir()) == [path]  # no checkpoint is left behind


def test_loaded_logits_are_the_trained_ones(data, runtime, tmp_path, monkeypatch):
    built = keep_built(monkeypatch, gvbsm.stages.squeeze)
    path = squeezed(WRN, data, CONFIG, runtime, tmp_path / "teacher.safetensors")
    pictures = next(plain_batches(data, data.test, 16, runtime, workers=0))[0]
    (trained,) = built
    assert torch.equal(load_teacher(path, data, runtime)(pictures), trained.eval()(pictures))


def test_stopped_and_resumed_teachers_are_the_same_file(data, runtime, tmp_path, monkeypatch):
    expected = squeezed(WRN, data, CONFIG, runtime, tmp_path / "whole.safetensors").read_bytes()
    path, often = tmp_path / "teacher.safetensors", replace(runtime, checkpoint_seconds=0)
    for calls in (0, 2, 4, 1):  # an epoch is 3 steps, and then, every second time, a test
        with monkeypatch.context() as patch:
            keep_built(patch, gvbsm.stages.squeeze, calls=calls)
            with pytest.raises(StoppedError):
                squeezed(WRN, data, CONFIG, often, path)
        assert not path.exists()
    assert squeezed(WRN, data, CONFIG, often, path).read_bytes() == expected


def test_seed_decides(data, runtime, tmp_path):
    one_epoch = replace(CONFIG, epochs=1)
    runs = (runtime, runtime, replace(runtime, seed=8))
    files = [
        squeezed(CONVNET, data, one_epoch, run, tmp_path / f"{index}.safetensors").read_bytes()
        for index, run in enumerate(runs)
    ]
    assert files[0] == files[1]
    assert files[0] != files[2]


def test_divergence_names_the_teacher_and_its_learning_rate(data, runtime, tmp_path):
    wild = replace(CONFIG, optimizer=OptimizerConfig(name="sgd", lr=1e30))
    with pytest.raises(RunError, match=rf"squeeze {CONVNET}: .* learning rate \(1e\+30\)"):
        squeezed(CONVNET, data, wild, runtime, tmp_path / "teacher.safetensors")
    assert not (tmp_path / "teacher.safetensors").exists()


def test_first_loss_is_the_cross_entropy_of_the_fresh_network(data, runtime, tmp_path, monkeypatch):
    with seeded(0, "fresh"):
        fresh = build_backbone(CONVNET, 4, 8)
    before = {name: value.clone() for name, value in fresh.state_dict().items()}
    monkeypatch.setattr(gvbsm.stages.squeeze, "build_backbone", lambda *_, **__: fresh)
    one_step = replace(CONFIG, epochs=1, batch_size=40, views=PLAIN)
    path = squeezed(CONVNET, data, one_step, runtime, tmp_path / "teacher.safetensors")
    again = build_backbone(CONVNET, 4, 8)
    again.load_state_dict(before)
    pictures, labels = next(plain_batches(data, data.train, 40, runtime, workers=0))
    expected = 0.0
    for logits, label in zip(again(pictures).tolist(), labels.tolist(), strict=True):
        expected += (math.log(sum(map(math.exp, logits))) - logits[label]) / 40
    assert read_header(path)["history"]["losses"] == pytest.approx([expected], rel=1e-5)


def test_parts_of_a_batch_train_the_same_teacher(data, runtime, tmp_path, monkeypatch):
    """Of a network without BatchNorm, in steps of 16, 16 and 8 pictures."""
    sizes, losses = [], []

    def build(*arguments, **options):
        model = build_backbone(*arguments, **options)
        model.register_forward_pre_hook(
            lambda net, given: sizes.append(len(given[0])) if net.training else None
        )
        return model

    monkeypatch.setattr(gvbsm.stages.squeeze, "build_backbone", build)
    for micro_batch in (None, 6):
        config = replace(CONFIG, epochs=1, micro_batch=micro_batch)
        path = squeezed(CONVNET, data, config, runtime, tmp_path / f"{micro_batch}.safetensors")
        losses.append(read_header(path)["history"]["losses"])
    assert sizes == [16, 16, 8, 5, 5, 6, 5, 5, 6, 4, 4]
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)


def _with_dropout(_name, classes, _image_size, channels, **_options):
    return nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(channels * 64, classes))


@pytest.fixture
def dropout_logits(monkeypatch):
    """Train a teacher with dropout for two epochs of three steps; what it answers."""
    monkeypatch.setattr("gvbsm.store.teachers.build_backbone", _with_dropout)
    monkeypatch.setattr("gvbsm.store.teachers.unusable_because", lambda _header: None)

    def trained(source, runtime, path, calls=1000, tests=2):
        def build(*arguments, **options):
            model = _with_dropout(*arguments, **options)
            stop_after(calls, model)
            return model

        monkeypatch.setattr(gvbsm.stages.squeeze, "build_backbone", build)
        config = replace(CONFIG, epochs=2, views=PLAIN, tests=tests)
        squeezed("toy", source, config, runtime, path)
        return load_teacher(path, source, runtime)(torch.ones(1, 3, 8, 8))

    return trained


sources = pytest.mark.parametrize(
    "source",
    [
        "data",
        "streamed",
    ],
)


@sources
def test_dropout_goes_on_where_it_was(request, source, runtime, tmp_path, dropout_logits):
    source = request.getfixturevalue(source)
    expected = dropout_logits(source, runtime, tmp_path / "whole.safetensors")
    often, path = replace(runtime, checkpoint_seconds=0), tmp_path / "teacher.safetensors"
    with pytest.raises(StoppedError):
        dropout_logits(source, often, path, calls=2)
    assert torch.equal(dropout_logits(source, often, path), expected)


@sources
def test_number_of_tests_does_not_change_a_teacher(
    request, source, runtime, tmp_path, dropout_logits
):
    """A teacher's recipe leaves it out."""
    source = request.getfixturevalue(source)
    expected = dropout_logits(source, runtime, tmp_path / "two.safetensors", tests=2)
    found = dropout_logits(source, runtime, tmp_path / "one.safetensors", tests=1)
    assert torch.equal(found, expected)
