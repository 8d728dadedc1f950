"""The hard phase: which epochs it takes, and its loss against a slow twin."""

import math

import pytest
import torch
import torch.nn.functional as F

from gvbsm.config import EvaluationConfig, HardPhaseConfig
from gvbsm.method.beyond.hard_phase import hard_epochs, smoothed_loss, soft_number


def settings(share, loss="kl"):
    return EvaluationConfig(loss=loss, hard_phase=HardPhaseConfig(share=share))


@pytest.mark.parametrize(
    ("epochs", "share", "expected"),
    [
        (300, 0.5, range(75, 225)),  # HALD's script: 75 + 150 + 75
        (7, 0.3, range(2, 4)),  # 2 + 2 + 3
        (4, 0.9, range(4)),
        (1, 0.3, range(0)),
        (20, 0.0, range(0)),
    ],
)
def test_hard_epochs__are_in_the_middle(epochs, share, expected):
    assert hard_epochs(epochs, settings(share)) == expected
    assert hard_epochs(epochs, settings(share, "hard")) == range(0)


def test_soft_number__counts_the_other_epochs():
    hard = range(3, 7)
    soft = [epoch for epoch in range(10) if epoch not in hard]
    assert [soft_number(epoch, hard) for epoch in soft] == list(range(6))
    assert [soft_number(epoch, range(0)) for epoch in range(4)] == list(range(4))


def test_smoothed_loss__is_the_cross_entropy_with_the_mixed_label():
    generator = torch.Generator().manual_seed(3)
    student = 2 * torch.randn(3, 4, generator=generator, dtype=torch.float64)
    labels, partners = torch.tensor([0, 3, 2]), torch.tensor([1, 1, 2])
    kept = torch.tensor([1.0, 0.25, 0.6], dtype=torch.float64)
    expected, mixed = 0.0, []
    for row, label, partner, share in zip(
        student.tolist(), labels.tolist(), partners.tolist(), kept.tolist(), strict=True
    ):
        target = [0.8 / 4] * 4
        target[label] += 0.2 * share
        target[partner] += 0.2 * (1 - share)
        total = math.log(sum(map(math.exp, row)))
        expected += sum(p * (total - z) for p, z in zip(target, row, strict=True)) / 3
        mixed.append(target)
    student.requires_grad_()
    loss = smoothed_loss(student, labels, partners, kept, 0.8)
    assert loss.item() == pytest.approx(expected, rel=1e-12)
    (gradient,) = torch.autograd.grad(loss, student)
    target = torch.tensor(mixed, dtype=torch.float64)
    torch.testing.assert_close(gradient, (student.detach().softmax(1) - target) / 3)
    plain = F.cross_entropy(student.detach(), labels)
    unmixed = smoothed_loss(student.detach(), labels, partners, torch.ones(3).double(), 0.0)
    torch.testing.assert_close(unmixed, plain)
