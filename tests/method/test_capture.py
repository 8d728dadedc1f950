"""Sums of what layers see: against two-pass loops, on the way back, and watched in networks."""

import copy
import gc
import weakref
from contextlib import contextmanager, nullcontext

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from gvbsm.backbones import BACKBONES, build_backbone, disable_inplace
from gvbsm.method.capture import HookedObserver
from gvbsm.method.fast.compiled import CompiledObserver
from gvbsm.method.fast.sweeps import observe
from gvbsm.method.layers import input_shapes, matched_layers
from gvbsm.method.moments import Sums, add, counts, finalize
from support import reference
from support.toy import captured

bounded = settings(derandomize=True, max_examples=40)

# (batch, channels, height, width), n_p: partial patches, maps below a patch, exact fits, batch 1.
SHAPES = [
    ((3, 4, 7, 9), 4),
    ((5, 3, 2, 2), 4),
    ((4, 6, 1, 1), 16),
    ((2, 3, 14, 14), 16),
    ((1, 2, 8, 8), 4),
    ((1, 3, 1, 1), 4),
    ((2, 1, 5, 12), 4),
    ((2, 2, 32, 16), 16),
    ((2, 3, 3, 4), 1),
]
DTYPES = [torch.float64, torch.float32, torch.bfloat16]
LAYOUTS = [torch.contiguous_format, torch.channels_last]
each_layout = pytest.mark.parametrize("layout", LAYOUTS, ids=["contiguous", "channels-last"])
# Largest error of a variance over its second moment. float32 and bfloat16 both sum in float32.
ROUNDING = {torch.float64: 2**-50, torch.float32: 2**-23, torch.bfloat16: 2**-23}
LIBRARY = [
    "torchvision/resnet18",
    "torchvision/mobilenet_v2",
    "torchvision/efficientnet_b0",
    "torchvision/shufflenet_v2_x0_5",
    "timm/deit_tiny_patch16_224",
    "timm/resnet18",
    "timm/efficientnet_b0",
]


def feature_map(shape, seed=0, dtype=torch.float64):
    """Noise whose mean and scale differ from channel to channel and from pixel to pixel."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(shape, generator=generator, dtype=torch.float64)
    scale = 0.5 + torch.rand(shape[1:], generator=generator, dtype=torch.float64)
    return (noise * scale + torch.randn(shape[1:], generator=generator)).to(dtype)


def weights_like(sums, seed=2):
    """Numbers to weigh sums with, so that each has a gradient of its own."""
    return [feature_map((1, *part.shape), seed=seed)[0].to(part.dtype) for part in sums]


def moments_of(x, n_p, groups=1, **settings_):
    """Each group's channel and patch moments, from `observe`."""
    _, sums = observe(x, groups, n_p, **settings_)
    made = []
    for group in range(groups):
        pair = zip(counts(x.shape[1:], n_p), sums, strict=True)
        made.append(
            [finalize(Sums(n * (len(x) // groups), *level[:, group].double())) for n, level in pair]
        )
    return made


def conv_moments(x, n_p, **settings_):
    ((channel, patch),) = moments_of(x, n_p, **settings_)
    return channel, patch


def slow_sums(x, groups, n_p):
    """Channel and patch sums of each group, slice by slice, with gradient."""

    def patches(part):
        _, _, height, width = part.shape
        return [
            [part[:, :, i : i + n_p, j : j + n_p].sum() for j in range(0, width, n_p)]
            for i in range(0, height, n_p)
        ]

    powers = [[part, part * part] for part in x.chunk(groups)]
    channel = [[power.sum(dim=(0, 2, 3)) for power in pair] for pair in powers]
    patch = [
        [torch.stack([torch.stack(row) for row in patches(power)]) for power in pair]
        for pair in powers
    ]
    return [
        torch.stack([torch.stack(pair) for pair in level]).transpose(0, 1)
        for level in (channel, patch)
    ]


def assert_moments(actual, expected, share):
    """Equal within the rounding of the sums: a share of the second moment, or of its root."""
    mean, variance = expected
    second = mean.square() + variance
    assert actual.mean.shape == mean.shape
    assert actual.variance.shape == variance.shape
    assert ((actual.mean - mean).abs() <= share * second.sqrt()).all()
    assert ((actual.variance - variance).abs() <= 4 * share * second).all()


# Values


@each_layout
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("shape", "n_p"), SHAPES)
def test_moments__equal_the_reference(shape, n_p, dtype, layout):
    x = feature_map(shape, dtype=dtype).to(memory_format=layout)
    channel, patch = conv_moments(x, n_p)
    assert_moments(channel, reference.channel_moments(x), ROUNDING[dtype])
    assert_moments(patch, reference.patch_moments(x, n_p), ROUNDING[dtype])


@each_layout
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("shape", "n_p"), SHAPES)
def test_moments__exact_ones_are_those_of_float64(shape, n_p, dtype, layout):
    x = feature_map(shape, dtype=dtype).to(memory_format=layout)
    channel, patch = conv_moments(x, n_p, exact=True)
    assert_moments(channel, reference.channel_moments(x), ROUNDING[torch.float64])
    assert_moments(patch, reference.patch_moments(x, n_p), ROUNDING[torch.float64])


@bounded
@given(
    groups=st.integers(1, 3),
    batch=st.integers(1, 3),
    channels=st.integers(1, 3),
    height=st.integers(1, 9),
    width=st.integers(1, 9),
    n_p=st.integers(1, 10),
    layout=st.sampled_from(LAYOUTS),
)
def test_moments__each_group_has_its_own_for_any_size(
    groups, batch, channels, height, width, n_p, layout
):
    x = feature_map((groups * batch, channels, height, width), seed=height * width)
    found = moments_of(x.to(memory_format=layout), n_p, groups)
    for part, (channel, patch) in zip(x.chunk(groups), found, strict=True):
        assert_moments(channel, reference.channel_moments(part), ROUNDING[torch.float64])
        assert_moments(patch, reference.patch_moments(part, n_p), ROUNDING[torch.float64])


def test_sums__known_answers():
    x = torch.tensor([[[[1.0, 2.0, 6.0]], [[0.0, 0.0, 3.0]]]])  # (1, 2, 1, 3)
    passed, sums = observe(torch.cat([x, -2 * x]), groups=2, n_p=2)
    assert torch.equal(passed, torch.cat([x, -2 * x]))
    assert sums.channel.tolist() == [[[9.0, 3.0], [-18.0, -6.0]], [[41.0, 9.0], [164.0, 36.0]]]
    # {1, 2, 0, 0} and the partial {6, 3}
    assert sums.patch[0].tolist() == [[[3.0, 9.0]], [[-6.0, -18.0]]]
    assert sums.patch[1].tolist() == [[[5.0, 45.0]], [[20.0, 180.0]]]


def test_moments__a_map_smaller_than_a_patch_is_one_patch():
    x = feature_map((4, 6, 1, 1))
    _, (mean, variance) = conv_moments(x, 16)
    assert mean.shape == variance.shape == (1, 1)
    torch.testing.assert_close(mean.squeeze(), x.mean(), rtol=1e-12, atol=0)
    torch.testing.assert_close(variance.squeeze(), x.var(unbiased=False), rtol=1e-12, atol=0)


@pytest.mark.parametrize("ratio", [3, 30, 300, 3000])
@pytest.mark.parametrize(
    ("dtype", "exact"), [(torch.float32, False), (torch.float64, False), (torch.float32, True)]
)
def test_moments__survive_a_mean_far_above_the_deviation(ratio, dtype, exact):
    # E[x^2] - E[x]^2 cancels: the variance's error is a share of E[x^2], 2^-21 where the sums are
    # float32, 2^-48 in float64. Relative to the variance: 2^-21 ratio^2, 4e-4 for 30.
    x = (feature_map((16, 4, 8, 8)) + ratio).to(dtype)
    share = 4 * ROUNDING[torch.float64 if exact else dtype]
    for actual, (mean, variance) in zip(
        conv_moments(x, 4, exact=exact),
        (reference.channel_moments(x), reference.patch_moments(x, 4)),
        strict=True,
    ):
        error = (actual.variance - variance).abs()
        assert (error <= share * (mean.square() + variance)).all()
        assert ((actual.mean - mean).abs() <= share * mean.abs()).all()


@pytest.mark.parametrize("shape", [(16, 4, 8, 8), (50, 64, 16, 16), (50, 128, 1, 1)])
def test_moments__what_is_left_of_a_variance_of_1_at_a_mean_of_1000(shape):
    """In float32 not much more than its magnitude; a data set's statistics lose nothing."""
    x = (torch.randn(shape, generator=torch.Generator().manual_seed(0)) + 1000).float()
    expected = reference.channel_moments(x)[1]
    for exact, rtol in ((False, 0.6), (True, 1e-8)):
        found = conv_moments(x, 4, exact=exact)[0].variance
        torch.testing.assert_close(found, expected, rtol=rtol, atol=0)


@pytest.mark.parametrize("value", [0.0, 0.1, 1 / 3, -1000.1, 1e-20])
@pytest.mark.parametrize("dtype", DTYPES)
def test_moments__a_constant_map_has_variance_zero_and_a_finite_gradient(value, dtype):
    x = torch.full((7, 3, 5, 6), value, dtype=torch.float64).to(dtype).requires_grad_()
    channel, patch = conv_moments(x, 4)
    for moments in (channel, patch):
        assert (moments.variance >= 0).all()
        assert (moments.variance <= 4 * ROUNDING[dtype] * moments.mean.square()).all()
    (channel.variance.sum() + patch.variance.sum()).backward()
    assert x.grad.isfinite().all()


def test_sums__exact_ones_of_many_parts_do_not_drift():
    # Kept in float32 the running sum of squares would reach 1e9 and lose the variance of 1.
    x = (feature_map((400, 1, 8, 8)) + 200).float()
    running = None
    for part in x.split(1):
        channel = observe(part, 1, 4, exact=True)[1].channel
        assert channel.dtype == torch.float64
        running = add(running, Sums(counts(part.shape[1:], 4)[0], *channel[:, 0]))
    expected = reference.channel_moments(x)[1]
    torch.testing.assert_close(finalize(running).variance, expected, rtol=1e-9, atol=0)


@pytest.mark.parametrize("dtype", DTYPES)
def test_sums__are_as_wide_under_autocast(dtype):
    """A network in bf16 is no reason to sum in bf16."""
    x = feature_map((6, 4, 7, 9), dtype=dtype)
    passed, expected = observe(x, 2, 4)
    with torch.autocast("cpu", torch.bfloat16):
        narrow, found = observe(x, 2, 4)
    assert narrow.dtype == passed.dtype == dtype
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.dtype == theirs.dtype
        assert torch.equal(ours, theirs)


# Gradients


@each_layout
@pytest.mark.parametrize(
    ("shape", "groups", "n_p"),
    [((2, 3, 5, 7), 1, 4), ((4, 2, 3, 2), 2, 2), ((3, 2, 1, 1), 3, 16), ((2, 2, 4, 4), 1, 1)],
)
def test_observe__gradcheck_of_each_and_of_all_at_once(shape, groups, n_p, layout):
    x = feature_map(shape).to(memory_format=layout).requires_grad_()

    def each(x):
        passed, sums = observe(x, groups, n_p)
        return passed.sin(), *sums

    def together(x):
        passed, sums = observe(x, groups, n_p)
        inner = (passed * passed.exp()).sum()
        return inner * sums.channel.square().sum() + (sums.patch * sums.patch.cos()).sum()

    assert torch.autograd.gradcheck(each, x)
    assert torch.autograd.gradcheck(together, x)


@each_layout
@pytest.mark.parametrize("dtype", DTYPES)
def test_observe__gradient_of_the_moments_equals_the_reference(dtype, layout):
    x = feature_map((3, 4, 7, 9), dtype=dtype).to(memory_format=layout).requires_grad_()
    twin = x.detach().double().requires_grad_()
    ours = [part for moments in conv_moments(x, 4) for part in moments]
    theirs = reference.conv_moments(twin, 4)
    weights = weights_like(theirs)
    (gradient,) = torch.autograd.grad(ours, x, weights)
    (expected,) = torch.autograd.grad(theirs, twin, weights)
    assert gradient.dtype == dtype
    tolerance = {torch.float64: 1e-13, torch.float32: 1e-6, torch.bfloat16: 2**-8}[dtype]
    assert (gradient.double() - expected).abs().max() <= tolerance * expected.abs().max()


@pytest.mark.parametrize("own", LAYOUTS, ids=["own-contiguous", "own-channels-last"])
@each_layout
@pytest.mark.parametrize("strided", [False, True])
def test_observe__layouts_may_differ_between_the_map_and_its_gradient(layout, own, strided):
    """Also where neither is whole: every second column of a wider map."""
    plain = feature_map((4, 3, 5, 7)), feature_map((4, 3, 5, 7), seed=1)
    wide = (torch.stack([part, part + 1], dim=4).flatten(3) for part in plain)
    x, gradient = (
        other.to(memory_format=kind)[..., ::2] if strided else part.to(memory_format=kind)
        for part, other, kind in zip(plain, wide, (layout, own), strict=True)
    )
    x = x.detach().requires_grad_()
    passed, sums = observe(x, 2, 3)
    further = weights_like(sums)
    (found,) = torch.autograd.grad([passed, *sums], x, [gradient, *further])
    twin = plain[0].clone().requires_grad_()
    (expected,) = torch.autograd.grad(
        [1 * twin, *slow_sums(twin, 2, 3)], twin, [plain[1], *further]
    )
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


@each_layout
def test_observe__the_gradient_of_the_sums_may_lie_in_any_order(layout):
    x = feature_map((4, 3, 5, 7)).to(memory_format=layout).requires_grad_()
    _, sums = observe(x, 2, 3)
    weights = weights_like(sums)
    turned = [part.permute(*reversed(range(part.ndim))) for part in sums]
    loss = sum(
        (part * weight.permute(*reversed(range(weight.ndim))).contiguous()).sum()
        for part, weight in zip(turned, weights, strict=True)
    )
    (found,) = torch.autograd.grad(loss, x)
    twin = x.detach().clone().requires_grad_()
    (expected,) = torch.autograd.grad(slow_sums(twin, 2, 3), twin, weights)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


# Networks


class Branches(nn.Module):
    """Maps that several layers see, a ReLU that is called twice, BatchNorm on a sum."""

    def __init__(self):
        super().__init__()
        self.left, self.right = nn.Conv2d(3, 3, 3, padding=1), nn.Conv2d(3, 3, 1)
        self.norm, self.relu = nn.BatchNorm2d(3), nn.ReLU()
        self.behind, self.beside = nn.Conv2d(3, 2, 1), nn.Conv2d(3, 2, 1)
        self.last = nn.Conv2d(2, 2, 1)
        for index, part in enumerate([*self.norm.parameters(), *self.norm.buffers()][:4]):
            part.data.add_(torch.tensor([0.1, -0.2, 0.3]) * (index + 1))

    def forward(self, x):
        x = 1.5 * x
        x = self.relu(self.norm(self.left(x) + self.right(x) + x))
        return self.last(self.relu(self.behind(x) + self.beside(x)))


EVERY = ("norm", "left", "right", "behind", "beside", "last")


def images(size, channels=3, batch=2, seed=0):
    return torch.randn(batch, channels, size, size, generator=torch.Generator().manual_seed(seed))


def in_float64(model):
    """In eval mode, and for pictures in float32 too, so that rounding is out of the way."""
    model = model.double().eval().requires_grad_(False)
    model.register_forward_pre_hook(lambda _module, arguments: arguments[0].double())
    return model


def all_layers(model):
    found = matched_layers(model)
    return [*found.batchnorm, *found.conv]


def hooks(model):
    return sum(
        len(part._forward_pre_hooks) + len(part._forward_hooks) + len(part._backward_hooks)
        for part in model.modules()
    )


@contextmanager
def one_graph(model, paths, n_p):
    """What is to be compiled, as it is."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "compile", lambda function, **_settings: function)
        yield CompiledObserver(model, paths, n_p)


@contextmanager
def by_hooks(model, paths, n_p):
    """Layer by layer."""
    yield HookedObserver(model, paths, n_p)


each_way = pytest.mark.parametrize("way", [by_hooks, one_graph])


def assert_watched(way, model, x, n_p=3, groups=1, wanted=None, tolerance=1e-10):
    """Output, sums, and the gradient through all of them are those of the network without hooks.

    Args:
        way: How it is watched.
        model: A network in float64.
        x: Pictures.
        n_p: Side of a patch.
        groups: Groups of pictures.
        wanted: Paths of the layers that are asked for; None is all.
        tolerance: Largest error relative to the largest number.
    """

    def close(ours, theirs):
        scale = float(theirs.detach().abs().max())
        torch.testing.assert_close(ours, theirs, rtol=0, atol=tolerance * scale + 1e-13)

    paths = all_layers(model)
    wanted = paths if wanted is None else list(wanted)
    twin = x.clone().requires_grad_()
    expected, inputs = captured(model, twin)
    image = x.clone().requires_grad_()
    with way(model, paths, n_p) as observer:
        logits, sums = observer(image, wanted, groups)
    close(logits, expected)
    assert sums.keys() == set(wanted)
    outputs, slow, weights = [logits], [expected], [torch.ones_like(expected)]
    for path in wanted:
        for ours, theirs in zip(sums[path], slow_sums(inputs[path], groups, n_p), strict=True):
            assert ours.shape == theirs.shape
            close(ours, theirs)
            outputs.append(ours)
            slow.append(theirs)
            # of similar size at each layer, whatever its numbers are
            weights.append(weights_like([theirs])[0] / float(theirs.detach().abs().max()))
    (gradient,) = torch.autograd.grad(outputs, image, weights)
    (wanted_gradient,) = torch.autograd.grad(slow, twin, weights)
    close(gradient, wanted_gradient)


@each_way
@pytest.mark.parametrize("name", [*BACKBONES, *LIBRARY])
def test_networks__stay_what_they_are_and_each_layer_is_summed(name, way):
    """All layers are reached once, the first convolution by the image, and no map changes later."""
    size, channels, n_p = (8, 1, 3) if name in BACKBONES else (32, 3, 16)
    if name == "timm/deit_tiny_patch16_224":
        size = 64
    model = in_float64(build_backbone(name, 4, size, channels))
    for module in model.modules():  # as untrained these are all alike
        if isinstance(module, nn.BatchNorm2d):
            shift = torch.linspace(-0.3, 0.4, module.num_features, dtype=torch.float64)
            for part in (module.running_mean, module.running_var, module.weight, module.bias):
                if part is not None:  # not all scale and shift
                    part.add_(shift)
    x = images(size, channels).double()
    assert_watched(way, model, x, n_p, tolerance=1e-8)
    first = next(iter(matched_layers(model).conv))
    with way(model, [first], n_p) as observer:
        found = observer(x, [first])[1][first]
    for ours, theirs in zip(found, slow_sums(x, 1, n_p), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)


@each_way
@pytest.mark.parametrize(
    "wanted", [EVERY, ("left",), ("right", "behind"), ("norm", "beside", "last"), ()]
)
@each_layout
def test_networks__only_what_is_wanted_is_told(wanted, way, layout):
    x = images(5, batch=6).double().to(memory_format=layout)
    assert_watched(way, in_float64(Branches()), x, n_p=2, groups=3, wanted=wanted)


@each_way
@each_layout
def test_networks__may_change_results_in_place(way, layout):
    """As torchvision's do where they add a shortcut."""

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norm = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)
            self.relu, self.last = nn.ReLU(), nn.Conv2d(3, 2, 1)

        def forward(self, x):
            out = self.norm(self.conv(x))
            out += x
            return self.last(self.relu(out))

    assert_watched(way, in_float64(Block()), images(5).double().to(memory_format=layout))


@each_way
def test_networks__each_pass_starts_afresh(way):
    model, first, second = in_float64(Branches()), images(5), images(5, seed=1)
    with way(model, iter(EVERY), 3) as observer:
        for wanted, x in ((EVERY, first), (("last", "left"), second), (EVERY, second)):
            _, sums = observer(x, wanted)
            _, inputs = captured(model, x)  # passes of the network alone are not watched
            assert sums.keys() == set(wanted)
            for path in wanted:
                torch.testing.assert_close(sums[path].channel, slow_sums(inputs[path], 1, 3)[0])
        kept = sums["left"].channel.clone()
        with pytest.raises(RuntimeError, match="channels"):
            observer(images(5, channels=4), EVERY)
        _, again = observer(first, EVERY)  # nothing is left over from the pass before
        assert again.keys() == set(EVERY)
        assert torch.equal(sums["left"].channel, kept)


@each_way
@pytest.mark.parametrize("how", ["without gradients", "with a gradient taken", "with a failure"])
def test_networks__no_activation_outlives_its_use(how, way):
    """Else the next network would run in what memory the last one has left."""
    model, seen = Branches().eval().requires_grad_(False), []
    for path in EVERY:
        model.get_submodule(path).register_forward_pre_hook(
            lambda _module, arguments: seen.append(weakref.ref(arguments[0]))
        )
    if how == "with a failure":
        model.last.register_forward_pre_hook(lambda *_: 1 / 0)
    with way(model, EVERY, 4) as observer, torch.set_grad_enabled(how != "without gradients"):
        image = images(5).requires_grad_(how != "without gradients")
        with pytest.raises(ZeroDivisionError) if how == "with a failure" else nullcontext():
            logits, sums = observer(image, EVERY)
            if how == "with a gradient taken":
                (
                    logits.sum() + sum(part.sum() for pair in sums.values() for part in pair)
                ).backward()
                del logits, sums
        gc.collect()
        assert len(seen) == len(EVERY)
        assert all(each() is None for each in seen)


@each_way
def test_networks__a_layer_called_twice_is_refused_by_name(way):
    conv = nn.Conv2d(3, 3, 1)
    model = nn.Sequential(conv, nn.ReLU(), conv)
    with (
        way(model, ["0"], 4) as observer,
        pytest.raises(RuntimeError, match=r"layer `0` is called twice"),
    ):
        observer(images(4), ["0"])
    assert hooks(model) == 0


@each_way
def test_networks__an_unknown_path_is_refused_and_leaves_no_hook(way):
    model = build_backbone("convnet4", 2, 8)
    with (
        pytest.raises(ValueError, match="no such layers in Sequential: block9"),
        way(model, ["block1.conv", "block9"], 4),
    ):
        pass
    assert hooks(model) == 0


def test_observing__equals_a_forward_pass_by_hand():
    model = build_backbone("convnet6_d2", 4, 9)
    x = images(9)
    convs = list(matched_layers(model).conv)
    weights = [parameter.detach() for parameter in model.parameters()]
    h = F.conv2d(x, weights[0], weights[1], padding=1)
    mean = h.mean(dim=(2, 3), keepdim=True)
    h = (h - mean) / ((h - mean).square().mean(dim=(2, 3), keepdim=True) + 1e-5).sqrt()
    h = (h * weights[2].view(1, -1, 1, 1) + weights[3].view(1, -1, 1, 1)).clamp(min=0)
    h = h[:, :, :8, :8].reshape(2, 6, 4, 2, 4, 2).mean(dim=(3, 5))  # floor: the 9th row is lost
    observer = HookedObserver(model, convs, 3)
    _, sums = observer(x, convs, groups=2)
    assert list(sums) == convs
    double = copy.deepcopy(model).double()
    assert input_shapes(double, convs, (3, 9, 9)) == input_shapes(model, convs, (3, 9, 9))
    assert input_shapes(model, convs, (3, 9, 9)) == {convs[0]: (3, 9, 9), convs[1]: (6, 4, 4)}
    for path, seen in zip(convs, (x, h), strict=True):
        for found, wanted in zip(sums[path], slow_sums(seen, 2, 3), strict=True):
            torch.testing.assert_close(found.detach(), wanted, rtol=1e-4, atol=1e-4)


def test_observing__output_and_gradient_are_bit_identical():
    model = build_backbone("wrn10_1", 4, 8).eval().requires_grad_(False)
    plain, image = (images(8).requires_grad_() for _ in range(2))
    expected, paths = model(plain), all_layers(model)
    observer = HookedObserver(model, paths, 4)
    logits, _ = observer(image, paths)
    assert torch.equal(logits, expected)
    gradients = [
        torch.autograd.grad(out.square().sum(), seen)[0]
        for out, seen in ((logits, image), (expected, plain))
    ]
    assert torch.equal(*gradients)  # the sums are not used: their gradient is 0


@pytest.mark.parametrize(
    ("wanted", "sweeps"),
    [
        (EVERY, 4),  # two convolutions see the picture, two the first ReLU's result
        (("left", "right"), 1),
        (("right", "beside"), 2),
        (("norm",), 1),
        ((), 0),
    ],
)
def test_observing__layers_that_see_the_same_map_share_one_sweep(wanted, sweeps, monkeypatch):
    swept = []

    def counted(x, *arguments):
        swept.append(x)
        return observe(x, *arguments)

    monkeypatch.setattr("gvbsm.method.capture.observe", counted)
    observer = HookedObserver(in_float64(Branches()), EVERY, 3)
    _, sums = observer(images(5), wanted)
    assert len(swept) == sweeps
    assert sums.keys() == set(wanted)


def test_observing__gradient_flows_from_every_layer_to_the_image():
    model = build_backbone("wrn10_1", 4, 8).eval()
    paths = all_layers(model)
    image = images(8).requires_grad_()
    observer = HookedObserver(model, paths, 4)
    _, found = observer(image, paths)
    for path in paths:
        for sums in found[path]:
            (gradient,) = torch.autograd.grad(sums[1].sum(), image, retain_graph=True)
            assert gradient.abs().sum() > 0, path


def test_observing__hooks_are_removed():
    model = build_backbone("convnet4", 2, 8)
    paths = list(matched_layers(model).conv)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    observer = HookedObserver(model, paths, 4)
    observer(images(8), paths)
    assert hooks(model) == 0
    after = model.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(value, after[name]) for name, value in before.items())


def fail_inside(model, paths):
    observer = HookedObserver(model, paths, 4)
    observer(images(8, channels=5), paths)


def test_observing__hooks_are_removed_after_an_error():
    model = build_backbone("convnet4", 2, 8)
    with pytest.raises(RuntimeError, match="channels"):
        fail_inside(model, list(matched_layers(model).conv))
    assert hooks(model) == 0


def test_observing__layers_that_change_their_input_would_break_the_gradient():
    class Greedy(nn.Module):
        def __init__(self):
            super().__init__()
            self.left = nn.Conv2d(3, 2, 1)
            self.right = nn.Sequential(nn.ReLU(inplace=True), nn.Conv2d(3, 2, 1))

        def forward(self, x):
            x = 1.5 * x
            return self.left(x) + self.right(x)

    model, image = Greedy(), images(4).requires_grad_()
    observer = HookedObserver(model, ["left"], 4)
    _, sums = observer(image, ["left"])
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        sums["left"].channel.sum().backward()
    disable_inplace(model)
    _, sums = observer(image, ["left"])
    sums["left"].channel[0].sum().backward()
    torch.testing.assert_close(image.grad, torch.full_like(image, 1.5))


def test_input_shapes__are_those_of_one_picture_and_leave_no_trace():
    model = Branches().eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    found = input_shapes(model, iter(EVERY), (3, 6, 4))
    assert found == dict.fromkeys(EVERY, (3, 6, 4)) | {"last": (2, 6, 4)}
    assert hooks(model) == 0
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    with pytest.raises(RuntimeError, match="channels"):
        input_shapes(model, EVERY, (4, 6, 4))
    assert hooks(model) == 0
    with pytest.raises(ValueError, match="no such layers in Branches: x"):
        input_shapes(model, ["left", "x"], (3, 6, 4))


# Compiled networks


def test_compiled__network_agrees_with_the_one_layer_by_layer():
    """In values and gradients, and also when the same pictures are grouped otherwise."""
    model = Branches().eval().requires_grad_(False)
    torch._dynamo.reset()
    failures = []
    compiled = CompiledObserver(model, EVERY, 2, failures.append)
    x = images(5, batch=4)
    for groups, wanted in ((2, EVERY), (1, ("norm", "left"))):
        results = []
        for way in (by_hooks, None):
            image = x.clone().requires_grad_()
            if way is None:
                logits, sums = compiled(image, wanted, groups)
                if failures:
                    pytest.skip(f"nothing can be compiled here: {failures[-1]}")
            else:
                with way(model, EVERY, 2) as observer:
                    logits, sums = observer(image, wanted, groups)
            outputs = [logits, *(part for path in wanted for part in sums[path])]
            weights = weights_like(outputs)
            results.append([*outputs, *torch.autograd.grad(outputs, image, weights)])
            assert sums.keys() == set(wanted)
        for theirs, ours in zip(*results, strict=True):
            largest = float(theirs.detach().abs().max())
            assert ours.dtype == theirs.dtype
            torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5 * largest)


@pytest.mark.parametrize("broken", ["compiling", "calling"])
def test_compiled__without_a_working_compiler_it_runs_as_it_is(broken, monkeypatch):
    """It reports the failure once, and has the right sums and gradients."""

    def fail(*_arguments):
        raise RuntimeError("no compiler found\nand a second line\n")

    def compile_(*_arguments, **_settings):
        return fail() if broken == "compiling" else fail

    monkeypatch.setattr(torch, "compile", compile_)
    model, x = in_float64(Branches()), images(5, batch=4).double()
    failures = []
    observer = CompiledObserver(model, EVERY, 3, failures.append)
    assert_watched(lambda *_: nullcontext(observer), model, x, groups=2)
    assert_watched(lambda *_: nullcontext(observer), model, x[:3])
    assert failures == ["no compiler found"]


def test_compiled__a_failure_without_words_is_told_by_its_kind(monkeypatch):
    def fail(*_arguments):
        raise NotImplementedError

    monkeypatch.setattr(torch, "compile", lambda *_arguments, **_settings: fail)
    failures = []
    CompiledObserver(in_float64(Branches()), EVERY, 3, failures.append)(images(5), EVERY)
    assert failures == ["NotImplementedError"]


def test_compiled__out_of_memory_does_not_stop_compiling(monkeypatch):
    """It is handed on, and the compiled network is used again."""
    calls = []

    def compile_(function, **_settings):
        def run(x):
            calls.append(len(x))
            if len(x) > 2:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return function(x)

        return run

    monkeypatch.setattr(torch, "compile", compile_)
    failures = []
    observer = CompiledObserver(Branches().eval(), EVERY, 3, failures.append)
    with pytest.raises(torch.OutOfMemoryError):
        observer(images(5, batch=4), EVERY)
    observer(images(5), EVERY)
    assert calls == [4, 2]
    assert failures == []


def test_compiled__at_first_use_and_once(monkeypatch):
    """A teacher that is never drawn costs no compiling."""
    made = []
    monkeypatch.setattr(torch, "compile", lambda function, **_settings: made.append(1) or function)
    observer = CompiledObserver(Branches().eval(), EVERY, 3)
    assert made == []
    for batch in (2, 2, 4):
        observer(images(5, batch=batch), EVERY)
    assert made == [1]


def test_compiled__network_is_a_copy(monkeypatch):
    """The teacher itself stays without hooks, and may be used as before."""
    monkeypatch.setattr(torch, "compile", lambda function, **_settings: function)
    model = Branches().eval()
    observer = CompiledObserver(model, EVERY, 3)
    assert hooks(model) == 0
    expected, _ = observer(images(5), EVERY)
    model.last.weight.data.zero_()
    assert torch.equal(observer(images(5), EVERY)[0], expected)
