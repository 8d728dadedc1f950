"""The public loader gives what students see: the same views, soft and hard labels, to the bit."""

import pytest
import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader

import gvbsm.store.batches
from gvbsm.backbones import build_backbone
from gvbsm.config import ConfigError, LabelsConfig, LabelStorageConfig, ViewConfig
from gvbsm.exchange.export import export
from gvbsm.exchange.load import load
from gvbsm.exchange.train import train
from gvbsm.store.loader import EpochDataset
from support.labeled_sets import write_labeled_set
from support.toy import CONVNET

CUTMIX = ViewConfig(crop="pad", padding=1, flip=True, cutmix=1.0)
MIXUP = ViewConfig(crop="resized", flip=True, cutmix=1.0, mixup=1.0, shuffle=2, roll=2)
BLACK = ViewConfig(crop="pad", padding=2, flip=False, border="black")


@pytest.fixture
def labeled(data, teachers, runtime, tmp_path):
    """Call it to label a set; the set as `gvbsm.load` gives it."""

    def write(views=CUTMIX, evaluation=None, images=8, **settings):
        config = LabelsConfig(**{"epochs": 4, "full_batch_up_to": 0, "views": views, **settings})
        evaluation = {"batch_size": 3, **(evaluation or {})}
        write_labeled_set(
            tmp_path / "w", data, teachers, runtime, config, images=images, **evaluation
        )
        return load(tmp_path / "w")

    return write


def consumed(distilled, out, monkeypatch, settings=None):
    """All that a student of `gvbsm train` computes with: views, soft labels and hard ones."""
    views, targets = [], []

    def build(*arguments):
        model = build_backbone(*arguments)
        model.register_forward_pre_hook(lambda _, inputs: views.append(inputs[0]))
        return model

    def hard_loss(outputs, labels, partners, kept):
        targets.append((labels, partners, kept))
        return outputs.sum() * 0

    def mse_gt_loss(outputs, soft, hard, gamma):
        targets[-1] = (soft, *targets[-1])
        return outputs.sum() * 0 + hard

    with monkeypatch.context() as patch:
        patch.setattr("gvbsm.exchange.train.build_backbone", build)
        patch.setattr(gvbsm.store.batches, "hard_loss", hard_loss)
        patch.setattr(gvbsm.store.batches, "mse_gt_loss", mse_gt_loss)
        train(distilled, CONVNET, out / "s.safetensors", {"device": "cpu", **(settings or {})})
    return [(view, *target) for view, target in zip(views, targets, strict=True)]


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"views": MIXUP},
        {"views": BLACK},
        {"full_batch_up_to": 8},
        {"storage": LabelStorageConfig(pruning=2)},
        {"storage": LabelStorageConfig(top_k=2, bits=8)},
        {"storage": LabelStorageConfig(bits=8)},
        {"storage": LabelStorageConfig(top_k=1)},
    ],
    ids=str,
)
def test_batches_are_those_of_students(settings, labeled, tmp_path, monkeypatch):
    mixed = {"hard_target": "mixed"}  # students that ignore the partner see shares of 1
    distilled = labeled(evaluation=mixed, **settings)
    seen = consumed(tmp_path / "w", tmp_path, monkeypatch)
    given = [batch for epoch in range(4) for batch in distilled.batches(epoch)]
    assert len(given) == len(seen) == 4 * (1 if "full_batch_up_to" in settings else 3)
    for batch, (views, logits, labels, partners, kept) in zip(given, seen, strict=True):
        assert torch.equal(batch.views, views)
        assert torch.equal(batch.logits, logits)
        assert torch.equal(batch.labels, labels)
        assert torch.equal(batch.partners, partners)
        assert torch.equal(batch.kept, kept)
        assert torch.equal(batch.probabilities(3.0), F.softmax(logits / 3, dim=1))
    shares = torch.cat([batch.kept for batch in given])
    assert bool((shares < 1).any()) == (settings.get("views") != BLACK)


def test_without_soft_labels_views_are_those_of_students(labeled, tmp_path, monkeypatch):
    labeled()
    for path in (tmp_path / "w" / "labels").glob("shard-*"):
        path.unlink()
    (tmp_path / "w" / "labels" / "index.json").unlink()
    seen = consumed(tmp_path / "w", tmp_path, monkeypatch, {"labels": {"epochs": 2}})
    distilled = load(tmp_path / "w")
    given = [batch for epoch in range(2) for batch in distilled.batches(epoch)]
    assert len(given) == len(seen)
    for batch, (views, labels, partners, kept) in zip(given, seen, strict=True):
        assert batch.logits is None
        assert torch.equal(batch.views, views)
        assert torch.equal(batch.labels, labels)
        assert torch.equal(batch.partners, partners)
        assert torch.equal(batch.kept, kept)
    with pytest.raises(ValueError, match="no soft labels"):
        given[0].probabilities()
    assert len(list(distilled.batches(10**6))) == len(given) / 2  # drawn, and so for any epoch


def test_batches_do_not_depend_on_how_many_views_are_made_at_once(labeled, monkeypatch):
    distilled = labeled(views=MIXUP)
    many = [batch for epoch in range(3) for batch in distilled.batches(epoch)]
    monkeypatch.setattr("gvbsm.store.batches.VIEW_BYTES", 0)
    single = [batch for epoch in range(3) for batch in distilled.batches(epoch)]
    for batch, same in zip(many, single, strict=True):
        assert all(torch.equal(*pair) for pair in zip(batch, same, strict=True))


@pytest.mark.parametrize("images", [8, 7])  # in batches of 3; a last batch of one is left out
@pytest.mark.parametrize("most", [1, 3, 32])
def test_a_training_that_is_resumed_anywhere_sees_the_same_batches(
    images, most, labeled, monkeypatch
):
    """However many of its epochs are read at once."""
    monkeypatch.setattr("gvbsm.store.batches.MOST_EPOCHS", most)
    distilled = labeled(views=MIXUP, images=images)
    epoch_dataset = EpochDataset(distilled)
    task, runtime = epoch_dataset._task, epoch_dataset._runtime
    whole = [batch for epoch in range(4) for batch in task.batches(epoch, 0, runtime)]
    assert len(whole) == 4 * task.steps
    for epoch in range(4):
        for start in range(task.steps):
            left = list(task.batches_from(epoch, start, runtime))
            expected = whole[epoch * task.steps + start :]
            for batch, same in zip(left, expected, strict=True):
                assert all(torch.equal(*pair) for pair in zip(batch, same, strict=True))


def test_an_epoch_of_the_hard_phase_has_no_soft_labels(labeled):
    distilled = labeled(evaluation={"hard_phase": {"share": 0.5, "smoothing": 0.4}})
    loader = distilled.loader()
    epochs = [list(loader) for _ in range(4)]
    assert [epoch[0].logits is None for epoch in epochs] == [False, True, True, False]
    batch = epochs[1][0]
    with pytest.raises(ValueError, match="no soft labels"):
        batch.probabilities()
    outputs = torch.linspace(-1, 1, 4 * len(batch.labels)).view(-1, 4).sin()
    own, partner = (F.one_hot(labels, 4) for labels in (batch.labels, batch.partners))
    mixed = torch.lerp(partner.float(), own.float(), batch.kept[:, None])
    expected = F.cross_entropy(outputs, mixed, label_smoothing=0.4)
    assert float(loader.loss(outputs, batch)) == pytest.approx(float(expected), rel=1e-5)


@pytest.mark.parametrize("form", ["folder", "hub", "safetensors", "user/name"])
def test_every_export_gives_the_same_batches(form, labeled, tmp_path, monkeypatch):
    distilled = labeled(views=MIXUP)
    kind = "hub" if form == "user/name" else form
    if kind == "hub":
        pytest.importorskip("datasets")
    suffix = ".safetensors" if form == "safetensors" else ""
    exported = export(tmp_path / "w", kind, tmp_path / "a" / "b" / f"e{suffix}", quiet=True)
    monkeypatch.setattr("gvbsm.exchange.hub.download", lambda name, folder: exported)
    again = load("user/name" if form == "user/name" else exported, cache=tmp_path / "cache")
    for batch, expected in zip(again.batches(2), distilled.batches(2), strict=True):
        assert all(torch.equal(*pair) for pair in zip(batch, expected, strict=True))


def test_a_start_and_another_batch_size(labeled):
    distilled = labeled()
    whole = list(distilled.batches(1, batch_size=8))
    assert [len(batch.labels) for batch in whole] == [8]
    assert [len(batch.labels) for batch in distilled.batches(1)] == [3, 3, 2]
    (last,) = distilled.batches(1, start=2)
    assert torch.equal(last.views, whole[0].views[6:])
    assert torch.equal(last.logits, whole[0].logits[6:])


def test_a_batch_size_that_does_not_fit_the_labels_is_refused(labeled):
    distilled = labeled(batchnorm="batch", batch_size=3)
    assert len(list(distilled.batches(0))) == 3
    with pytest.raises(ConfigError, match=r"labeled in batches of 3 .* batches of 4"):
        distilled.batches(0, batch_size=4)


def test_passes_over_the_loader_are_epochs(labeled):
    distilled = labeled()
    loader = distilled.loader()
    assert isinstance(loader, DataLoader)
    assert (len(loader), loader.epochs) == (3, 4)
    for epoch in range(loader.epochs):
        for batch, expected in zip(loader, distilled.batches(epoch), strict=True):
            assert torch.equal(batch.views, expected.views)
            assert torch.equal(batch.logits, expected.logits)
    with pytest.raises(ValueError, match="epoch must be from 0 to 3, the last with soft labels"):
        iter(loader)
    loader.set_epoch(2)
    assert torch.equal(next(iter(loader)).views, next(distilled.batches(2)).views)


@pytest.mark.parametrize("epoch", [-1, 4])
def test_an_epoch_without_labels_is_refused(epoch, labeled):
    with pytest.raises(ValueError, match=f"epoch must be from 0 to 3, .* got {epoch}"):
        labeled().batches(epoch)


def test_workers_give_the_batches_in_their_order(labeled):
    distilled = labeled()
    loader = distilled.loader(workers=2)
    for epoch in range(2):
        for batch, expected in zip(loader, distilled.batches(epoch), strict=True):
            assert torch.equal(batch.views, expected.views)
            assert torch.equal(batch.labels, expected.labels)


def test_the_caller_s_defaults_do_not_reach_the_batches(labeled):
    distilled = labeled()
    expected = next(distilled.batches(0))
    torch.set_default_dtype(torch.float64)
    try:
        with torch.inference_mode():
            batch = next(distilled.batches(0))
    finally:
        torch.set_default_dtype(torch.float32)
    assert torch.equal(batch.views, expected.views)
    assert batch.kept.dtype == torch.float32
    assert not batch.views.is_inference()


@pytest.mark.parametrize("loss", ["kl", "mse_gt", "cosine", "hard"])
def test_the_loss_is_that_of_the_recorded_settings(loss, labeled):
    distilled = labeled(evaluation={"loss": loss, "temperature": 2.0, "gamma": 0.5})
    loader = distilled.loader()
    batch = next(iter(loader))
    outputs = torch.linspace(-1, 1, batch.logits.numel()).view_as(batch.logits)
    hard = F.cross_entropy(outputs, batch.labels)
    smoothed = torch.full_like(outputs, 0.1 / 3).scatter(1, batch.labels[:, None], 0.9)
    refined = F.normalize(batch.logits) + 0.1 * F.normalize(smoothed)
    expected = {
        "hard": hard,
        "cosine": 1 - F.cosine_similarity(outputs, refined).mean(),
        "mse_gt": F.mse_loss(outputs, batch.logits) + 0.5 * hard,
        "kl": 4
        * F.kl_div(F.log_softmax(outputs / 2, 1), batch.probabilities(2.0), reduction="batchmean"),
    }
    assert loader.loss(outputs, batch) == pytest.approx(float(expected[loss]), rel=1e-5)
