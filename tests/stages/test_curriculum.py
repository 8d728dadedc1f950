"""Curriculum: who is taken in which round, and filters that a stop does not change."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gvbsm.config import EvaluationConfig, LabelsConfig, OptimizerConfig, ViewConfig
from gvbsm.data.pictures import DataError
from gvbsm.stages.selection import curriculum
from gvbsm.stages.selection.curriculum import (
    FilterTraining,
    distilled_counts,
    round_counts,
    select_by_curriculum,
    select_easiest,
)
from gvbsm.store.batches import Labeler, StudentTask
from support.toy import CONVNET, StoppedError, keep_built

LABELS = LabelsConfig(
    epochs=4, batch_size=10, full_batch_up_to=0, views=ViewConfig(crop="none", flip=False)
)
CONFIG = EvaluationConfig(
    students=(CONVNET,), batch_size=10, optimizer=OptimizerConfig(name="adamw", lr=0.01), tests=1
)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(
    ("share", "counts", "expected"),
    [
        (0.2, [10, 50, 9, 1, 0], [2, 10, 1, 1, 0]),
        (0.1, [10, 30, 9], [1, 3, 1]),  # 0.1 * 30 is a little more than 3, and 0.29 * 100 less
        (0.29, [100], [29]),
        (0.99, [2, 1], [1, 1]),
    ],
)
def test_the_share_of_distilled_images(share, counts, expected):
    assert distilled_counts(counts, share) == expected


def test_rounds_divide_each_class_evenly():
    assert round_counts([8, 2, 0], 3) == [[3, 1, 0], [3, 1, 0], [2, 0, 0]]
    assert round_counts([2, 1], 3) == [[1, 1], [1, 0]]  # a third filter would select nothing


def test_the_easiest_candidates_come_first_and_then_the_easiest_others():
    labels = torch.tensor([0, 1, 0, 1, 0, 1, 0])
    events = torch.tensor([3, 0, 1, 5, 2, 1, 0])
    candidates = torch.tensor([1, 0, 1, 1, 0, 0, 0], dtype=torch.bool)
    taken = select_easiest(candidates, events, labels, [3, 2], generator())
    assert taken.tolist() == [2, 0, 6, 3, 1]
    with pytest.raises(DataError, match="class 0 has 4 training pictures"):
        select_easiest(candidates, events, labels, [5, 1], generator())


def test_equals_are_drawn_at_random():
    equals = (torch.ones(40, dtype=torch.bool), torch.zeros(40), torch.zeros(40).long())
    first, second = (select_easiest(*equals, [20], generator(seed)) for seed in (0, 1))
    assert not torch.equal(first, torch.arange(20))
    assert not torch.equal(first, second)


@settings(max_examples=60, derandomize=True)
@given(st.data())
def test_each_round_takes_the_best_that_is_left(data):
    """Beside a slow twin that looks at one picture after the other."""
    pictures = data.draw(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 3)), min_size=12))
    labels, events = (torch.tensor(column) for column in zip(*pictures, strict=True))
    members = [(labels == label).sum().item() for label in range(3)]
    counts = [data.draw(st.integers(0, count)) for count in members]
    rounds = round_counts(counts, data.draw(st.integers(1, 4)))
    masks = [torch.rand(len(labels), generator=generator(9 + k)) < 0.5 for k in range(len(rounds))]
    seen = []

    def candidates_of(number, taken):
        seen.append(taken.tolist())
        return masks[number]

    taken = select_by_curriculum(events, labels, rounds, candidates_of, generator()).tolist()
    assert len(set(taken)) == len(taken) == sum(counts)
    start = 0
    for number, wanted in enumerate(rounds):
        assert seen[number] == taken[:start]
        left = [index for index in range(len(labels)) if index not in taken[:start]]
        for label, count in enumerate(wanted):
            found = taken[start : start + count]
            assert all(labels[index] == label for index in found)
            ranks = sorted(
                (not masks[number][index], events[index].item())
                for index in left
                if labels[index] == label
            )
            assert [(not masks[number][i], events[i].item()) for i in found] == ranks[:count]
            start += count


@pytest.fixture
def wrong_of(data, teachers, runtime, tmp_path):
    """Call it to train a filter on the real pictures, and to test them with it."""

    def wrong(number=0, lr=0.01, folder="rounds", recipe="toy", runtime=runtime):
        labeler = Labeler(len(data.train), 8, LABELS, runtime, None, list(teachers.values()))
        config = replace(CONFIG, lr_of={CONVNET: lr})
        pictures = (data.train.images, data.train.labels)
        task = StudentTask(*pictures, labeler, data.normalization, config, LABELS)
        training = FilterTraining(CONVNET, data, runtime, tmp_path / folder, {"of": recipe})
        return training.classified_wrong(number, task)

    return wrong


def test_the_filter_is_trained_as_students_are_and_tested_on_all_pictures(
    wrong_of, data, monkeypatch
):
    built = keep_built(monkeypatch, curriculum)
    wrong = wrong_of(lr=1e-4)
    predicted = built[0].eval()(data.normalization.normalize(data.train.images)).argmax(dim=1)
    assert torch.equal(wrong, predicted != data.train.labels)
    assert 0 < int(wrong.sum()) < len(wrong)
    trained = wrong_of(lr=0.01, folder="longer")
    assert int(trained.sum()) < int(wrong.sum())


def test_the_filter_s_test_shares_the_decoding_of_pictures(
    data, teachers, runtime, tmp_path, monkeypatch
):
    seen = []

    def look(_model, _data, _runtime, workers=0):
        seen.append(workers)
        return torch.ones(len(data.train), dtype=torch.bool)

    monkeypatch.setattr(curriculum, "classified_rightly", look)
    labeler = Labeler(len(data.train), 8, LABELS, runtime, None, list(teachers.values()))
    pictures = (data.train.images, data.train.labels)
    task = StudentTask(*pictures, labeler, data.normalization, CONFIG, LABELS)
    training = FilterTraining(CONVNET, data, runtime, tmp_path, {"of": "toy"}, workers=3)
    assert not training.classified_wrong(0, task).any()
    assert seen == [3]


def test_each_round_begins_with_other_weights(wrong_of, monkeypatch):
    built = keep_built(monkeypatch, curriculum)
    for number in (0, 1, 0):
        wrong_of(number=number, lr=1e-12, folder=f"{len(built)}")
    first, second, again = (next(network.parameters()) for network in built)
    assert torch.allclose(first, again)
    assert not torch.allclose(first, second)


def test_a_finished_round_is_read_from_its_file(wrong_of, monkeypatch):
    wrong = wrong_of()
    built = keep_built(monkeypatch, curriculum)
    assert torch.equal(wrong_of(), wrong)
    assert not built
    wrong_of(recipe="another")
    assert len(built) == 1
    wrong_of(number=1, recipe="another")
    assert len(built) == 2


def test_a_stopped_filter_ends_as_if_it_had_not_been_stopped(
    wrong_of, runtime, tmp_path, monkeypatch
):
    expected = wrong_of(folder="whole")
    often = replace(runtime, checkpoint_seconds=0.0)
    with monkeypatch.context() as patch:
        keep_built(patch, curriculum, calls=7)
        with pytest.raises(StoppedError):
            wrong_of(runtime=often)
    steps = []
    fit = curriculum.fit_student

    def counted(model, *arguments):
        model.register_forward_pre_hook(lambda *_: steps.append(model.training))
        return fit(model, *arguments)

    monkeypatch.setattr(curriculum, "fit_student", counted)
    assert torch.equal(wrong_of(runtime=often), expected)
    assert 0 < sum(steps) < 4 * -(-len(expected) // 10)  # fewer than all steps
    assert [path.name for path in (tmp_path / "rounds").iterdir()] == ["round-00000.safetensors"]
