"""Features are what the classifier sees: it makes the logits of them, for any backbone."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from gvbsm.backbones import BACKBONES, build_backbone
from gvbsm.backbones.features import (
    check_features,
    feature_batches,
    find_classifier,
    teacher_features,
)
from gvbsm.data.loading import plain_batches
from support.toy import CONVNET, WRN

LIBRARY = (
    "torchvision/resnet18",
    "torchvision/mobilenet_v2",
    "torchvision/shufflenet_v2_x0_5",
    "torchvision/efficientnet_b0",
    "timm/deit_tiny_patch16_224",
    "timm/swin_tiny_patch4_window7_224",
    "timm/resnet18",
)


def pictures_of(data, size, runtime):
    return [pictures for pictures, _ in plain_batches(data, data.train, size, runtime, 0)]


@pytest.mark.parametrize("name", [*BACKBONES, *LIBRARY])
def test_the_classifier_makes_the_logits_of_the_features(name, runtime):
    size = 64 if "/" in name else 32
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = build_backbone(name, 7, size).eval()
    images = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(1))
    features, logits = teacher_features(model, [images], runtime)
    assert features.ndim == 2
    assert len(features) == 2
    assert not torch.equal(features[0], features[1])
    torch.testing.assert_close(logits, model(images).detach())
    classifier = find_classifier(model)
    assert classifier.out_features == 7
    torch.testing.assert_close(F.linear(features, classifier.weight, classifier.bias), logits)


def test_features_of_a_convnet_are_its_flattened_maps(teachers, data, runtime):
    model = teachers[CONVNET]
    (images,) = pictures_of(data, 40, runtime)
    maps = model.block1(images)
    assert torch.equal(teacher_features(model, [images], runtime).features, maps.flatten(1))


@pytest.mark.parametrize("name", [CONVNET, WRN])
def test_all_pictures_once_in_order_whatever_the_batch(teachers, data, streamed, runtime, name):
    whole = teacher_features(teachers[name], pictures_of(data, 40, runtime), runtime)
    assert [len(part) for part in whole] == [40, 40]
    for source, size in ((data, 7), (streamed, 16)):
        parts = teacher_features(teachers[name], pictures_of(source, size, runtime), runtime)
        torch.testing.assert_close(parts.features, whole.features)
        torch.testing.assert_close(parts.logits, whole.logits)


def test_bf16_gives_float32_and_no_graph(teachers, data, runtime):
    teachers[WRN].requires_grad_(True)
    half = replace(runtime, precision="bf16")
    features, logits = teacher_features(teachers[WRN], pictures_of(data, 40, runtime), half)
    assert features.dtype == logits.dtype == torch.float32
    assert not features.requires_grad
    exact = teacher_features(teachers[WRN], pictures_of(data, 40, runtime), runtime)
    assert not torch.equal(features, exact.features)
    torch.testing.assert_close(features, exact.features, atol=0.1, rtol=0.1)


def test_no_hook_is_left_behind_even_when_stopped_half_way(teachers, data, runtime):
    model = teachers[CONVNET]
    found = feature_batches(model, pictures_of(data, 8, runtime), runtime)
    assert len(next(found).features) == 8
    assert len(find_classifier(model)._forward_pre_hooks) == 1
    found.close()
    assert not find_classifier(model)._forward_pre_hooks


def test_a_network_without_a_linear_layer_is_refused():
    with pytest.raises(ValueError, match=r"SqueezeNet has no nn\.Linear"):
        find_classifier(build_backbone("torchvision/squeezenet1_1", 4, 64))


def test_a_last_linear_layer_that_sees_maps_or_is_not_used_is_refused(runtime):
    images = torch.zeros(2, 3, 4, 4)
    for_each_pixel = nn.Sequential(nn.Linear(4, 4), nn.Flatten())
    with pytest.raises(ValueError, match=r"Sequential has inputs of shapes \[\(2, 3, 4, 4\)\]"):
        teacher_features(for_each_pixel, [images], runtime)
    with pytest.raises(ValueError, match=r"Sequential has inputs of shapes \[\(1, 3, 4, 4\)\]"):
        check_features(for_each_pixel.to("meta"), (3, 4, 4))

    class Unused(nn.Module):
        def __init__(self):
            super().__init__()
            self.auxiliary = nn.Linear(3, 4)

        def forward(self, x):
            return x.mean(dim=(2, 3))

    with pytest.raises(ValueError, match=r"Unused has inputs of shapes \[\]"):
        teacher_features(Unused(), [images], runtime)
    with pytest.raises(ValueError, match=r"Unused has inputs of shapes \[\]"):
        check_features(Unused(), (3, 4, 4))
