"""Stored labels: what the teachers say of each view, by image, whatever the batches and stops."""

from dataclasses import replace

import pytest
import torch

import gvbsm.labels
import reference
from conftest import CONVNET, WRN, StoppedError, stop_after
from gvbsm.config import LabelsConfig, ViewConfig
from gvbsm.distilled import load_labels
from gvbsm.epochs import draw_plan, unpack_plan, view_batch
from gvbsm.evaluation import Labeller
from gvbsm.labels import generate_labels
from gvbsm.memory import InParts
from gvbsm.runtime import RunError

COUNT = 12
CONFIG = LabelsConfig(
    epochs=5,
    batch_size=5,  # 5 + 5 + 2
    full_batch_up_to=0,
    views=ViewConfig(crop="resized", scale=(0.3, 1.0), roll=2, cutmix=1.0),
)


@pytest.fixture(autouse=True)
def _two_epochs_a_shard(monkeypatch):
    monkeypatch.setattr(gvbsm.labels, "SHARD_BYTES", COUNT * 4 * 2 * 2)


@pytest.fixture
def label(data, teachers, runtime, tmp_path):
    """Call it to label the first twelve pictures; `names` are the teachers."""

    def run(config=CONFIG, folder="labels", names=(CONVNET, WRN), recipe=None, count=COUNT):
        return generate_labels(
            data.train.images[:count], 4, [teachers[name] for name in names], config,
            (data.mean, data.std), runtime, tmp_path / folder, recipe or {"toy": 1},
        )  # fmt: skip

    return run


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def logits_one_by_one(data, plan, model, runtime):
    """A teacher's logits of each image's view, each alone in its batch: (images, classes)."""
    normalization = (data.mean, data.std)
    return torch.cat(
        [
            model(view_batch(data.train.images[:COUNT], plan, index, normalization, runtime))
            for index in torch.arange(COUNT).split(1)
        ]
    )


def test_logits_belong_to_images_whatever_the_batch(label, data, teachers, runtime):
    labels = label()
    assert (labels.epochs, labels.shard_epochs, labels.images, labels.classes) == (5, 2, 12, 4)
    for epoch in range(5):
        stored, plan = labels.read(epoch), draw_plan(COUNT, 8, CONFIG.views, epoch, runtime)
        alone = [logits_one_by_one(data, plan, model, runtime) for model in teachers.values()]
        expected = reference.ensemble_logits(alone, normalize=False)
        assert stored["logits"].dtype == torch.float16
        torch.testing.assert_close(stored["logits"].double(), expected, rtol=2**-9, atol=2e-3)
        assert (expected[0] - expected[1:]).abs().amax(dim=1).min() > 0.01  # images differ
        for ours, theirs in zip(
            [part for group in unpack_plan(stored)[1:] for part in group],
            [part for group in plan[1:] for part in group],
            strict=True,
        ):
            assert torch.equal(ours, theirs)
        assert torch.equal(stored["order"].long(), plan.order)


@pytest.mark.parametrize("normalized", [True, False])
def test_logit_normalization_is_over_the_batch(normalized, label, data, teachers, runtime):
    labels = label(replace(CONFIG, logit_normalization=normalized))
    plan = draw_plan(COUNT, 8, CONFIG.views, 0, runtime)
    alone = [logits_one_by_one(data, plan, model, runtime) for model in teachers.values()]
    stored = labels.read(0)["logits"]
    for index in (plan.order[:5], plan.order[5:10], plan.order[10:]):
        parts = [logits[index] for logits in alone]
        expected = reference.ensemble_logits(parts, normalized)
        torch.testing.assert_close(stored[index].double(), expected, rtol=2**-9, atol=2e-3)
        other = reference.ensemble_logits(parts, not normalized)
        assert (stored[index].double() - other).abs().max() > 0.02


@pytest.mark.parametrize("batch_size", [2, 5, 12])
@pytest.mark.parametrize("normalized", [True, False])
def test_stored_equal_online(batch_size, normalized, label, data, teachers, runtime, tmp_path):
    config = replace(CONFIG, batch_size=batch_size, logit_normalization=normalized)
    label(config)
    stored = load_labels(tmp_path / "labels")  # through the index on disk
    online = Labeller(COUNT, 8, config, runtime, None, list(teachers.values()))
    replayed = Labeller(COUNT, 8, config, runtime, stored, [])
    for epoch in range(config.epochs):
        plan, none = online.epoch(epoch)
        twin, kept = replayed.epoch(epoch)
        assert none is None
        for ours, theirs in zip(plan, twin, strict=True):
            parts = ([ours], [theirs]) if isinstance(ours, torch.Tensor) else (ours, theirs)
            assert all(torch.equal(a, b) for a, b in zip(*parts, strict=True))
        for index in plan.order.split(batch_size):
            pictures = view_batch(
                data.train.images[:COUNT], plan, index, (data.mean, data.std), runtime
            )
            ours = online.logits(pictures, none, index)
            theirs = replayed.logits(pictures, kept, index)
            assert torch.equal(ours, theirs)
            assert torch.equal(ours.half().float(), ours)
            assert ours.dtype == theirs.dtype == torch.float32


def test_labeller__without_teachers_has_hard_labels_alone(runtime):
    labeller = Labeller(COUNT, 8, CONFIG, runtime, None, [])
    assert labeller.logits(torch.zeros(2, 3, 8, 8), None, torch.tensor([0, 1])) is None


def test_deleted_shards_are_made_again_and_no_others(label, teachers, tmp_path):
    label()
    folder = tmp_path / "labels"
    expected = contents(folder)
    assert sorted(expected) == ["index.json", *(f"shard-{i:05d}.safetensors" for i in range(3))]
    (folder / "shard-00001.safetensors").unlink()
    (folder / "index.json").unlink()
    calls = []
    with teachers[WRN].register_forward_pre_hook(lambda *_: calls.append(1)):
        label()
    assert len(calls) == 2 * 3  # two epochs of three batches
    assert contents(folder) == expected


@pytest.mark.parametrize("calls", [0, 4, 6, 14])
def test_stopped_and_resumed_labels_are_the_same_files(calls, label, teachers, tmp_path):
    label(folder="whole")
    with stop_after(calls, teachers[WRN]), pytest.raises(StoppedError):
        label()
    made = [path.name for path in (tmp_path / "labels").glob("*")]
    assert len(made) == calls // 6  # whole shards and nothing else
    label()
    assert contents(tmp_path / "labels") == contents(tmp_path / "whole")


def test_stale_shards_go_when_epochs_shrink(label, tmp_path):
    label()
    fewer = replace(CONFIG, epochs=2)
    label(fewer, recipe={"toy": 2})
    assert sorted(contents(tmp_path / "labels")) == ["index.json", "shard-00000.safetensors"]
    label(fewer, folder="fresh", recipe={"toy": 2})
    assert contents(tmp_path / "labels") == contents(tmp_path / "fresh")
    assert load_labels(tmp_path / "labels").epochs == 2


def test_other_recipes_are_labelled_anew(label, tmp_path):
    label(names=[CONVNET])
    label(recipe={"toy": 2})
    label(folder="fresh", recipe={"toy": 2})
    assert contents(tmp_path / "labels") == contents(tmp_path / "fresh")


def test_logits_that_are_not_finite_stop_the_run(label, teachers, tmp_path):
    teachers[CONVNET].get_parameter("classifier.bias").data[0] = 1e6  # beyond float16
    with pytest.raises(RunError, match=r"labels of epoch 0: .*inf.*teachers"):
        label()
    assert not (tmp_path / "labels" / "index.json").exists()


def test_every_image_has_labels(label):
    """Nothing asks for `evaluation.batch_size` to be that of labelling, so all may be trained."""
    labels = label(count=11)  # 5 + 5 + 1
    for epoch in range(labels.epochs):
        assert labels.read(epoch)["logits"].any(dim=1).all()


@pytest.mark.parametrize("normalized", [True, False])
def test_out_of_memory__norms_are_those_of_the_whole_batch(
    normalized, label, teachers, monkeypatch
):
    config = replace(CONFIG, logit_normalization=normalized, epochs=2)
    whole = label(config, folder="whole").read(1)["logits"]

    def full(_module, given):
        if len(given[0]) > 2:  # of a batch of 5, halves and quarters remain
            raise torch.OutOfMemoryError

    for name, model in teachers.items():
        model.register_forward_pre_hook(full)
        monkeypatch.setitem(teachers, name, InParts(model))
    cut = label(config, folder="cut").read(1)["logits"]
    torch.testing.assert_close(cut, whole, rtol=2**-10, atol=1e-4)
