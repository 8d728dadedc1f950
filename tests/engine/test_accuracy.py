"""Accuracies, confusion and calibration of a classifier against answers known by hand."""

import math

import pytest
import torch
from torch import nn

from gvbsm.engine.accuracy import BINS, accuracy, count_predictions


def counted(logits, labels, runtime, sizes=None):
    """The counts of a network that passes its input on, in batches of `sizes`."""
    model = nn.Sequential(nn.Identity(), nn.Dropout(0.9)).train()
    sizes = sizes or [len(labels)]
    counts = count_predictions(
        model, iter(zip(logits.split(sizes), labels.split(sizes), strict=True)), runtime
    )
    assert not model.training
    return counts


def test_confusion__known_answer(runtime):
    logits = torch.eye(3)[torch.tensor([0, 1, 1, 2, 0, 0, 2])]  # of what each is taken for
    labels = torch.tensor([0, 0, 0, 2, 2, 0, 2])
    counts = counted(logits, labels, runtime, [4, 3])
    assert counts.confusion.tolist() == [[2, 2, 0], [0, 0, 0], [1, 0, 2]]  # row: true class
    assert counts.top1() == pytest.approx(100 * 4 / 7)
    assert counts.by_class() == [50.0, None, pytest.approx(200 / 3)]
    assert counts.balanced() == pytest.approx((50 + 200 / 3) / 2)


def test_accuracy__known_answer(runtime):
    model = nn.Sequential(nn.Identity(), nn.Dropout(0.9)).train()
    logits = torch.tensor([[3.0, 1.0], [0.0, 2.0], [5.0, 4.0], [0.0, 1.0], [2.0, 0.0]])
    labels = torch.tensor([0, 1, 1, 1, 1])  # right, right, wrong, right | wrong
    found = accuracy(model, iter([(logits[:4], labels[:4]), (logits[4:], labels[4:])]), runtime)
    assert found == 60.0  # of all pictures, not the mean of the batches' 75 and 0
    assert not model.training


def test_top5__counts_the_class_among_the_five_largest_outputs(runtime):
    logits = torch.arange(10.0).expand(10, 10)  # the largest are 9, 8, 7, 6 and 5
    counts = counted(logits, torch.arange(10), runtime)
    assert (counts.top1(), counts.top5()) == (10.0, 50.0)
    few = counted(torch.eye(3), torch.tensor([2, 1, 1]), runtime)
    assert few.top5() == 100.0  # there are no five


def at_confidence(*probabilities):
    """Logits of two classes whose first has these probabilities."""
    p = torch.tensor(probabilities, dtype=torch.float64)
    return torch.stack((p.log(), (1 - p).log()), dim=1)


def test_calibration_error__known_answer(runtime):
    """Two bins: 0.62 and 0.64 with one right of two, 0.9 with three right of three."""
    logits = at_confidence(0.62, 0.64, 0.9, 0.9, 0.9)
    counts = counted(logits, torch.tensor([0, 1, 0, 0, 0]), runtime, [2, 3])
    expected = 2 / 5 * abs(0.5 - 0.63) + 3 / 5 * abs(1 - 0.9)
    assert counts.calibration_error() == pytest.approx(100 * expected)
    assert counts.confident.tolist() == [0] * 9 + [2, 0, 0, 0, 3, 0]
    assert counts.right.tolist() == [0] * 9 + [1, 0, 0, 0, 3, 0]


def test_calibration_error__extremes(runtime):
    certain = torch.tensor([[100.0, -100.0]]).expand(4, 2)
    assert counted(certain, torch.zeros(4).long(), runtime).calibration_error() == 0.0
    assert counted(certain, torch.ones(4).long(), runtime).calibration_error() == 100.0
    undecided = torch.zeros(4, 2)  # 0.5, and half are right
    assert counted(undecided, torch.tensor([0, 1, 0, 1]), runtime).calibration_error() == 0.0


def test_calibration_error__errors_of_one_bin_cancel_and_those_of_two_do_not(runtime):
    labels = torch.tensor([0, 0, 0, 1])
    one_bin = counted(at_confidence(0.75, 0.75, 0.75, 0.75), labels, runtime)
    assert one_bin.calibration_error() == pytest.approx(0.0, abs=1e-9)
    two_bins = counted(at_confidence(0.75, 0.75, 0.95, 0.95), labels, runtime)
    assert two_bins.calibration_error() == pytest.approx(100 * (0.25 / 2 + 0.45 / 2))


def test_a_probability_on_a_border_belongs_to_the_lower_bin(runtime):
    border = 12 / BINS
    logits = at_confidence(border, math.nextafter(border, 1) + 1e-9)
    assert counted(logits, torch.tensor([0, 0]), runtime).confident.tolist() == (
        [0] * 11 + [1, 1, 0, 0]
    )
