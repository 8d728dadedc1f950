"""The examples of distilled sets as the rehearsal buffer of a continual learner."""

import importlib.util
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from gvbsm.config import LabelsConfig, ViewConfig
from gvbsm.data.datasets import load_dataset
from gvbsm.data.pictures import Split
from gvbsm.exchange.load import load
from gvbsm.files.artifacts import read_json
from support.labeled_sets import write_labeled_set

EXAMPLES = Path(__file__).parents[2] / "examples"
NUMBERS = (7, 2, 9, 4)  # of the toy classes among ten


def example(name):
    """Import an example."""
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def rehearsal():
    return example("rehearsal_buffer")


@pytest.fixture
def task(data, teachers, runtime, tmp_path):
    """Eight images of four of ten classes, with soft labels of two epochs, in batches of three."""
    views = ViewConfig(crop="pad", padding=1, flip=True, cutmix=1.0)
    labels = LabelsConfig(epochs=2, full_batch_up_to=0, views=views)
    folder = write_labeled_set(tmp_path / "w", data, teachers, runtime, labels, batch_size=3)
    return replace(load(folder), class_names=tuple(map(str, NUMBERS)))


def few_digits(classes, pictures):
    """The first digits of some classes, numbered as the whole data set does."""
    data = load_dataset("digits")

    def cut(split, count):
        rows = [(split.labels == label).nonzero()[:count, 0] for label in range(classes)]
        return Split(split.labels[torch.cat(rows)], split.images[torch.cat(rows)])

    names = data.class_names[:classes]
    train, test = cut(data.train, pictures), cut(data.test, 5)
    return replace(data, class_names=names, train=train, test=test)


def test_teachers_logits_are_compared_with_the_outputs_of_their_classes_alone(rehearsal):
    """The other outputs learn from the hard labels of both images of a mix."""
    outputs = torch.randn(2, 5, dtype=torch.float64, requires_grad=True)
    classes, logits = torch.tensor([3, 1]), torch.randn(2, 2, dtype=torch.float64)
    labels, partners = torch.tensor([3, 1]), torch.tensor([1, 1])
    kept = torch.tensor([0.75, 1.0], dtype=torch.float64)
    replay = rehearsal.Replay(torch.zeros(2, 1, 1, 1), classes, logits, labels, partners, kept)
    loss = replay.loss(outputs)
    log_p = outputs.log_softmax(1)
    hard = -(0.75 * log_p[0, 3] + 0.25 * log_p[0, 1] + log_p[1, 1]) / 2
    soft = sum((outputs[:, c] - logits[:, i]).square().sum() for i, c in ((0, 3), (1, 1))) / 4
    torch.testing.assert_close(loss, soft + rehearsal.GAMMA * hard)
    (slope,) = torch.autograd.grad(loss, outputs)
    p, others = outputs.softmax(1), [0, 2, 4]
    torch.testing.assert_close(slope[:, others], rehearsal.GAMMA * p[:, others] / 2)
    hard_alone = replay._replace(logits=None).loss(outputs)
    torch.testing.assert_close(hard_alone, hard)


@pytest.mark.parametrize("labels", ["soft", "hard"])
def test_a_buffer_draws_the_stored_views_again_and_again(rehearsal, task, labels):
    buffer = rehearsal.Buffer(labels)
    buffer.add(task)
    buffer.add(task)
    drawn = [buffer.draw() for _ in range(7)]  # six batches are two epochs
    stored = [batch for epoch in (0, 1, 0) for batch in task.batches(epoch)][:7]
    mean, std = (torch.tensor(value).view(-1, 1, 1) for value in vars(task.normalization).values())
    numbers = torch.tensor(NUMBERS)
    for (first, second), batch in zip(drawn, stored, strict=True):
        torch.testing.assert_close(first.views, batch.views * std + mean)
        assert torch.equal(first.views, second.views)
        assert torch.equal(first.labels, numbers[batch.labels])
        assert torch.equal(first.partners, numbers[batch.partners])
        assert torch.equal(first.classes, numbers)
        assert (first.logits is None) == (labels == "hard")
        assert labels == "hard" or torch.equal(first.logits, batch.logits)
    soft = task.soft_labels.nbytes() if labels == "soft" else 0
    assert buffer.nbytes == 2 * (task.images.nbytes + soft)


def test_plain_replay_takes_the_images_as_they_are(rehearsal, task):
    buffer = rehearsal.Buffer("plain")
    buffer.add(task)
    (replay,) = buffer.draw()
    order = replay.views.flatten(1).sum(1).argsort()
    images = (task.images / 255).flatten(1).sum(1).argsort()
    torch.testing.assert_close(replay.views[order], task.images[images] / 255)
    assert torch.equal(replay.labels[order], torch.tensor(NUMBERS)[task.labels[images]])
    assert torch.equal(replay.labels, replay.partners)
    assert replay.logits is None


def test_forgetting_is_the_fall_from_the_best_accuracy_of_a_task(rehearsal):
    rows = [[90.0], [95.0, 80.0], [85.0, 75.0, 90.0], [60.0, 70.0, 84.0, 100.0]]
    assert rehearsal.forgetting(rows) == (35 + 10 + 6) / 3
    assert rehearsal.forgetting([[50.0]]) == 0


def test_tasks_divide_the_classes(rehearsal):
    data = few_digits(classes=7, pictures=10)
    stream = rehearsal.divide(data, 3, seed=1)
    classes = [labels.unique().tolist() for _, labels in stream.train]
    assert sorted(label for part in classes for label in part) == list(range(7))
    assert list(map(len, classes)) == [3, 2, 2]
    assert [labels.unique().tolist() for _, labels in stream.test] == classes
    assert [len(images) for images, _ in stream.train] == [30, 20, 20]
    choosing = rehearsal.divide(data, 3, seed=1, choosing=True)
    assert sum(len(images) for images, _ in choosing.test) == 14  # every fifth of 70
    together = [
        torch.cat([images for part in (choosing.train, choosing.test) for images, _ in part]),
        data.train.images,
    ]
    first, second = (sorted(map(bytes, t.flatten(1).numpy())) for t in together)
    assert first == second


def test_the_example_compares_the_buffers(rehearsal, tmp_path, monkeypatch, capsys):
    data = few_digits(classes=4, pictures=40)
    monkeypatch.setattr(rehearsal, "read_dataset", lambda _: data)
    arguments = f"--tasks 2 --ipc 1 --views 2 --steps 8 --lr 0.01 --seeds 1 --workdir {tmp_path}"
    results = rehearsal.main(arguments.split())
    accuracies = {method: rows for method, [(rows, _)] in results.items()}
    assert {tuple(rows[0]) for rows in accuracies.values()} == {tuple(accuracies["no buffer"][0])}
    assert accuracies["all real pictures"][1][0] > accuracies["no buffer"][1][0] + 20
    nbytes = {method: count for method, [(_, count)] in results.items()}
    assert nbytes["no buffer"] == 0
    assert nbytes["random, hard labels"] == nbytes["random, experience replay"] == 2 * 64
    assert nbytes["all real pictures"] == 2 * 40 * 64
    assert nbytes["distilled, soft labels"] == nbytes["random, soft labels"] > 2 * 64
    (folder,) = tmp_path.iterdir()
    first = rehearsal.divide(data, 2, seed=0).train[0][1].unique().tolist()
    assert load(folder).class_names == tuple(map(str, first))  # what the teachers know
    assert read_json(folder / "data.json")["classes"] == 2
    shown = capsys.readouterr().out
    assert all(method in shown for method in rehearsal.METHODS)


def test_a_task_of_one_class_is_refused(rehearsal, capsys):
    with pytest.raises(SystemExit):
        rehearsal.main(["--tasks", "6"])
    assert "--tasks must leave two classes for each task of 10" in capsys.readouterr().err


@pytest.mark.filterwarnings("ignore")  # of the library
def test_avalanche(rehearsal, data, task, monkeypatch):
    """The plugin adds the buffer to each step, and distills each experience but the last."""
    pytest.importorskip("avalanche", reason="avalanche-lib is not installed")
    monkeypatch.setitem(sys.modules, "rehearsal_buffer", rehearsal)
    module, given, losses = example("avalanche_rehearsal"), [], []

    def distill(pictures, labels, number):
        given.append((pictures, labels, number))
        return replace(task, class_names=("0", "1", "2", "3"))

    class Watched(module.RehearsalPlugin):
        def before_backward(self, strategy, **kwargs):
            real = F.cross_entropy(strategy.mb_output, strategy.mb_y)
            replayed = [
                replay.loss(outputs)
                for replay, outputs in zip(self._replays, self._outputs, strict=True)
            ]
            super().before_backward(strategy, **kwargs)
            expected = (real + sum(replayed)) / (1 + len(replayed))
            losses.append((len(replayed), strategy.loss.item(), expected.item()))

    plugin = Watched(distill)
    options = SimpleNamespace(seed=0, tasks=2, epochs=1, model="convnet8_d1")
    accuracy = module.learn(data, plugin, options)
    assert 0 <= accuracy <= 100
    ((pictures, labels, number),) = given
    rows = torch.isin(data.train.labels, labels)
    assert (number, len(labels.unique())) == (0, 2)
    sums = pictures.flatten(1).long().sum(1), data.train.images[rows].flatten(1).long().sum(1)
    assert torch.equal(*(part.sort().values for part in sums))
    assert {replayed for replayed, _, _ in losses} == {0, 1}
    for _, loss, expected in losses:
        assert loss == pytest.approx(expected, rel=1e-5)
    # Avalanche's own replay, which mixes its pictures into the batches of the benchmark
    assert 0 <= module.learn(data, module.ReplayPlugin(4), options) <= 100
    with pytest.raises(ValueError, match="from 0 to 1"):
        module.pictures_of([(torch.full((1, 2, 2), -1.0), 0)])
