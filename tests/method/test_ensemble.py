"""The ensemble's logits of a batch: weights by name, BatchNorm by the batch, and nothing else."""

import copy
from dataclasses import replace

import pytest
import timm.layers
import torch
from torch import nn

from gvbsm.config import LabelsConfig
from gvbsm.config.settled import settle_teachers
from gvbsm.data.datasets import ImageData
from gvbsm.engine.batchnorm import batch_moments
from gvbsm.engine.device import RunError
from gvbsm.method.ensemble import label_batch
from gvbsm.method.fast.batches import Ensemble
from support import reference
from support.toy import CONVNET, WRN

BATCH = LabelsConfig(batchnorm="batch")


@pytest.fixture
def pictures(data: ImageData):
    """Seven pictures, normalized."""
    return data.normalization.normalize(data.train.images[:7])


def state(*networks):
    """All that labeling must leave as it is: tensors, modes, what BatchNorm keeps."""
    return [
        (
            {name: tensor.clone() for name, tensor in net.state_dict().items()},
            [(m.training, getattr(m, "track_running_stats", None)) for m in net.modules()],
        )
        for net in networks
    ]


def unchanged(before, after):
    for (tensors, modes), (now, modes_now) in zip(before, after, strict=True):
        assert modes == modes_now
        assert all(torch.equal(tensors[name], now[name]) for name in tensors)


def by_batch(model, pictures):
    """A copy's logits in training mode, where none of its layers is random."""
    return copy.deepcopy(model).train()(pictures).detach()


@pytest.mark.parametrize("size", [2, 7])
def test_batchnorm_goes_by_the_batch_and_the_network_stays_as_it_is(
    size, teachers, pictures, runtime
):
    part = pictures[:size]
    expected = [by_batch(model, part) for model in teachers.values()]
    assert torch.equal(expected[0], teachers[CONVNET](part))  # it has no BatchNorm
    assert (expected[1] - teachers[WRN](part)).abs().max() > 0.05
    before = state(*teachers.values())
    found = label_batch(part, list(teachers.values()), BATCH, runtime)
    unchanged(before, state(*teachers.values()))
    mean = reference.ensemble_logits(expected, normalize=False)
    torch.testing.assert_close(found.double(), mean, rtol=2**-10, atol=1e-3)


def test_one_view_alone_is_normalized_by_what_was_recorded(teachers, pictures, runtime):
    asked = [pictures[:1], list(teachers.values())]
    assert torch.equal(
        label_batch(*asked, BATCH, runtime), label_batch(*asked, LabelsConfig(), runtime)
    )


def test_dropout_stays_off_and_batchnorm_of_other_libraries_is_known(pictures):
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 4, 3),
        timm.layers.BatchNormAct2d(4),
        nn.Dropout(0.5),
        nn.Flatten(),
        nn.LazyLinear(2),
    ).eval()
    plain = net(pictures)
    before = state(net)
    with batch_moments([net]), torch.no_grad():
        first, second = net(pictures), net(pictures)
    unchanged(before, state(net))
    assert torch.equal(first, second)
    assert not torch.allclose(first, plain, atol=0.1)


class Full(nn.Module):
    """A network for which there is no memory."""

    def __init__(self, error):
        super().__init__()
        self.norm, self.error = nn.BatchNorm2d(3), error

    def forward(self, _):
        raise self.error


@pytest.mark.parametrize(
    ("error", "told", "message"),
    [
        (torch.OutOfMemoryError(), RunError, r"lower both --labels\.batch_size and --evaluation"),
        (ValueError("other"), ValueError, "other"),
    ],
)
def test_networks_are_put_back_after_an_error(error, told, message, pictures, runtime):
    net = Full(error).eval()
    before = state(net)
    with pytest.raises(told, match=message) as caught:
        label_batch(pictures, [net], BATCH, runtime)
    assert "\n" not in str(caught.value)
    unchanged(before, state(net))


@pytest.mark.parametrize("normalized", [True, False])
def test_weights_are_the_named_teachers(normalized, teachers, pictures, runtime):
    plain = LabelsConfig(logit_normalization=normalized)
    models = [teachers[WRN], teachers[CONVNET], teachers[CONVNET]]
    thrice = label_batch(pictures, models, plain, runtime)
    config = replace(plain, weights={CONVNET: 2.0}, backbones=(WRN, CONVNET))
    found = label_batch(pictures, [teachers[WRN], teachers[CONVNET]], config, runtime)
    torch.testing.assert_close(found, thrice, rtol=2**-10, atol=1e-4)
    even = label_batch(pictures, list(teachers.values()), plain, runtime)
    assert (found - even).abs().max() > 0.05


def test_a_teacher_that_does_not_count_is_not_asked(teachers, pictures, runtime):
    config = LabelsConfig(weights={"full": 0.0}, backbones=("full", WRN))
    found = label_batch(pictures, [Full(AssertionError()), teachers[WRN]], config, runtime)
    assert torch.equal(found, label_batch(pictures, [teachers[WRN]], LabelsConfig(), runtime))


def test_teachers_are_named_where_they_are_weighed():
    plain, weighed = LabelsConfig(), LabelsConfig(weights={"b": 2.0})
    assert settle_teachers(plain, ("a", "b")) == plain
    assert settle_teachers(weighed, ("a", "b")).backbones == ("a", "b")
    assert settle_teachers(replace(weighed, backbones=("b",)), ("a", "b")).backbones == ("b",)


# Several batches at once


class Recorded(nn.Module):
    """Notes how many views it is called with; `error` is added to logits of more than four."""

    def __init__(self, model, error=0.0):
        super().__init__()
        self.model, self.error, self.sizes = model, error, []

    def forward(self, pictures):
        self.sizes.append(len(pictures))
        return self.model(pictures) + self.error * (len(pictures) > 4)


@pytest.mark.parametrize("normalized", [True, False])
@pytest.mark.parametrize("error", [0.0, 1e-3])
def test_ensemble__labels_are_those_of_each_batch_by_itself(
    normalized, error, teachers, pictures, runtime
):
    models = [Recorded(teachers[CONVNET]), Recorded(teachers[WRN], error)]
    config = LabelsConfig(logit_normalization=normalized)
    ensemble, sizes = Ensemble(models, config, runtime), [3, 2, 2]
    expected = torch.cat(
        [label_batch(batch, models, config, runtime) for batch in pictures.split(sizes)]
    )
    for model in models:
        model.sizes.clear()
    for _ in range(2):
        assert torch.equal(ensemble.label(pictures, sizes), expected)
    assert models[0].sizes == [7, *sizes, 7]  # compared at first, then called once
    assert models[1].sizes == [7, *sizes, *(sizes if error else [7])]


def test_ensemble__batchnorm_by_the_batch_takes_each_batch_by_itself(teachers, pictures, runtime):
    models = list(teachers.values())
    found = Ensemble(models, BATCH, runtime).label(pictures, [4, 3])
    parts = [label_batch(part, models, BATCH, runtime) for part in pictures.split([4, 3])]
    assert torch.equal(found, torch.cat(parts))
    assert not torch.equal(found, label_batch(pictures, models, BATCH, runtime))
