"""Absorption: tiles, the middle layer and the term, against slow float64."""

from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from gvbsm.backbones import build_backbone
from gvbsm.config import SynthesisConfig, ViewConfig
from gvbsm.data.views import Views, sample_views
from gvbsm.method.beyond.absorption import Absorption, cut_tiles, input_at, middle_layer
from support import reference
from support.matching import in_float64
from support.toy import CONVNET, IMAGE, WRN, captured

MIDDLE = {CONVNET: "classifier", WRN: "group2.0.shortcut"}


def drawn(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def enlarged(tile, height, width):
    """Bilinear, pixel by pixel: the centers of the new pixels, clamped to those of the old ones."""
    return reference.resized_crop(
        F.pad(tile, (0, width - tile.shape[2], 0, height - tile.shape[1])), 0, 0, *tile.shape[1:]
    )


@pytest.mark.parametrize(("across", "side"), [(2, 8), (3, 8), (1, 5)])
def test_cut_tiles__are_the_enlarged_parts_row_by_row(across, side):
    images = drawn(2, 3, side, side)
    found = cut_tiles(images, across)
    assert found.shape == (2 * across**2, 3, side, side)
    edges = [side * k // across for k in range(across + 1)]
    for image in range(2):
        for row in range(across):
            for column in range(across):
                tile = images[
                    image, :, edges[row] : edges[row + 1], edges[column] : edges[column + 1]
                ]
                ours = found[image * across**2 + row * across + column]
                torch.testing.assert_close(ours, enlarged(tile, side, side))


def test_middle_layer__known_answers(teachers):
    assert middle_layer(build_backbone("convnet16_d3", 4, 16), (3, 16, 16)) == "block3.conv"
    for name, path in MIDDLE.items():
        assert middle_layer(teachers[name], IMAGE) == path
    bare = nn.Sequential(nn.BatchNorm2d(3)).eval()
    with pytest.raises(ValueError, match="Sequential has no convolution and no linear layer"):
        middle_layer(bare, IMAGE)


def test_input_at__is_the_layer_s_input_and_ends_there(teachers):
    model, x, later = teachers[WRN], drawn(3, *IMAGE).float(), []
    model.get_submodule("classifier").register_forward_pre_hook(lambda *_: later.append(1))
    found = input_at(model, MIDDLE[WRN], x)
    assert later == []
    assert torch.equal(found, captured(model, x)[1][MIDDLE[WRN]])
    assert not model.get_submodule(MIDDLE[WRN])._forward_pre_hooks
    model(x)
    assert later == [1, 1]  # no hook is left that would end the pass


@pytest.mark.parametrize("across", [1, 2])
@pytest.mark.parametrize("name", [CONVNET, WRN])
def test_term__equals_the_slow_twin_with_its_gradient(name, across, targets_for, runtime):
    """Mean difference of features of tiles and anchors, each pair under the view of its image."""
    config = SynthesisConfig(weight_absorption=2.0)
    (target,) = map(in_float64, targets_for(config, [name]))
    anchors = drawn(3, across**2, *IMAGE, seed=1)
    views = sample_views(3, 8, 8, torch.Generator().manual_seed(2), ViewConfig(scale=(0.3, 1.0)))
    images = drawn(3, *IMAGE).requires_grad_()
    twin = images.detach().clone().requires_grad_()
    extra = Absorption(config, anchors, runtime)
    assert (extra.name, extra.weight) == ("absorption", 2.0)
    found = extra.term(SimpleNamespace(images=images), views, target, None)

    def seen(picture, image):
        view = reference.resized_crop(picture, *views.boxes[image].tolist())
        view = reference.mirror(view) if views.flips[image] else view
        if MIDDLE[name] != "classifier":
            return captured(target.model, view[None])[1][MIDDLE[name]]
        inputs = []
        hook = target.model.classifier.register_forward_pre_hook(lambda _, x: inputs.append(x[0]))
        target.model(view[None])
        hook.remove()
        return inputs[0]

    expected = []
    half = 8 // across
    for image in range(3):
        distances = []
        for tile in range(across**2):
            top, left = half * (tile // across), half * (tile % across)
            part = enlarged(twin[image, :, top : top + half, left : left + half], 8, 8)
            difference = seen(part, image) - seen(anchors[image, tile], image)
            distances.append(difference.abs().sum() / difference.numel())
        expected.append(sum(distances) / len(distances))
    slow = torch.stack(expected)
    assert bool((slow > 1e-3).all())
    torch.testing.assert_close(found.double(), slow, rtol=1e-5, atol=1e-7)
    weights = torch.tensor([1.0, 2.0, 5.0])
    (gradient,) = torch.autograd.grad((weights * found).sum(), images)
    (wanted,) = torch.autograd.grad((weights * slow).sum(), twin)
    torch.testing.assert_close(gradient, wanted, rtol=1e-5, atol=1e-7 * float(wanted.abs().max()))


def test_term__is_zero_for_a_tile_that_is_its_anchor(targets_for, runtime):
    """And anchors follow the images to another side."""
    config = SynthesisConfig()
    (target,) = targets_for(config, [WRN])
    pictures = drawn(2, *IMAGE).float()
    boxes = torch.tensor([[0, 0, 8, 8], [1, 2, 5, 6]])
    views = Views(boxes, torch.tensor([False, True]), torch.zeros(2, 2, dtype=torch.int64))
    extra = Absorption(config, pictures[:, None], runtime)
    state = SimpleNamespace(images=pictures)
    assert extra.term(state, views, target, None).tolist() == [0.0, 0.0]
    state.images = pictures.flip(0)
    assert bool((extra.term(state, views, target, None) > 0).all())
    state.images = F.interpolate(pictures, (6, 6), mode="bilinear", antialias=True)
    inside = views._replace(boxes=boxes.clamp(max=6))
    assert extra.term(state, inside, target, None).tolist() == [0.0, 0.0]
