"""Weights that number the classes otherwise than the folders do are found out before any work."""

from dataclasses import replace

import pytest
import torch

from gvbsm.data.pictures import DataError
from gvbsm.stages.class_order import (
    check_class_order,
    find_fault,
    renumbered_accuracy,
    sample_indices,
)
from support.toy import WRN


def drawn(accuracy, classes=1000, shown=64, each=4, order=None, seed=0):
    """Predictions of a network of some accuracy, whose other answers are anything."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(shown).repeat_interleave(each) * (classes // shown)
    order = torch.arange(classes) if order is None else order
    right = torch.rand(len(labels), generator=generator) < accuracy
    wrong = torch.randint(classes, (len(labels),), generator=generator)
    return torch.where(right, order[labels], wrong), labels


def permuted(classes=1000):
    return torch.randperm(classes, generator=torch.Generator().manual_seed(5))


@pytest.mark.parametrize("accuracy", [1.0, 0.7, 0.4, 0.2, 0.1])
@pytest.mark.parametrize("seed", range(5))
def test_right_order_passes_however_weak_the_network(accuracy, seed):
    predicted, labels = drawn(accuracy, seed=seed)
    assert find_fault(predicted, labels, 1000) is None


@pytest.mark.parametrize("accuracy", [1.0, 0.7, 0.4])
@pytest.mark.parametrize("order", [permuted(), torch.arange(1000).roll(1)], ids=["any", "shifted"])
def test_wrong_order_is_found_and_told_from_a_bad_network(accuracy, order):
    fault = find_fault(*drawn(accuracy, order=order), 1000)
    assert "numbered otherwise" in fault
    assert fault.startswith("0.")


def test_half_of_the_classes_in_wrong_order_are_found():
    order = torch.arange(1000)
    order[300:] = order[300:].roll(7)
    assert "numbered otherwise" in find_fault(*drawn(0.8, order=order), 1000)


@pytest.mark.parametrize(
    "predicted",
    [
        torch.zeros(256, dtype=torch.int64),  # one answer to everything: no order explains that
        torch.randint(1000, (256,), generator=torch.Generator().manual_seed(2)),
    ],
)
def test_network_that_knows_nothing_is_at_chance(predicted):
    _, labels = drawn(0)
    fault = find_fault(predicted, labels, 1000)
    assert "by chance (0.1 %)" in fault


def test_one_picture_of_each_class_tells_chance_alone():
    order = torch.randperm(100, generator=torch.Generator().manual_seed(1))
    predicted, labels = drawn(0.8, classes=100, shown=64, each=1, order=order)
    assert "by chance" in find_fault(predicted, labels, 100)
    assert find_fault(*drawn(0.8, classes=100, each=1), 100) is None


def test_two_classes():
    labels = torch.arange(2).repeat_interleave(4)
    assert "numbered otherwise" in find_fault(1 - labels, labels, 2)
    assert find_fault(labels, labels, 2) is None


def test_renumbered_accuracy__known_answers():
    labels = torch.tensor([0, 0, 0, 0, 1, 1, 1, 1])
    assert renumbered_accuracy(torch.tensor([5, 5, 5, 5, 6, 6, 6, 6]), labels) == 1.0
    assert renumbered_accuracy(torch.tensor([5, 5, 5, 9, 6, 6, 6, 6]), labels) == 7 / 8
    assert renumbered_accuracy(torch.tensor([5, 5, 5, 5, 5, 5, 5, 5]), labels) == 0.5
    assert renumbered_accuracy(torch.arange(8), labels) == 0.0
    assert renumbered_accuracy(torch.tensor([3]), torch.tensor([0])) == 0.0


def test_sample__a_few_of_each_class_drawn(runtime):
    labels = torch.arange(100).repeat(6)
    indices = sample_indices(labels, runtime.generator("x"))
    counts = torch.bincount(labels[indices], minlength=100)
    assert sorted(set(counts.tolist())) == [0, 4]
    assert int((counts > 0).sum()) == 64
    assert len(set(indices.tolist())) == len(indices) == 256
    assert torch.equal(indices, sample_indices(labels, runtime.generator("x")))
    assert not torch.equal(indices, sample_indices(labels, runtime.generator("y")))
    assert sample_indices(torch.tensor([1, 0, 1]), runtime.generator("x")).tolist()[0] == 1


def test_sample__of_few_classes_among_many_has_pictures(runtime):
    """Test pictures may show few of a thousand classes: 64 drawn of all would likely miss them."""
    sampled = sample_indices(torch.tensor([999, 700, 999]), runtime.generator("x"))
    assert sampled.sort().values.tolist() == [0, 1, 2]


@pytest.mark.parametrize("source", ["data", "streamed"])
@pytest.mark.parametrize("part", ["train", "test"])
def test_data_in_another_order_are_refused_with_an_example(
    source, part, teachers, runtime, request
):
    data = request.getfixturevalue(source)
    check_class_order(teachers[WRN], WRN, data, runtime)
    split = getattr(data, part)
    moved = replace(data, **{part: replace(split, labels=(split.labels + 1) % 4)})
    word = {"train": "training", "test": "test"}[part]
    with pytest.raises(DataError, match=rf"{WRN}: .* {word} pictures .*numbered otherwise") as e:
        check_class_order(teachers[WRN], WRN, moved, runtime)
    assert "\n" not in str(e.value)
    assert "Class 'ant' (index 0) is predicted as index 3, which is 'dog' here" in str(e.value) or (
        "Class 'bee' (index 1) is predicted as index 0, which is 'ant' here" in str(e.value)
    )
