"""Stored labels: what the teachers say of each view, by image, whatever the batches and stops."""

import copy
from dataclasses import asdict, replace
from unittest.mock import patch

import pytest
import torch
from torch.distributed import HashStore

import gvbsm.stages.labels
from gvbsm.config import LabelsConfig, LabelStorageConfig, ViewConfig
from gvbsm.data.epochs import draw_plan, view_batch
from gvbsm.data.loading import border_color
from gvbsm.data.pixels import Normalization
from gvbsm.engine.device import RunError
from gvbsm.engine.launch import Launch
from gvbsm.engine.out_of_memory import InParts
from gvbsm.engine.processes import Processes
from gvbsm.files.artifacts import ArtifactError
from gvbsm.method.beyond.label_pool import redraw
from gvbsm.stages.labels import LabelTask, generate_labels, make_labels
from gvbsm.store.batches import Labeler
from gvbsm.store.distilled import is_whole, load_labels
from gvbsm.store.label_store import STORAGE
from gvbsm.store.plan_codec import pack_plan
from gvbsm.store.soft_labels import SoftLabels
from support import reference
from support.toy import CONVNET, WRN, StoppedError, stop_after

COUNT = 12
CONFIG = LabelsConfig(
    epochs=5,
    batch_size=5,  # 5 + 5 + 2
    full_batch_up_to=0,
    views=ViewConfig(crop="resized", scale=(0.3, 1.0), roll=2, cutmix=1.0),
)


@pytest.fixture(autouse=True)
def _two_epochs_a_shard(monkeypatch):
    monkeypatch.setattr(
        gvbsm.stages.labels, "SHARD_BYTES", 2 * COUNT * (4 * 2 + 5)
    )  # logits, views


@pytest.fixture
def label(data, teachers, runtime, tmp_path):
    """Call it to label the first twelve pictures; `names` are the teachers."""

    def run(config=CONFIG, folder="labels", names=(CONVNET, WRN), recipe=None, count=COUNT):
        task = LabelTask(data.train.images[:count], 4, config, data.normalization)
        networks = [teachers[name] for name in names]
        return generate_labels(task, networks, runtime, tmp_path / folder, recipe or {"toy": 1})

    return run


@pytest.fixture
def _batch_by_batch(monkeypatch):
    monkeypatch.setattr(gvbsm.stages.labels, "PIXELS", 1)


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def logits_one_by_one(data, plan, model, runtime):
    """A teacher's logits of each image's view, each alone in its batch: (images, classes)."""
    normalization = data.normalization
    return torch.cat(
        [
            model(view_batch(data.train.images[:COUNT], plan, index, normalization, runtime))
            for index in torch.arange(COUNT).split(1)
        ]
    )


def test_logits_are_of_views_with_the_border_that_is_asked_for(label, data, teachers, runtime):
    views, normal, index = ViewConfig(crop="pad"), data.normalization, torch.arange(COUNT)
    found = {}
    for border in ("black", "mean"):
        views = replace(views, border=border)
        plan, labels = label(replace(CONFIG, views=views), border).epoch(1)
        color = border_color(views, normal, runtime.device)
        pictures = view_batch(data.train.images[:COUNT], plan, index, normal, runtime, color)
        expected = sum(model(pictures) for model in teachers.values()) / 2
        found[border] = labels.logits(index)
        torch.testing.assert_close(found[border], expected, rtol=2**-9, atol=1e-3)
    assert (found["black"] - found["mean"]).abs().max() > 0.1


def test_logits_belong_to_images_whatever_the_batch(label, data, teachers, runtime):
    labels = label()
    assert (labels.epochs, labels.shard_epochs, labels.images, labels.classes) == (5, 2, 12, 4)
    assert labels.kept == tuple(range(5))
    for epoch in range(5):
        stored, plan = labels.read(epoch), draw_plan(COUNT, 8, CONFIG.views, epoch, runtime)
        alone = [logits_one_by_one(data, plan, model, runtime) for model in teachers.values()]
        expected = reference.ensemble_logits(alone, normalize=False)
        assert stored["logits"].dtype == torch.float16
        torch.testing.assert_close(stored["logits"].double(), expected, rtol=2**-9, atol=2e-3)
        assert (expected[0] - expected[1:]).abs().amax(dim=1).min() > 0.01  # images differ
        for ours, theirs in zip(
            [part for group in labels.epoch(epoch)[0][1:3] for part in group],
            [part for group in plan[1:3] for part in group],
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
@pytest.mark.parametrize(
    "how",
    [
        {"logit_normalization": True},
        {"logit_normalization": False},
        {"batchnorm": "batch"},
        {"batchnorm": "batch", "weights": {WRN: 2.5}, "backbones": (CONVNET, WRN)},
    ],
    ids=["norms", "plain", "batch", "weighed"],
)
def test_stored_equal_online(batch_size, how, label, data, teachers, runtime, tmp_path):
    config = replace(CONFIG, batch_size=batch_size, **how)
    label(config)
    stored = load_labels(tmp_path / "labels")  # through the index on disk
    online = Labeler(COUNT, 8, config, runtime, None, list(teachers.values()))
    replayed = Labeler(COUNT, 8, config, runtime, stored, [])
    for epoch in range(config.epochs):
        plan, none = online.joined([epoch])
        twin, kept = replayed.joined([epoch])
        assert none is None
        drawn, kept_plan = pack_plan(plan), pack_plan(twin)
        assert drawn.keys() == kept_plan.keys()
        assert all(torch.equal(part, kept_plan[name]) for name, part in drawn.items())
        for index in plan.order.split(batch_size):
            pictures = view_batch(
                data.train.images[:COUNT], plan, index, data.normalization, runtime
            )
            ours = online.logits(pictures)
            theirs = kept.logits(index)
            assert torch.equal(ours, theirs)
            assert torch.equal(ours.half().float(), ours)
            assert ours.dtype == theirs.dtype == torch.float32


def test_labeler__without_teachers_has_hard_labels_alone(runtime):
    labeler = Labeler(COUNT, 8, CONFIG, runtime, None, [])
    assert labeler.logits(torch.zeros(2, 3, 8, 8)) is None


@pytest.mark.usefixtures("_batch_by_batch")
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


@pytest.mark.usefixtures("_batch_by_batch")
@pytest.mark.parametrize("calls", [0, 4, 6, 14])
def test_stopped_and_resumed_labels_are_the_same_files(calls, label, teachers, tmp_path):
    label(folder="whole")
    with stop_after(calls, teachers[WRN]), pytest.raises(StoppedError):
        label()
    made = [path.name for path in (tmp_path / "labels").glob("*")]
    assert len(made) == 1 + calls // 6  # the index and whole shards, and nothing else
    assert not is_whole(tmp_path / "labels", {"toy": 1})
    label()
    assert contents(tmp_path / "labels") == contents(tmp_path / "whole")


def test_a_file_in_the_place_of_a_shard_is_told_before_any_is_labeled(label, tmp_path):
    folder = tmp_path / "labels"
    folder.mkdir()
    (folder / "shard-00002.safetensors").write_bytes(b"of the user")
    with pytest.raises(ArtifactError, match=r"shard-00002\.safetensors is in the way"):
        label()
    assert sorted(contents(folder)) == ["index.json", "shard-00002.safetensors"]


def test_stale_shards_go_when_epochs_shrink(label, tmp_path):
    label()
    fewer = replace(CONFIG, epochs=2)
    label(fewer, recipe={"toy": 2})
    assert sorted(contents(tmp_path / "labels")) == ["index.json", "shard-00000.safetensors"]
    label(fewer, folder="fresh", recipe={"toy": 2})
    assert contents(tmp_path / "labels") == contents(tmp_path / "fresh")
    assert load_labels(tmp_path / "labels").epochs == 2


def test_other_recipes_are_labeled_anew(label, tmp_path):
    label(names=[CONVNET])
    label(recipe={"toy": 2})
    label(folder="fresh", recipe={"toy": 2})
    assert contents(tmp_path / "labels") == contents(tmp_path / "fresh")


def test_logits_that_are_not_finite_stop_the_run(label, teachers, tmp_path):
    teachers[CONVNET].get_parameter("classifier.bias").data[0] = 1e6  # beyond float16
    with pytest.raises(RunError, match=r"labels of epoch 0: logits .*not finite.*teachers"):
        label()
    assert not is_whole(tmp_path / "labels", {"toy": 1})


def test_batchnorm_by_the_batch__is_by_the_batch_of_training(label, data, teachers, runtime):
    """Also where an epoch's batches lie in several shards; the last image is a batch by itself."""
    config = replace(CONFIG, batchnorm="batch", epochs=2)
    with patch.object(gvbsm.stages.labels, "SHARD_BYTES", 60):
        labels = label(config, names=[WRN], count=11)
    assert labels.shards_per_epoch > 1
    plan, stored = labels.epoch(1)
    model = copy.deepcopy(teachers[WRN])
    for index, training in zip(plan.order.split(5), (True, True, False), strict=True):
        pictures = view_batch(data.train.images[:11], plan, index, data.normalization, runtime)
        expected = model.train(training)(pictures).detach()
        torch.testing.assert_close(stored.logits(index), expected, rtol=2**-10, atol=1e-3)
        other = model.train(not training)(pictures).detach() if len(index) > 1 else expected + 1
        assert (stored.logits(index) - other).abs().max() > 0.02
        model = copy.deepcopy(teachers[WRN])  # without what training mode has recorded


def test_batchnorm_by_the_batch__several_processes_make_the_same_bytes(
    label, data, teachers, runtime, tmp_path
):
    class Second(Processes):
        """Takes every second piece of work, as one of two processes that are equally fast."""

        def deal(self, items, _pieces):
            return iter(items[self.rank :: 2])

        def barrier(self, meanwhile=None):
            pass

    config = replace(CONFIG, batchnorm="batch")
    label(config, folder="alone")
    for rank in (0, 1):
        process = replace(runtime, processes=Second(Launch(rank, 2, rank), HashStore()))
        task = LabelTask(data.train.images[:COUNT], 4, config, data.normalization)
        generate_labels(task, list(teachers.values()), process, tmp_path / "shared", {"toy": 1})
    assert contents(tmp_path / "shared") == contents(tmp_path / "alone")


@pytest.mark.parametrize("shard_bytes", [60, 10**6])
def test_labels_do_not_depend_on_what_is_labeled_at_once(shard_bytes, label, tmp_path, monkeypatch):
    monkeypatch.setattr(gvbsm.stages.labels, "SHARD_BYTES", shard_bytes)
    for batches in (1, 2, 100):  # at most; an epoch has three
        monkeypatch.setattr(gvbsm.stages.labels, "PIXELS", batches * 5 * 8**2)
        label(folder=str(batches))
    assert contents(tmp_path / "1") == contents(tmp_path / "2") == contents(tmp_path / "100")


def test_every_image_has_labels(label):
    """Nothing asks for `evaluation.batch_size` to be that of labeling, so all may be trained."""
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


# Schemes, and one made from another

SCHEMES = {
    "8bit": LabelStorageConfig(bits=8),
    "top2": LabelStorageConfig(top_k=2),
    "pool": LabelStorageConfig(pruning=2.5),
    "all": LabelStorageConfig(pruning=2.5, top_k=2, bits=8),
}


def stored_as(storage):
    """Settings and recipe of a scheme, as `recipes` has them."""
    return replace(CONFIG, storage=storage), {"toy": 1, STORAGE: asdict(storage)}


@pytest.fixture
def convert(runtime, tmp_path):
    """Call it to convert the labels of a folder."""

    def run(storage, folder="labels"):
        config, recipe = stored_as(storage)
        no_images = torch.zeros(0, 1, 8, 8, dtype=torch.uint8)
        task = LabelTask(no_images, 0, config, Normalization((), ()))
        where = tmp_path / folder
        return make_labels(task, pytest.fail, runtime, where, recipe, "toy", convert_only=True)

    return run


@pytest.mark.parametrize("name", SCHEMES)
@pytest.mark.parametrize("size", [10**6, 60])
def test_a_converted_store_is_the_one_that_is_made_directly(
    name, size, label, convert, tmp_path, monkeypatch
):
    label()
    monkeypatch.setattr(gvbsm.stages.labels, "SHARD_BYTES", size)
    config, recipe = stored_as(SCHEMES[name])
    made = label(config, folder="direct", recipe=recipe)
    converted = convert(SCHEMES[name])
    assert contents(tmp_path / "labels") == contents(tmp_path / "direct")
    assert is_whole(tmp_path / "labels", recipe)
    assert replace(converted, directory=made.directory) == made == load_labels(made.directory)


def test_a_pool_is_made_from_a_larger_one_and_keeps_its_codes(label, convert, tmp_path):
    small = replace(SCHEMES["all"], pruning=5.0)
    for folder, storage in (("large", SCHEMES["all"]), ("small", small)):
        config, recipe = stored_as(storage)
        label(config, folder=folder, recipe=recipe)
    convert(small, "large")
    assert contents(tmp_path / "large") == contents(tmp_path / "small")


@pytest.mark.parametrize("stopped", [0, 2])
def test_the_old_labels_stay_until_the_new_ones_are_whole(
    stopped, label, convert, tmp_path, monkeypatch
):
    label()
    config, recipe = stored_as(SCHEMES["8bit"])
    monkeypatch.setattr(gvbsm.stages.labels, "SHARD_BYTES", 2 * COUNT * (4 + 4 + 5))
    label(config, folder="direct", recipe=recipe)
    before = contents(tmp_path / "labels")
    calls, write = [], SoftLabels.write

    def failing(*arguments):
        if len(calls) == stopped:
            raise StoppedError
        calls.append(1)
        write(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(SoftLabels, "write", failing)
        with pytest.raises(StoppedError):
            convert(SCHEMES["8bit"])
    now = contents(tmp_path / "labels")
    assert {name: now[name] for name in before} == before
    assert len(now) == len(before) + stopped
    assert is_whole(tmp_path / "labels", {"toy": 1})
    calls.clear()
    monkeypatch.setattr(SoftLabels, "write", lambda *args: calls.append(1) or write(*args))
    convert(SCHEMES["8bit"])
    assert len(calls) == 3 - stopped  # what was made is not made again
    assert contents(tmp_path / "labels") == contents(tmp_path / "direct")


@pytest.mark.parametrize(
    ("source", "wanted", "message"),
    [
        ("8bit", LabelStorageConfig(), "hold 5 epochs, 8 bits, which is not all"),
        ("top2", LabelStorageConfig(top_k=1), "hold 5 epochs, the 2 largest logits, which"),
        ("pool", LabelStorageConfig(bits=8), "hold 2 of 5 epochs, fewer than the settings ask for"),
    ],
)
def test_what_has_been_left_out_cannot_be_had_again(source, wanted, message, label, convert):
    config, recipe = stored_as(SCHEMES[source])
    label(config, recipe=recipe)
    with pytest.raises(ArtifactError, match=f"cannot be converted: they {message}"):
        convert(wanted)


def test_labels_that_cannot_be_converted(label, convert, tmp_path):
    with pytest.raises(ArtifactError, match="there are no labels in"):
        convert(SCHEMES["8bit"])
    label(recipe={"toy": 2})
    with pytest.raises(ArtifactError, match=r"other settings than labels\.storage alone"):
        convert(SCHEMES["8bit"])
    label().shards[1].path.unlink()
    with pytest.raises(ArtifactError, match="1 of 3 shards are missing"):
        convert(SCHEMES["8bit"])
    assert not list((tmp_path / "labels").glob("*8bit*"))


def test_make_labels__asks_teachers_only_if_it_must(data, runtime, teachers, tmp_path, caplog):
    def make(storage, teachers, **options):
        config, recipe = stored_as(storage)
        task = LabelTask(data.train.images[:COUNT], 4, config, data.normalization)
        where = tmp_path / "labels"
        return make_labels(task, teachers, runtime, where, recipe, "gvbsm", **options)

    def none():
        raise StoppedError

    with pytest.raises(StoppedError):
        make(LabelStorageConfig(), none)
    with pytest.raises(ArtifactError, match="there are no labels"):
        make(LabelStorageConfig(), none, convert_only=True)
    make(LabelStorageConfig(), lambda: list(teachers.values()))
    before = load_labels(tmp_path / "labels").nbytes()
    caplog.set_level("INFO", "gvbsm")
    with patch("gvbsm.stages.labels._why_not", wraps=gvbsm.stages.labels._why_not) as asked:
        after = make(SCHEMES["pool"], none, convert_only=True).nbytes()
    asked.assert_called_once()  # it looks at every shard
    assert caplog.messages == [f"labels gvbsm: 2 of 5 epochs, {after} bytes, before {before}"]
    with pytest.raises(ArtifactError, match="fewer than the settings ask for"):
        make(SCHEMES["8bit"], none, convert_only=True)
    with pytest.raises(StoppedError):
        make(SCHEMES["8bit"], none)
    assert load_labels(tmp_path / "labels").nbytes() == after


@pytest.mark.usefixtures("_batch_by_batch")
def test_only_the_pool_is_labeled(label, teachers):
    calls = []
    with teachers[WRN].register_forward_pre_hook(lambda *_: calls.append(1)):
        config, recipe = stored_as(SCHEMES["pool"])
        labels = label(config, recipe=recipe)
    assert len(labels.kept) == 2
    assert len(calls) == 2 * 3  # batches of an epoch


def test_labeler__draws_anew_from_a_pool(label, data, runtime):
    config, recipe = stored_as(SCHEMES["pool"])
    whole, pool = label(folder="whole"), label(config, recipe=recipe)
    labeler = Labeler(COUNT, 8, config, runtime, pool, [])
    seen, orders = [], []
    for epoch in range(5):
        plan, labels = labeler.joined([epoch])
        drawn, order = redraw(epoch, pool.kept, COUNT, runtime)
        kept, logits = whole.epoch(drawn)
        assert torch.equal(plan.order, order)
        assert torch.equal(plan.views.boxes, kept.views.boxes)
        assert torch.equal(plan.mixes.partners, kept.mixes.partners)
        for index in order.split(5):
            assert torch.equal(labels.logits(index), logits.logits(index))
        seen.append(drawn)
        orders.append(order.tolist())
    assert sorted(seen[:2]) == sorted(seen[2:4]) == list(pool.kept)
    assert len({tuple(order) for order in orders}) == 5
