"""Training on anyone's set: its labels and settings, stops, and the real test pictures."""

import logging
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

import gvbsm.exchange.train
from gvbsm.backbones import build_backbone
from gvbsm.config import ConfigError, EvaluationConfig, LabelsConfig, OptimizerConfig, ViewConfig
from gvbsm.data.epochs import view_batch
from gvbsm.engine.device import resolve_runtime
from gvbsm.engine.seeds import seeded
from gvbsm.exchange.export import export
from gvbsm.exchange.train import train
from gvbsm.files.artifacts import read_json
from gvbsm.files.tensors import load_tensors, save
from gvbsm.stages.labels import LabelTask, generate_labels
from gvbsm.store.distilled import load_distilled
from gvbsm.store.training_settings import settle
from support.distilled_files import save_images
from support.toy import CONVNET, StoppedError, stop_after

VIEWS = {"crop": "pad", "padding": 1, "flip": True, "cutmix": 1.0}
GIVEN = {"device": "cpu", "evaluation": {"tests": 2}, "data": {"name": "toy"}}


@pytest.fixture
def workdir(data, teachers, runtime, tmp_path):
    """Eight images of four classes with labels of six epochs, and settings in their recipe."""
    config = LabelsConfig(epochs=6, views=ViewConfig(**VIEWS))
    order = data.train.labels[:8].argsort(stable=True)  # class by class
    images = data.train.images[order]
    recipe = {"stage": "labels", "labels": {"epochs": 6, "views": VIEWS, "full_batch_up_to": 3}}
    save_images(
        tmp_path / "w" / "synthesis" / "images.safetensors",
        "gvbsm",
        {"ipc": 2},
        images,
        data.train.labels[order],
        data,
    )
    task = LabelTask(images, 4, config, data.normalization)
    generate_labels(task, list(teachers.values()), runtime, tmp_path / "w" / "labels", recipe)
    return tmp_path / "w"


@pytest.fixture(autouse=True)
def _toy_pictures(data, monkeypatch):
    monkeypatch.setattr(gvbsm.exchange.train, "load_data", lambda *_: data)


def test_a_student_learns_and_its_weights_are_those_that_were_tested(workdir, data, tmp_path):
    out = tmp_path / "s.safetensors"
    given = {**GIVEN, "evaluation": {"tests": 2, "optimizer": {"lr": 0.01}, "batch_size": 4}}
    found = train(workdir, CONVNET, out, given, quiet=True)
    assert found["epochs"] == [3, 6]
    assert found["losses"][-1] < found["losses"][0]
    assert read_json(out.with_suffix(".json")) == found
    tensors, header = load_tensors(out, "student")
    assert (header["backbone"], header["class_names"]) == (CONVNET, list(data.class_names))
    model = build_backbone(CONVNET, 4, 8)
    model.load_state_dict(tensors)
    mean, std = (torch.tensor(part)[:, None, None] for part in (header["mean"], header["std"]))
    with torch.no_grad():
        guess = model.eval()((data.test.images / 255 - mean) / std).argmax(1)
    assert found["top1"][-1] == pytest.approx(100 * (guess == data.test.labels).float().mean())
    assert torch.tensor(found["confusion"]).trace() == (guess == data.test.labels).sum()


def test_the_test_pictures_may_come_from_python(workdir, data, tmp_path, monkeypatch):
    named = train(workdir, CONVNET, tmp_path / "a.safetensors", GIVEN, quiet=True)
    monkeypatch.undo()  # reads what is passed
    pictures = (data.train.images, data.train.labels, data.test.images, data.test.labels)
    given, out = {"device": "cpu", "evaluation.tests": 2}, tmp_path / "b.safetensors"
    found = train(workdir, CONVNET, out, given, quiet=True, data=pictures)
    assert found["confusion"] == named["confusion"]
    assert load_tensors(out, "student")[1]["test"]["dataset"] == "memory"


def test_its_first_loss_is_that_of_the_stored_labels(workdir, tmp_path):
    """Eq. 11 by hand, on views that change nothing and one batch of all images."""
    distilled = load_distilled(workdir)
    given = {"device": "cpu", "labels": {"epochs": 1, "full_batch_up_to": 8}}
    found = train(workdir, CONVNET, tmp_path / "s.safetensors", given, quiet=True)
    with seeded(0, "train", CONVNET):
        model = build_backbone(CONVNET, 4, 8)
    stored = distilled.soft_labels.read(0)
    plan, _ = distilled.soft_labels.epoch(0)
    runtime = resolve_runtime("cpu", "fp32", 0, 60, True)
    normal = distilled.normalization
    pictures = view_batch(distilled.images, plan, plan.order, normal, runtime)
    logits = model(pictures).detach()
    expected = F.mse_loss(logits, stored["logits"][plan.order].float())
    expected += 0.15 * F.cross_entropy(logits, distilled.labels[plan.order])
    assert found["losses"] == [pytest.approx(float(expected), rel=1e-5)]
    assert found["top1"] == []  # nothing to test on was named


def test_stopped_and_resumed_it_ends_in_the_same_bytes(
    workdir, tmp_path, checkpoint_every, monkeypatch
):
    checkpoint_every(2)
    whole = tmp_path / "a.safetensors"
    train(workdir, CONVNET, whole, GIVEN, quiet=True)
    built = []

    def build(*arguments):
        built.append(build_backbone(*arguments))
        return built[-1]

    def place(runtime, model):
        stop_after(5, model)
        return model

    out = tmp_path / "b.safetensors"
    with monkeypatch.context() as patch:
        patch.setattr(gvbsm.exchange.train.Runtime, "place", place)
        with pytest.raises(StoppedError):
            train(workdir, CONVNET, out, GIVEN, quiet=True)
    assert not out.exists()
    assert (tmp_path / "b.partial.safetensors").is_file()
    train(workdir, CONVNET, out, GIVEN, quiet=True)
    assert out.read_bytes() == whole.read_bytes()
    assert not (tmp_path / "b.partial.safetensors").exists()


def test_what_is_done_is_not_done_again_nor_overwritten(workdir, tmp_path, monkeypatch):
    out = tmp_path / "s.safetensors"
    first = train(workdir, CONVNET, out, GIVEN, quiet=True)
    with monkeypatch.context() as patch:
        patch.setattr(gvbsm.exchange.train, "fit_student", None)
        assert train(workdir, CONVNET, out, GIVEN, quiet=True) == first
    for source, given in ((workdir, {**GIVEN, "seed": 1}), (workdir, {"device": "cpu"})):
        with pytest.raises(ConfigError, match="trained in another way"):
            train(source, CONVNET, out, given, quiet=True)
    with pytest.raises(ConfigError, match="must name a"):
        train(workdir, CONVNET, tmp_path / "s.pt", GIVEN, quiet=True)


def test_labels_with_other_numbers_are_another_training(workdir, tmp_path):
    """The files have the same names and sizes; the recipe holds their checksums."""
    out = tmp_path / "s.safetensors"
    train(workdir, CONVNET, out, GIVEN, quiet=True)
    shard = next((workdir / "labels").glob("*.safetensors"))
    tensors, header = load_tensors(shard, "labels")
    size = shard.stat().st_size
    save(shard, {**tensors, "logits": tensors["logits"] + 1}, header)
    assert shard.stat().st_size == size
    with pytest.raises(ConfigError, match="trained in another way"):
        train(workdir, CONVNET, out, GIVEN, quiet=True)


def test_exported_it_trains_the_same_student(workdir, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    first = train(workdir, CONVNET, tmp_path / "a.safetensors", GIVEN, quiet=True)
    for form, name in (("safetensors", "e.safetensors"), ("folder", "e")):
        out = export(workdir, form, tmp_path / name, quiet=True)
        again = train(out, CONVNET, tmp_path / f"{form}.safetensors", GIVEN, quiet=True)
        assert (again["losses"], again["confusion"]) == (first["losses"], first["confusion"])
    folder = export(workdir, "folder", tmp_path / "hard", soft_labels=False, quiet=True)
    given = {**GIVEN, "labels": {"epochs": 2}}
    hard = train(folder, CONVNET, tmp_path / "c.safetensors", given, quiet=True)
    assert len(hard["losses"]) == 2
    assert hard["recipe"]["evaluation"]["loss"] == "hard"


# Settings


@pytest.fixture
def described(workdir):
    distilled = load_distilled(workdir)
    settings = {
        "seed": 5,
        "labels": {"epochs": 9, "views": {"crop": "none"}, "backbones": ["wrn16_2"]},
        "evaluation": {
            "loss": "kl",
            "temperature": 5.0,
            "seeds": 4,
            "lr_of": {"resnet18": 0.5},
            "optimizer": {"name": "sgd", "lr": 0.1},
        },
    }
    return replace(distilled, header={**distilled.header, "settings": settings})


def test_what_is_recorded_is_the_default(described):
    config = settle({"evaluation": {"optimizer": {"momentum": 0.5}}}, described)
    expected = OptimizerConfig(name="sgd", lr=0.1, momentum=0.5)
    assert (config.evaluation.loss, config.evaluation.temperature) == ("kl", 5.0)
    assert config.evaluation.optimizer == expected
    assert config.labels.epochs == 6  # as many as are stored
    assert settle({}, described, "resnet18").evaluation.optimizer.lr == 0.5
    assert (settle({}, described).seed, settle({"seed": 3}, described).seed) == (5, 3)
    described.header["settings"]["labels"]["seed"] = 9  # of the labels' views
    assert settle({}, described).seed == 9
    given = {"evaluation": {"optimizer": {"lr": 0.3}, "loss": "hard"}}
    config = settle(given, described, "resnet18").evaluation
    assert (config.optimizer.lr, config.loss) == (0.3, "hard")


def test_test_pictures_are_cut_as_those_of_the_run_unless_asked_otherwise(described):
    def crop(given, data):
        settings = {**described.header["settings"], "data": data}
        return settle(given, replace(described, header={"settings": settings})).data.test_crop

    recorded = {"test_crop": 0.875, "name": "imagenet-1k"}
    assert crop({}, recorded) == 0.875
    assert crop({"data": {"name": "toy"}}, recorded) == 0.875
    assert crop({"data": {"test_crop": 0.5}}, recorded) == 0.5
    assert crop({}, {}) == 1
    with pytest.raises(ConfigError, match=r"data\.test_crop must be in \(0, 1\], got 2"):
        crop({}, {"test_crop": 2.0})


def test_pictures_that_the_run_held_out_are_held_out_again(described):
    """Others are training pictures of its teachers."""
    recorded = {**described.header["settings"], "data": {"val_fraction": 0.5, "split_seed": 3}}
    known = replace(described, header={"settings": recorded})
    data = settle({"data": {"root": "/elsewhere"}}, known).data
    assert (data.val_fraction, data.split_seed) == (0.5, 3)
    data = settle({"data": {"split_seed": 1}}, known).data
    assert (data.val_fraction, data.split_seed) == (0.5, 1)


def test_a_set_that_was_labeled_by_the_batch_is_trained_on_in_these_batches(described):
    def settled(given, **labels):
        how = {"batchnorm": "batch", "batch_size": 4, "full_batch_up_to": 0, **labels}
        settings = {"labels": how, "evaluation": {"batch_size": 4}}
        return settle(given, replace(described, header={**described.header, "settings": settings}))

    other = {"evaluation": {"batch_size": 8}}
    assert settled({}).evaluation.batch_size == 4
    for given in (other, {"labels": {"full_batch_up_to": 8}}):  # of eight images
        with pytest.raises(ConfigError, match=r"in batches of 4 .* batches of 8: set .*size to 4"):
            settled(given)
    settled(other, batchnorm="running")
    settled(other, full_batch_up_to=8)  # all at once whatever the batches
    settled({"evaluation": {"batch_size": 8, "loss": "hard"}})


def test_without_soft_labels_they_are_hard(described):
    bare = replace(described, soft_labels=None)
    config = settle({}, bare)
    assert (config.evaluation.loss, config.evaluation.hard_target) == ("hard", "mixed")
    assert config.labels.epochs == 9
    assert config.labels.views.crop == "none"
    assert settle({"labels": {"min_steps": 20}}, bare).labels.epochs == 20
    with pytest.raises(ConfigError, match="needs soft labels, and this set has none"):
        settle({"evaluation": {"loss": "kl"}}, bare)
    nothing = settle({}, replace(bare, header={}))
    assert nothing.labels == LabelsConfig()
    assert nothing.evaluation == EvaluationConfig(loss="hard", hard_target="mixed")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"labels": {"epochs": 7}}, "soft labels for 6 epochs"),
        ({"labels": {"store": False}}, "does not read labels.store"),
        ({"evaluation": {"seeds": 2}}, "does not read evaluation.seeds"),
        ({"synthesis": {}}, "does not read synthesis"),
        ({"evaluation": {"gama": 2}}, "does not read evaluation.gama"),
        ({"evaluation": {"batch_size": 0}}, "batch_size must be positive"),
    ],
)
def test_faults(given, message, described):
    with pytest.raises(ConfigError, match=message):
        settle(given, described)


def test_the_test_pictures_are_seen_as_the_set_s(workdir, data, tmp_path, monkeypatch, caplog):
    first = train(workdir, CONVNET, tmp_path / "a.safetensors", GIVEN, quiet=True)

    def with_names(names, label_of):
        labels = torch.tensor(label_of)[data.test.labels]
        test = replace(data.test, labels=labels)
        bright = replace(data.normalization, mean=(9, 9, 9))
        other = replace(data, class_names=names, test=test, normalization=bright)
        monkeypatch.setattr(gvbsm.exchange.train, "load_data", lambda *_: other)
        return tmp_path / f"{names[0]}.safetensors"

    out = with_names(("dog", "cat", "bee", "ant"), [3, 2, 1, 0])
    assert train(workdir, CONVNET, out, GIVEN, quiet=True)["confusion"] == first["confusion"]
    out = with_names(("n1", "n2", "n3", "n4"), [0, 1, 2, 3])
    with caplog.at_level(logging.WARNING):
        assert train(workdir, CONVNET, out, GIVEN, quiet=True)["confusion"] == first["confusion"]
    assert "class 0 is 'ant' in the set and 'n1' in the test pictures" in caplog.text
    out = with_names(("1", "10", "2", "3"), [0, 2, 3, 1])  # as folders list them
    assert train(workdir, CONVNET, out, GIVEN, quiet=True)["confusion"] == first["confusion"]
    other = replace(data, class_names=("a", "b"))
    monkeypatch.setattr(gvbsm.exchange.train, "load_data", lambda *_: other)
    with pytest.raises(ConfigError, match="4 classes, the pictures of toy 2"):
        train(workdir, CONVNET, tmp_path / "x.safetensors", GIVEN, quiet=True)
    monkeypatch.setattr(gvbsm.exchange.train, "load_data", lambda *_: replace(data, channels=1))
    with pytest.raises(ConfigError, match=r"3 channels, the pictures of toy 1"):
        train(workdir, CONVNET, tmp_path / "x.safetensors", GIVEN, quiet=True)
    wrong = {**GIVEN, "data": {"name": "toy", "image_size": 9}}
    with pytest.raises(ConfigError, match="must be the set's, 8, got 9"):
        train(workdir, CONVNET, tmp_path / "x.safetensors", wrong, quiet=True)
    with pytest.raises(ConfigError, match="unknown backbone"):
        train(workdir, "resnet18x", tmp_path / "x.safetensors", GIVEN, quiet=True)
