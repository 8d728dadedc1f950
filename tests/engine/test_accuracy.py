"""Confusion matrices and accuracies against answers known by hand."""

import pytest
import torch
from torch import nn

from gvbsm.engine.accuracy import accuracy, confusion_matrix, diagonal_percent


def test_confusion__known_answer(runtime):
    model = nn.Sequential(nn.Identity(), nn.Dropout(0.9)).train()
    logits = torch.eye(3)[torch.tensor([0, 1, 1, 2, 0, 0, 2])]  # of what each is taken for
    labels = torch.tensor([0, 0, 0, 2, 2, 0, 2])
    found = confusion_matrix(
        model, iter([(logits[:4], labels[:4]), (logits[4:], labels[4:])]), runtime
    )
    assert found.tolist() == [[2, 2, 0], [0, 0, 0], [1, 0, 2]]  # row: true class
    assert diagonal_percent(found) == pytest.approx(100 * 4 / 7)
    assert not model.training


def test_accuracy__known_answer(runtime):
    model = nn.Sequential(nn.Identity(), nn.Dropout(0.9)).train()
    logits = torch.tensor([[3.0, 1.0], [0.0, 2.0], [5.0, 4.0], [0.0, 1.0], [2.0, 0.0]])
    labels = torch.tensor([0, 1, 1, 1, 1])  # right, right, wrong, right | wrong
    found = accuracy(model, iter([(logits[:4], labels[:4]), (logits[4:], labels[4:])]), runtime)
    assert found == 60.0  # of all pictures, not the mean of the batches' 75 and 0
    assert not model.training
