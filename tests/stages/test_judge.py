"""The judge records what its last test measured, as far as the classes allow."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from gvbsm.data.corrupted.copies import Copies
from gvbsm.engine.processes import ALONE
from gvbsm.stages import judge as judge_module
from gvbsm.stages.judge import Judge


class Constant(nn.Module):
    """Answers one class to everything."""

    def __init__(self, classes, answer):
        super().__init__()
        self.logits = torch.zeros(classes)
        self.logits[answer] = 1

    def forward(self, pictures):
        return self.logits.expand(len(pictures), -1)


def uneven(data, kept):
    """The toy set with this number of test pictures of each class."""
    rows = torch.cat(
        [(data.test.labels == label).nonzero().flatten()[:n] for label, n in enumerate(kept)]
    )
    return replace(data, test=data.test.select(rows))


def test_even_classes_have_no_balanced_accuracy_and_few_no_top5(data, runtime):
    judge = Judge(data, runtime, 0)
    assert judge.record() == {}
    assert judge(Constant(4, 1)) == 25.0
    record = judge.record()
    assert record["confusion"] == [[0, 4, 0, 0]] * 4
    metrics = record["metrics"]
    assert metrics.keys() == {"calibration_error", "by_class"}
    assert metrics["by_class"] == [0.0, 100.0, 0.0, 0.0]
    confidence = torch.e / (torch.e + 3)
    assert metrics["calibration_error"] == pytest.approx(100 * (confidence - 0.25), rel=1e-6)


def test_uneven_classes__the_last_test_counts(data, runtime):
    judge = Judge(uneven(data, [4, 2, 1, 0]), runtime, 0)
    judge(Constant(4, 3))
    assert judge(Constant(4, 0)) == pytest.approx(100 * 4 / 7)
    metrics = judge.record()["metrics"]
    assert metrics["by_class"] == [100.0, 0.0, 0.0, None]
    assert metrics["balanced"] == pytest.approx(100 / 3)


def test_top5_from_ten_classes_and_no_confusion_beyond_its_limit(data, runtime, monkeypatch):
    names = tuple("abcdefghij")
    judge = Judge(replace(data, class_names=names), runtime, 0, ALONE)
    judge(Constant(10, 3))
    assert 0 < judge.record()["metrics"]["top5"] <= 100
    assert "confusion" in judge.record()
    monkeypatch.setattr(judge_module, "CONFUSED_CLASSES", 9)
    assert judge.record().keys() == {"metrics"}


class Bright(nn.Module):
    """Answers class 1 to pictures brighter than the mean, and class 0 to the others."""

    def forward(self, pictures):
        is_bright = pictures.mean(dim=(1, 2, 3)) > 0
        return nn.functional.one_hot(is_bright.long(), 4).float()


def test_corrupted_copies__are_compared_with_the_same_pictures_alone(data, runtime):
    """Of classes 0, 1 and 1, by copies that are all white or all black."""
    index = torch.tensor([0, 1, 5])
    white, black = (torch.full((3, 3, 8, 8), value, dtype=torch.uint8) for value in (255, 0))
    made = {"fog": torch.stack([white, black]), "snow": torch.stack([white, white])}
    copies = Copies(index, ("fog", "snow"), (1, 5), lambda: "toy", made.__getitem__)
    judge = Judge(data, runtime, 0, copies=copies)
    judge(Bright())
    judge.test_corrupted(Bright())
    record = judge.record()
    found = record["corruptions"]
    assert found["kinds"]["fog"] == pytest.approx([200 / 3, 100 / 3])
    assert found["kinds"]["snow"] == pytest.approx([200 / 3, 200 / 3])
    assert record["metrics"]["corrupted"] == pytest.approx((50 + 200 / 3) / 2)
    assert (found["pictures"], found["severities"], found["source"]) == (3, [1, 5], "toy")
    judge.test_corrupted(Constant(4, 1))
    assert judge.record()["corruptions"]["clean"] == pytest.approx(200 / 3)
    assert judge(Constant(4, 1)) == 25.0  # that of all test pictures
