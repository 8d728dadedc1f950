"""Students: the four losses reach them, stored labels equal online ones, stops leave no trace."""

import math
from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import nn

import gvbsm.stages.evaluation
from gvbsm.backbones import build_backbone
from gvbsm.config import (
    EvaluationConfig,
    HardPhaseConfig,
    LabelsConfig,
    LabelStorageConfig,
    OptimizerConfig,
    ViewConfig,
)
from gvbsm.data.epochs import draw_plan, view_batch
from gvbsm.data.pictures import Split
from gvbsm.engine.device import RunError
from gvbsm.engine.seeds import seeded
from gvbsm.files.artifacts import read_json
from gvbsm.stages.evaluation import train_student
from gvbsm.stages.judge import Judge
from gvbsm.stages.labels import LabelTask, generate_labels
from gvbsm.store.batches import Labeler, StudentTask
from gvbsm.store.distilled import load_labels
from support import reference
from support.toy import CONVNET, WRN, StoppedError, stop_after

PLAIN = ViewConfig(crop="none", flip=False)
MIXED = ViewConfig(crop="resized", scale=(0.5, 1.0), flip=False, cutmix=1.0)
LABELS = LabelsConfig(epochs=6, batch_size=10, full_batch_up_to=0, views=MIXED)
CONFIG = EvaluationConfig(
    students=(CONVNET,),
    batch_size=10,
    gamma=0.3,
    temperature=3.0,
    optimizer=OptimizerConfig(name="adamw", lr=0.01, weight_decay=0.01),
    tests=3,
)
HARD_PHASE = replace(CONFIG, hard_phase=HardPhaseConfig(share=0.4))  # epochs 2 and 3 of 6


@pytest.fixture
def student(data, teachers, runtime, tmp_path):
    """Call it to train a student on the real pictures; its history."""

    def train(
        config=CONFIG,
        labels=LABELS,
        *,
        soft=True,
        stored=None,
        seed_index=0,
        name="student.json",
        runtime=runtime,
        backbone=CONVNET,
        data=data,
    ):
        images, hard = data.train.images, data.train.labels
        models = list(teachers.values()) if soft and stored is None else []
        labeler = Labeler(len(images), 8, labels, runtime, stored, models)
        task = StudentTask(images, hard, labeler, data.normalization, config, labels)
        judge = Judge(data, runtime, 0)
        return train_student(
            backbone, seed_index, task, judge, runtime, tmp_path / name, {"toy": 1}
        )

    return train


@pytest.fixture
def stored(data, teachers, runtime, tmp_path):
    """Call it to store the labels of the real pictures."""

    def made(config=LABELS):
        task = LabelTask(data.train.images, 4, config, data.normalization)
        generate_labels(task, list(teachers.values()), runtime, tmp_path / "labels", {"toy": 1})
        return load_labels(tmp_path / "labels")

    return made


@pytest.fixture
def same_start(monkeypatch):
    """Let every student be a copy of one network, which is returned."""
    with seeded(0, "start"):
        start = build_backbone(CONVNET, 4, 8)
    state = {name: value.clone() for name, value in start.state_dict().items()}

    def build(*_arguments, **_options):
        model = build_backbone(CONVNET, 4, 8)
        model.load_state_dict(state)
        return model

    monkeypatch.setattr(gvbsm.stages.evaluation, "build_backbone", build)
    return start


def test_stored_and_online_labels_train_the_same_student(student, stored, tmp_path):
    more = replace(MIXED, shuffle=2, mixup=1.0)
    black = replace(MIXED, crop="pad", border="black")
    for changes in (
        {"logit_normalization": True},
        {"views": more, "temperature": 3.0},
        {"views": black},
        {},
    ):
        labels = replace(LABELS, **changes)
        shared = {"labels": labels, "name": "same.json"}
        online = student(**shared)
        online_file = (tmp_path / "same.json").read_bytes()
        replayed = student(**shared, stored=stored(labels))
        assert replayed == online
        assert (tmp_path / "same.json").read_bytes() == online_file
        (tmp_path / "labels" / "index.json").unlink()
        for shard in (tmp_path / "labels").iterdir():
            shard.unlink()
    assert online.epochs == [2, 4, 6]
    assert len(online.losses) == 6


def cross_entropy(logits, label):
    return math.log(sum(map(math.exp, logits))) - logits[label]


def slow_loss(logits, soft, own, partners, kept, config):
    """Eq. 11, SRe2L's T^2 KL, GIFT's cosine, or hard labels, picture by picture."""
    batch, classes = soft.shape
    hard, square, divergence, cosine = 0.0, 0.0, 0.0, 0.0
    for ours, theirs, label, partner, share in zip(
        logits.tolist(), soft.tolist(), own.tolist(), partners.tolist(), kept, strict=True
    ):
        hard += share * cross_entropy(ours, label) / batch
        hard += (1 - share) * cross_entropy(ours, partner) / batch
        pairs = zip(ours, theirs, strict=True)
        square += sum((a - b) ** 2 for a, b in pairs) / (batch * classes)
        p, q = (reference.softmax([v / config.temperature for v in row]) for row in (theirs, ours))
        divergence += config.temperature**2 * reference.kl_divergence(p, q) / batch
        smoothed = [0.1 / (classes - 1)] * classes
        smoothed[label] += share * (0.9 - 0.1 / (classes - 1))
        smoothed[partner] += (1 - share) * (0.9 - 0.1 / (classes - 1))
        cosine += reference.refined_cosine_distance(ours, theirs, smoothed) / batch
    squared = square + config.gamma * hard
    return {"mse_gt": squared, "kl": divergence, "cosine": cosine, "hard": hard}[config.loss]


@pytest.mark.parametrize("target", ["base", "mixed"])
@pytest.mark.parametrize("loss", ["mse_gt", "kl", "cosine", "hard"])
def test_first_loss_is_the_formula(loss, target, student, same_start, data, teachers, runtime):
    # A gamma that weighs the hard labels no less than the square.
    config = replace(CONFIG, loss=loss, hard_target=target, batch_size=40, gamma=30.0)
    labels = replace(LABELS, epochs=1, batch_size=40)
    history = student(config, labels)
    plan = draw_plan(40, 8, MIXED, 0, runtime)
    pictures = view_batch(data.train.images, plan, plan.order, data.normalization, runtime)
    soft = reference.ensemble_logits([model(pictures) for model in teachers.values()], False)
    own, partners = data.train.labels[plan.order], data.train.labels[plan.mixes.partners]
    boxes = plan.mixes.boxes[plan.order].tolist()
    share = [1 - height * width / 64 for _, _, height, width in boxes]
    kept = share if target == "mixed" else [1.0] * 40
    logits = same_start(pictures).detach()
    expected = slow_loss(logits, soft, own, partners[plan.order], kept, config)
    assert history.losses == pytest.approx([expected], rel=2e-3)  # labels are float16
    for other in {"mse_gt", "kl", "cosine", "hard"} - {loss}:
        wrong = replace(config, loss=other)
        assert slow_loss(logits, soft, own, partners, kept, wrong) != pytest.approx(
            expected, rel=0.02
        )


def test_hard_target_matters_to_mixed_pictures_alone(student, same_start):
    for config in (replace(CONFIG, loss="hard"), CONFIG):
        base, mixed = (
            student(replace(config, hard_target=target)).losses for target in ("base", "mixed")
        )
        assert abs(base[0] - mixed[0]) > 1e-4
        plain = replace(LABELS, views=replace(MIXED, cutmix=0.0))
        base, mixed = (
            student(replace(config, hard_target=target), plain).losses
            for target in ("base", "mixed")
        )
        assert base == mixed
    kl = replace(CONFIG, loss="kl")
    assert student(replace(kl, hard_target="mixed")) == student(kl)


@pytest.mark.parametrize("pruning", [1, 2])
def test_hard_phase_has_fresh_views_between_the_stored_ones(
    pruning, data, stored, teachers, runtime
):
    labels = replace(LABELS, storage=LabelStorageConfig(pruning=pruning))
    images, store = data.train.images, stored(labels)
    labeler = Labeler(len(images), 8, labels, runtime, store, [])
    of_set = (images, data.train.labels, labeler, data.normalization)
    plain, phased = (StudentTask(*of_set, config, labels) for config in (CONFIG, HARD_PHASE))
    epochs = [list(phased.batches(epoch, 0, runtime)) for epoch in range(6)]
    for epoch, number in ((0, 0), (1, 1), (4, 2), (5, 3)):
        expected = plain.batches(number, 0, runtime)
        for batch, same in zip(epochs[epoch], expected, strict=True):
            assert all(torch.equal(*pair) for pair in zip(batch, same, strict=True))
    views = []
    for epoch in (2, 3):
        plan = draw_plan(len(images), 8, MIXED, 6 + epoch, runtime)
        pictures = view_batch(images, plan, plan.order, data.normalization, runtime)
        assert torch.equal(torch.cat([batch.views for batch in epochs[epoch]]), pictures)
        assert all(batch.logits is None for batch in epochs[epoch])
        views.append(pictures)
    assert not torch.equal(*views)
    joined = list(phased.batches_from(1, 2, runtime))
    left = [batch for epoch in epochs[1:] for batch in epoch][2:]
    for batch, same in zip(joined, left, strict=True):
        assert torch.equal(batch.views, same.views)
        assert (batch.logits is None) == (same.logits is None)


def test_hard_phase_learns_smoothed_mixed_labels(student, same_start, data, runtime):
    """Five of six epochs are hard, and they come first: the first loss is that of the start."""
    phase = HardPhaseConfig(share=0.8, smoothing=0.7)
    config = replace(CONFIG, hard_phase=phase, batch_size=40, hard_target="base")
    history = student(config, replace(LABELS, epochs=6, batch_size=40))
    plan = draw_plan(40, 8, MIXED, 6, runtime)
    pictures = view_batch(data.train.images, plan, plan.order, data.normalization, runtime)
    boxes = plan.mixes.boxes[plan.order].tolist()
    labels, expected = data.train.labels, 0.0
    own, partners = labels[plan.order], labels[plan.mixes.partners[plan.order]]
    for row, label, partner, box in zip(
        same_start(pictures).tolist(), own.tolist(), partners.tolist(), boxes, strict=True
    ):
        kept = 1 - box[2] * box[3] / 64
        mean = sum(cross_entropy(row, other) for other in range(4)) / 4
        mixed = kept * cross_entropy(row, label) + (1 - kept) * cross_entropy(row, partner)
        expected += (0.3 * mixed + 0.7 * mean) / 40
    assert history.losses[0] == pytest.approx(expected, rel=1e-4)


def test_hard_phase_of_stored_and_online_labels_is_the_same(student, stored):
    online = student(HARD_PHASE)
    assert student(HARD_PHASE, stored=stored()) == online
    assert online.losses[:2] == student().losses[:2]  # soft epochs before it
    assert online.losses[2] != student().losses[2]
    assert student(replace(HARD_PHASE, loss="hard")) == student(replace(CONFIG, loss="hard"))


@pytest.mark.parametrize("loss", ["mse_gt", "kl", "cosine"])
def test_student_learns_from_soft_labels(loss, student, data):
    """All hard labels are wrong here: what is learnt can come from the teachers alone."""
    wrong = replace(data, train=replace(data.train, labels=(data.train.labels + 1) % 4))
    config = replace(CONFIG, loss=loss, gamma=0.0)
    history = student(config, replace(LABELS, epochs=15), data=wrong)
    assert history.top1[-1] >= 60  # chance is 25
    assert history.losses[-1] < 0.5 * history.losses[0]


def test_student_learns_from_hard_labels(student):
    history = student(replace(CONFIG, loss="hard"), replace(LABELS, epochs=15), soft=False)
    assert history.top1[-1] >= 60


def test_teachers_are_not_asked_for_stored_labels(student, stored, teachers):
    labels = stored()
    with stop_after(0, *teachers.values()):
        student(stored=labels)


@pytest.mark.parametrize(("every", "config"), [(1, CONFIG), (3, CONFIG), (1, HARD_PHASE)])
def test_stopped_and_resumed_results_are_the_same_file(
    every, config, student, stored, tmp_path, checkpoint_every, monkeypatch
):
    student, labels = partial(student, config), stored()
    student(stored=labels, name="whole.json")
    expected = (tmp_path / "whole.json").read_bytes()
    checkpoint_every(every)
    for calls in (0, 3, 4, 5, 2):  # epochs of four steps, and tests in between
        with monkeypatch.context() as patch:

            def build(*arguments, calls=calls, **options):
                model = build_backbone(*arguments, **options)
                stop_after(calls, model)
                return model

            patch.setattr(gvbsm.stages.evaluation, "build_backbone", build)
            with pytest.raises(StoppedError):
                student(stored=labels)
        assert not (tmp_path / "student.json").exists()
    student(stored=labels)
    assert (tmp_path / "student.json").read_bytes() == expected
    assert not list(tmp_path.glob("*.partial.*"))


def test_result_holds_measurements_and_no_time(student, tmp_path):
    history = student()
    content = read_json(tmp_path / "student.json")
    confusion, metrics = content.pop("confusion"), content.pop("metrics")
    assert content == {"recipe": {"toy": 1}, **vars(history)}
    assert [sum(row) for row in confusion] == [4, 4, 4, 4]  # a row holds a true class's pictures
    right = sum(confusion[label][label] for label in range(4))
    assert 100 * right / 16 == history.top1[-1]
    assert metrics["by_class"] == [25.0 * confusion[label][label] for label in range(4)]
    assert content.keys() == {"recipe", "epochs", "top1", "losses"}


def test_seeds_differ_in_the_first_weights_alone(student):
    first, again, second = (student(seed_index=index) for index in (0, 0, 1))
    assert first == again
    assert first.losses != second.losses


def test_learning_rate_of_single_students(student):
    slow = replace(CONFIG, lr_of={CONVNET: 1e-6, "resnet18": 0.5})
    losses = student(slow, replace(LABELS, views=PLAIN)).losses
    assert losses[-1] == pytest.approx(losses[0], rel=0.01)  # it hardly moved
    assert student(replace(CONFIG, lr_of={"resnet18": 0.5})) == student()


def test_last_batch_of_one_is_left_out(student, data):
    fewer = replace(data, train=Split(data.train.labels[:21], data.train.images[:21]))
    history = student(data=fewer)
    assert len(history.losses) == 6


def test_number_of_seeds_does_not_change_a_student(student, monkeypatch):
    """Results are kept when `evaluation.seeds` grows, so they must be what a fresh run gives."""

    def with_dropout(*arguments, **options):
        model = build_backbone(*arguments, **options)
        return nn.Sequential(nn.Dropout(0.3), model)

    monkeypatch.setattr(gvbsm.stages.evaluation, "build_backbone", with_dropout)
    assert student(replace(CONFIG, seeds=1)) == student(replace(CONFIG, seeds=2))


@pytest.mark.parametrize("loss", ["mse_gt", "kl", "cosine", "hard"])
def test_parts_of_a_batch_train_the_same_student(loss, student):
    """Four steps of 10 images, whose last part is a smaller one: 4 + 3 + 3."""
    config, labels = replace(CONFIG, loss=loss, hard_target="mixed"), replace(LABELS, epochs=2)
    whole = student(config, labels)
    cut = student(replace(config, micro_batch=4), labels)
    assert cut.losses == pytest.approx(whole.losses, rel=1e-5)


def test_ema__the_average_of_all_steps_is_tested_and_kept(student, data, monkeypatch, tmp_path):
    """The steps are those of training without it, whose last parameters no pass has seen."""
    nets, passes = [], []

    def build(*arguments, **options):
        net, seen = build_backbone(*arguments, **options), []

        def look(net, _given):
            if net.training:
                seen.append([part.detach().clone() for part in net.parameters()])

        net.register_forward_pre_hook(look)
        nets.append(net)
        passes.append(seen)
        return net

    monkeypatch.setattr(gvbsm.stages.evaluation, "build_backbone", build)
    short = replace(LABELS, epochs=2)
    plain = student(labels=short)
    averaged = student(replace(CONFIG, ema=0.8), short, name="averaged.json")
    assert averaged.losses == plain.losses
    steps = [*passes[0][1:], list(nets[0].parameters())]  # before a pass: after the step before it
    assert len(steps) == 8
    weights = [0.8 ** (7 - number) for number in range(8)]
    for place, found in enumerate(nets[1].parameters()):
        parts = [weight * step[place] for weight, step in zip(weights, steps, strict=True)]
        torch.testing.assert_close(found, sum(parts) / sum(weights), rtol=1e-5, atol=1e-6)
    logits = nets[1].eval()(data.normalization.normalize(data.test.images))
    right = logits.argmax(dim=1) == data.test.labels
    assert averaged.top1[-1] == 100 * float(right.double().mean())
    confident = read_json(tmp_path / "averaged.json")["metrics"]["calibration_error"]
    assert confident != read_json(tmp_path / "student.json")["metrics"]["calibration_error"]


def test_out_of_memory_without_batchnorm_goes_on_to_the_same_student(student, monkeypatch):
    short = replace(LABELS, epochs=2)
    whole, most = student(labels=short), []

    def build(*arguments, **options):
        model = build_backbone(*arguments, **options)

        def full(_module, given):
            if len(given[0]) > 3:
                raise torch.OutOfMemoryError
            most.append(len(given[0]))

        model.register_forward_pre_hook(full)
        return model

    monkeypatch.setattr(gvbsm.stages.evaluation, "build_backbone", build)
    cut = student(labels=short)  # trained and tested in parts
    assert cut.losses == pytest.approx(whole.losses, rel=1e-5)
    assert cut.top1 == whole.top1
    assert max(most) == 3
    with pytest.raises(RunError, match=r"BatchNorm.*--evaluation\.micro_batch 5"):
        student(labels=short, backbone=WRN)


def test_stopped_after_memory_ran_out__ends_the_same(
    student, tmp_path, checkpoint_every, monkeypatch
):
    def build(*arguments, calls=1000, **options):
        model = build_backbone(*arguments, **options)
        stop_after(calls, model)
        model.register_forward_pre_hook(full)
        return nn.Sequential(nn.Dropout(0.3), model)

    def full(_module, given):
        if len(given[0]) > 5:
            raise torch.OutOfMemoryError

    monkeypatch.setattr(gvbsm.stages.evaluation, "build_backbone", build)
    short, path = replace(LABELS, epochs=2), tmp_path / "student.json"
    expected = student(labels=short)
    checkpoint_every(1)
    monkeypatch.setattr(gvbsm.stages.evaluation, "build_backbone", partial(build, calls=5))
    path.unlink()  # dropout belongs to the name of the work
    with pytest.raises(StoppedError):
        student(labels=short)
    monkeypatch.setattr(gvbsm.stages.evaluation, "build_backbone", build)
    assert student(labels=short) == expected
