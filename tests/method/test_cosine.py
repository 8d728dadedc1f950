"""The cosine loss against its slow twin, and its gradient by hand."""

import pytest
import torch

from gvbsm.method.beyond.cosine import cosine_loss, smoothed_labels
from support import reference

LABELS, PARTNERS = torch.tensor([0, 2, 1, 2]), torch.tensor([1, 2, 0, 0])
KEPT = torch.tensor([1.0, 0.25, 0.7, 0.0], dtype=torch.float64)


def noise(seed):
    generator = torch.Generator().manual_seed(seed)
    return 3 * torch.randn(4, 3, generator=generator, dtype=torch.float64)


def test_smoothed_labels__divide_a_tenth_among_the_other_classes():
    labels = smoothed_labels(LABELS, PARTNERS, KEPT, 3)
    expected = [
        [0.9, 0.05, 0.05],  # not mixed
        [0.05, 0.05, 0.9],  # mixed with an image of its class
        [0.3 * 0.9 + 0.7 * 0.05, 0.7 * 0.9 + 0.3 * 0.05, 0.05],
        [0.9, 0.05, 0.05],  # all of its partner
    ]
    torch.testing.assert_close(labels, torch.tensor(expected, dtype=torch.float64))


def test_cosine_loss__equals_the_slow_twin():
    student, teacher = noise(1), noise(2)
    hard = smoothed_labels(LABELS, PARTNERS, KEPT, 3)
    rows = zip(student.tolist(), teacher.tolist(), hard.tolist(), strict=True)
    expected = sum(reference.refined_cosine_distance(*row) for row in rows) / 4
    assert float(cosine_loss(student, teacher, hard)) == pytest.approx(expected, rel=1e-12)


def test_cosine_loss__gradient_is_across_the_logits():
    """(cos x / |x| - y / |y|) / (batch |x|), x the student's logits and y the refined label."""
    student, teacher = noise(1).requires_grad_(), noise(2)
    hard = smoothed_labels(LABELS, PARTNERS, KEPT, 3)
    (gradient,) = torch.autograd.grad(cosine_loss(student, teacher, hard), student)

    def unit(rows):
        return rows / rows.square().sum(dim=1, keepdim=True).sqrt()

    x, y = student.detach(), unit(unit(teacher) + 0.1 * unit(hard))
    length = x.square().sum(dim=1, keepdim=True).sqrt()
    cosine = (x / length * y).sum(dim=1, keepdim=True)
    torch.testing.assert_close(gradient, (cosine * x / length - y) / (4 * length))
    torch.testing.assert_close((gradient * x).sum(dim=1), torch.zeros(4).double())


def test_cosine_loss__depends_on_directions_alone():
    student, teacher = noise(1), noise(2)
    hard = smoothed_labels(LABELS, PARTNERS, KEPT, 3)
    loss = cosine_loss(student, teacher, hard)
    torch.testing.assert_close(cosine_loss(7 * student, teacher / 20, 5 * hard), loss)
    best = teacher / teacher.norm(dim=1, keepdim=True) + 0.1 * hard / hard.norm(dim=1, keepdim=True)
    assert float(cosine_loss(best, teacher, hard)) == pytest.approx(0, abs=1e-12)
    assert float(cosine_loss(-best, teacher, hard)) == pytest.approx(2)


def test_smoothed_labels__of_a_single_class():
    zeros = torch.zeros(2, dtype=torch.int64)
    labels = smoothed_labels(zeros, zeros, torch.ones(2), 1)
    assert labels.isfinite().all()
