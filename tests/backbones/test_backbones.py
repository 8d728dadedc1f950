"""Backbones: known sizes, shapes, and which layers are matched; see also test_capture.py."""

import urllib.error

import pytest
import timm
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from gvbsm.backbones import (
    BACKBONES,
    backbone_names,
    build_backbone,
    check_takes,
    disable_inplace,
    published_classes,
)
from gvbsm.backbones.calling import check_call
from gvbsm.backbones.cost import Size, size_of
from gvbsm.method.layers import matched_layers

# Counted on the authors' networks: parameters with (10 classes, 32 px), (100, 32), (200, 64);
# millions of multiply-adds for one 32 px image; BatchNorm layers; convolutions.
PAPER = {
    "resnet18": ((11_173_962, 11_220_132, 11_271_432), 555, 20, 20),
    "convnet128": ((320_010, 504_420, 1_938_120), 51, 0, 3),
    "mobilenet_v2_x0_5": ((697_546, 812_836, 940_936), 6.4, 53, 53),
    "wrn16_2": ((691_674, 703_284, 716_184), 101, 13, 16),
    "shufflenet_v2_x0_5": ((351_466, 443_716, 546_216), 10.3, 56, 56),
}
# Likewise at 224 px with 1000 classes; parameters in millions.
PAPER_FULL_SIZE = {
    "torchvision/resnet18": (11.69, 1814, 20, 20),
    "torchvision/mobilenet_v2": (3.50, 301, 52, 52),
    "torchvision/efficientnet_b0": (5.29, 386, 49, 81),
    "torchvision/shufflenet_v2_x0_5": (1.37, 41, 56, 56),
}
LIBRARY = [*PAPER_FULL_SIZE, "timm/deit_tiny_patch16_224", "timm/resnet18", "timm/efficientnet_b0"]


def parameters(model):
    return sum(parameter.numel() for parameter in model.parameters())


def counts(model):
    layers = matched_layers(model)
    return len(layers.batchnorm), len(layers.conv)


def multiply_adds(model, image):
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.eval()(image)
    return counter.get_total_flops() / 2e6


def images(size, channels=3, batch=2, seed=0):
    return torch.randn(batch, channels, size, size, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("name", PAPER)
def test_small_image_networks_are_those_of_the_paper(name):
    sizes, mega_macs, batchnorms, convs = PAPER[name]
    with torch.device("meta"):
        built = [build_backbone(name, *shape) for shape in ((10, 32), (100, 32), (200, 64))]
        image = torch.empty(1, 3, 32, 32)
    assert tuple(parameters(model) for model in built) == sizes
    assert counts(built[0]) == (batchnorms, convs)
    assert multiply_adds(built[0], image) == pytest.approx(mega_macs, rel=0.01)


@pytest.mark.parametrize("name", PAPER_FULL_SIZE)
def test_full_size_networks_are_those_of_the_paper(name):
    millions, mega_macs, batchnorms, convs = PAPER_FULL_SIZE[name]
    with torch.device("meta"):
        model = build_backbone(name, 1000, 224)
        image = torch.empty(1, 3, 224, 224)
    assert parameters(model) / 1e6 == pytest.approx(millions, abs=0.006)
    assert counts(model) == (batchnorms, convs)
    assert multiply_adds(model, image) == pytest.approx(mega_macs, abs=0.6)


def test_deeper_resnets_have_torchvision_s_layers_but_for_the_stem():
    with torch.device("meta"):
        for depth in (18, 34, 50, 101):
            ours = build_backbone(f"resnet{depth}", 1000, 32)
            theirs = build_backbone(f"torchvision/resnet{depth}", 1000, 224)
            assert parameters(theirs) - parameters(ours) == 64 * 3 * (7 * 7 - 3 * 3)
            assert counts(ours) == counts(theirs)


@pytest.mark.parametrize("name", BACKBONES)
@pytest.mark.parametrize(("classes", "size", "channels"), [(7, 8, 1), (3, 13, 4)])
def test_output_shape_in_training_and_evaluation(name, classes, size, channels):
    model = build_backbone(name, classes, size, channels)
    x = images(size, channels)
    with torch.no_grad():
        trained = model.train()(x)
        one = model.eval()(x[:1])
    assert trained.shape == (2, classes)
    assert one.shape == (1, classes)
    assert trained.isfinite().all()
    assert one.isfinite().all()


@pytest.mark.parametrize("name", BACKBONES)
@pytest.mark.parametrize("size", [28, 32, 64])
def test_output_shape_at_the_usual_sizes(name, size):
    with torch.device("meta"):
        model = build_backbone(name, 9, size)
        assert model(torch.empty(2, 3, size, size)).shape == (2, 9)


@pytest.mark.parametrize(
    ("name", "first_conv", "parameter_count"),
    [
        ("convnet32_d2", (32, 3, 3, 3), 896 + 9248 + 2 * 64 + 32 * 8 * 8 * 10 + 10),
        ("convnet16", (16, 3, 3, 3), 448 + 2 * 2320 + 3 * 32 + 16 * 4 * 4 * 10 + 10),
        ("wrn10_1", (16, 3, 3, 3), None),
        ("wrn22_2", (16, 3, 3, 3), None),
    ],
)
def test_families_take_any_numbers(name, first_conv, parameter_count):
    model = build_backbone(name, 10, 32)
    assert next(iter(matched_layers(model).conv.values())).weight.shape == first_conv
    if parameter_count is not None:
        assert parameters(model) == parameter_count
    else:
        depth = int(name[3:5])
        shortcuts = 2 if name.endswith("_1") else 3  # 16 -> 16 channels needs none
        assert counts(model) == (depth - 3, depth - 3 + shortcuts)
    assert model(images(32)).shape == (2, 10)


@settings(max_examples=40, derandomize=True)
@given(
    st.tuples(*[st.integers(1, 3)] * 2, *[st.integers(2, 9)] * 2),
    st.integers(0, 99),
    st.sampled_from([torch.float32, torch.bfloat16]),
)
def test_convnet_s_pooling_is_torch_s_to_the_last_bit(shape, seed, dtype):
    pool = build_backbone("convnet8_d1", 10, 8).block1.pool
    generator = torch.Generator().manual_seed(seed)
    x = (100 * torch.randn(shape, generator=generator)).to(dtype).requires_grad_()
    known = nn.functional.avg_pool2d(x, 2)
    found = pool(x)
    assert torch.equal(found, known)
    assert found.is_contiguous()
    assert "MeanOfCells" in found.grad_fn.name()  # not torch's, which is slower
    way_back = torch.randn(known.shape, generator=generator).to(dtype)
    gradient, expected = (torch.autograd.grad(y, x, way_back)[0] for y in (found, known))
    assert torch.equal(gradient, expected)
    (spread,) = torch.autograd.grad(pool(x).sum(), x)  # of a gradient that is one number
    (wanted,) = torch.autograd.grad(nn.functional.avg_pool2d(x, 2).sum(), x)
    assert torch.equal(spread, wanted)


def test_convnet_s_pooling_leaves_other_maps_to_torch():
    pool = build_backbone("convnet8_d1", 10, 8).block1.pool
    plain = torch.randn(2, 8, 7, 7, requires_grad=True)
    for x in (plain.double(), plain.half(), plain.to(memory_format=torch.channels_last)):
        found = pool(x)
        assert torch.equal(found, nn.functional.avg_pool2d(x, 2))
        assert found.grad_fn.name() == "AvgPool2DBackward0"
        like = x.is_contiguous(memory_format=torch.channels_last)
        assert found.is_contiguous(memory_format=torch.channels_last) == like
    broken = torch.tensor([[[[torch.inf, 1.0], [1.0, 1.0]], [[torch.nan, 1.0], [1.0, 1.0]]]])
    assert torch.equal(pool(broken).isfinite(), torch.tensor([[[[False]], [[False]]]]))
    assert list(build_backbone("convnet8_d1", 10, 8).state_dict()) == [
        "block1.conv.weight",
        "block1.conv.bias",
        "block1.norm.weight",
        "block1.norm.bias",
        "classifier.weight",
        "classifier.bias",
    ]


@pytest.mark.parametrize("name", ["convnet8", "wrn16_2", "resnet18", "timm/deit_tiny_patch16_224"])
def test_weights_depend_on_the_global_generator_only(name):
    def weights(seed):
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            state = build_backbone(name, 4, 32).state_dict()
        return torch.cat([value.flatten().double() for value in state.values()])

    first, again, other = weights(1), weights(1), weights(2)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("name", ["wrn16_2", "resnet18", "mobilenet_v2_x0_5"])
def test_initial_stem_has_the_variance_of_kaiming_fan_out(name):
    model = build_backbone(name, 10, 32)
    for conv in list(matched_layers(model).conv.values())[:2]:
        fan_out = conv.out_channels * conv.kernel_size[0] * conv.kernel_size[1]
        assert conv.weight.std().item() == pytest.approx((2 / fan_out) ** 0.5, rel=0.2)


def normalized(x, layer):
    """BatchNorm by recorded moments, as Ioffe and Szegedy write it."""
    mean, var, scale, shift = (
        part.view(-1, 1, 1)
        for part in (layer.running_mean, layer.running_var, layer.weight, layer.bias)
    )
    return (x - mean) / (var + layer.eps).sqrt() * scale + shift


def with_moments_of_its_own(model):
    """The network in float64, whose BatchNorm layers are not the identity."""
    generator = torch.Generator().manual_seed(4)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for part in (module.running_mean, module.weight.data, module.bias.data):
                part.copy_(torch.randn(part.shape, generator=generator))
            module.running_var.copy_(0.5 + torch.rand(part.shape, generator=generator))
    return model.double().eval()


@pytest.mark.parametrize("name", ["wrn10_1", "wrn16_2"])
def test_wide_resnet__equals_a_forward_pass_by_hand(name):
    """Pre-activation: a shortcut that changes the shape begins behind norm and ReLU (section 2)."""
    model = with_moments_of_its_own(build_backbone(name, 4, 9))
    x = images(9).double()
    found = model(x)
    x = nn.functional.conv2d(x, model.stem.weight, padding=1)
    for number, stride in ((1, 1), (2, 2), (3, 2)):
        for place, block in enumerate(model.get_submodule(f"group{number}")):
            active = normalized(x, block.norm1).clamp(min=0)
            inner = nn.functional.conv2d(
                active, block.conv1.weight, stride=1 if place else stride, padding=1
            )
            inner = normalized(inner, block.norm2).clamp(min=0)
            beside = x
            if inner.shape[1] != x.shape[1] or (stride > 1 and place == 0):
                beside = nn.functional.conv2d(active, block.shortcut.weight, stride=stride)
            x = nn.functional.conv2d(inner, block.conv2.weight, padding=1) + beside
    x = normalized(x, model.norm).clamp(min=0).mean(dim=(2, 3))
    expected = x @ model.classifier.weight.T + model.classifier.bias
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


def kinds(module):
    """Names of the layers of a part, in order, without the convolutions' sizes."""
    return [type(part).__name__ for part in module.modules() if not any(part.children())]


def test_changed_parts_of_torchvision_s_networks_keep_their_layers():
    """Norm and activation follow each convolution, except the last one of a bottleneck."""
    with torch.device("meta"):
        mobile = build_backbone("mobilenet_v2_x0_5", 10, 32)
        shuffle = build_backbone("shufflenet_v2_x0_5", 10, 32)
    active, last = ["Conv2d", "BatchNorm2d", "ReLU6"], ["Conv2d", "BatchNorm2d"]
    assert kinds(mobile.features[0]) == kinds(mobile.features[-1]) == active
    for block in mobile.features[1:-1]:
        assert kinds(block.conv) == [*active, *active, *last]
    assert not [part for part in mobile.modules() if isinstance(part, nn.Dropout) and part.p]
    assert kinds(shuffle.conv1) == ["Conv2d", "BatchNorm2d", "ReLU"]


# --- matched layers ---------------------------------------------------------------------------


def test_matched_layers_are_found_by_type_and_not_by_name():
    class Renamed(nn.BatchNorm2d):
        pass

    model = nn.Sequential()
    model.add_module("bn", nn.Conv2d(3, 4, 1))
    model.add_module("conv", Renamed(4))
    model.add_module("bn_without_statistics", nn.BatchNorm2d(4, track_running_stats=False))
    model.add_module("conv_like", nn.ConvTranspose2d(4, 4, 1))
    model.add_module("inner", nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm1d(4)))
    layers = matched_layers(model)
    assert list(layers.batchnorm) == ["conv"]
    assert list(layers.conv) == ["bn", "inner.0"]
    assert layers.conv["inner.0"] is model.inner[0]


def test_disable_inplace_makes_every_layer_return_a_new_tensor():
    model = nn.Sequential(nn.Sequential(nn.ReLU(inplace=True)), nn.Dropout(0.5, inplace=True))
    image = images(4)
    before = image.clone()
    disable_inplace(model)
    model(image)
    assert torch.equal(image, before)


@pytest.mark.parametrize("name", [*BACKBONES, *LIBRARY])
def test_built_networks_have_no_inplace_layer(name):
    with torch.device("meta"):
        model = build_backbone(name, 4, 32)
    assert not [path for path, module in model.named_modules() if getattr(module, "inplace", False)]


# --- names, arguments, libraries --------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("resnet81", "resnet18"),
        ("convnet-128", "convnet128"),
        ("torchvision/mobilenetv2", "torchvision/mobilenet_v2"),
        ("timm/deit_tiny_patch16_244", "timm/deit_tiny_patch16_224"),
    ],
)
def test_an_unknown_name_is_answered_with_the_nearest(name, nearest):
    with pytest.raises(ValueError, match="unknown backbone") as error:
        build_backbone(name, 10, 32)
    hint, known = str(error.value).split("Known:")
    assert nearest in hint
    assert "torchvision/<name>" in known
    assert "timm/<name>" in known


def test_backbone_names_can_all_be_found_in_the_registry():
    assert backbone_names() == list(BACKBONES)
    assert set(PAPER) <= set(backbone_names())
    assert all(spec.summary for spec in BACKBONES.values())


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("convnet128", (10, 7), r"too often for 7 px.*convnet128_d2"),
        ("convnet8_d999999999", (10, 7), r"too often for 7 px.*convnet8_d2"),
        ("convnet0", (10, 32), "at least 1"),
        ("convnet8_d0", (10, 32), "at least 1"),
        ("wrn17_2", (10, 32), "6n \\+ 4"),
        ("wrn4_2", (10, 32), "6n \\+ 4"),
        ("wrn16_0", (10, 32), "width"),
        ("resnet18", (0, 32), "`classes` must be at least 1, got 0"),
        ("resnet18", (10, 0), "`image_size`"),
        ("resnet18", (10, 32, 0), "`channels`"),
        ("resnet18", (10, 32, 3, True), "resnet18 has no pretrained weights"),
        ("torchvision/resnet18", (10, 32, 1), "3 channels, got 1"),
        ("torchvision/resnet18", (10, 224, 3, True), "have 1000 classes, the data set 10"),
        ("torchvision/vit_h_14", (1000, 518, 3, True), "no weights IMAGENET1K_V1"),
        ("timm/deit_tiny_patch16_224", (10, 224, 3, True), "have 1000 classes, the data set 10"),
        ("timm/resnet18.a9_in1k", (10, 224), "unknown backbone.*timm/resnet18"),
        ("torchvision/googlenet", (10, 224), "unknown backbone"),
        ("no_library/resnet18", (10, 224), "unknown backbone"),
    ],
)
def test_impossible_requests_are_explained(name, arguments, message):
    with pytest.raises(ValueError, match=message):
        build_backbone(name, *arguments)


@pytest.mark.parametrize(
    ("name", "size", "channels"),
    [
        ("timm/deit_tiny_patch16_224", 64, 3),
        ("timm/deit_tiny_patch16_224", 32, 1),
        ("timm/swin_tiny_patch4_window7_224", 64, 3),
        ("timm/resnet18.a1_in1k", 40, 1),
        ("torchvision/shufflenet_v2_x0_5", 64, 3),
    ],
)
def test_library_networks_take_other_sizes(name, size, channels):
    model = build_backbone(name, 10, size, channels).eval()
    with torch.no_grad():
        assert model(images(size, channels)).shape == (2, 10)


@pytest.fixture
def offline(monkeypatch):
    """Whatever asks for a network, or builds one, fails."""

    def fail(*_arguments, **_options):
        raise AssertionError("nothing is to be loaded or built")

    for name in (
        "socket.socket.connect",
        "torch.hub.load_state_dict_from_url",
        "torchvision.models._api.load_state_dict_from_url",
        "torchvision.models.get_model",
        "timm.create_model",
        "torch.nn.Module.__init__",
    ):
        monkeypatch.setattr(name, fail)


@pytest.mark.parametrize(
    "name", [*PAPER_FULL_SIZE, "timm/deit_tiny_patch16_224", "timm/resnet18.a1_in1k"]
)
def test_published_classes_are_counted_without_loading(name, offline):
    assert published_classes(name) == 1000


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("resnet18", "resnet18 has no pretrained weights; only torchvision/ and timm/ do"),
        ("convnet8_d1", "convnet8_d1 has no pretrained weights"),
        ("torchvision/vit_h_14", "no weights IMAGENET1K_V1, only"),
        ("timm/regnetx_nothing", "timm/regnetx_nothing has no pretrained weights"),
    ],
)
def test_published_classes__names_what_has_none(name, message, offline):
    with pytest.raises(ValueError, match=message):
        published_classes(name)


def test_torchvision_weights_are_the_first_version(monkeypatch):
    source = torchvision.models.shufflenet_v2_x0_5()
    asked = []

    def download(url, *_arguments, **_options):
        asked.append(url)
        return source.state_dict()

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", download)
    model = build_backbone("torchvision/shufflenet_v2_x0_5", 1000, 224, pretrained=True)
    assert asked == [torchvision.models.ShuffleNet_V2_X0_5_Weights.IMAGENET1K_V1.url]
    assert torch.equal(model.conv1[0].weight, source.conv1[0].weight)


def test_a_failed_torchvision_download_says_what_to_do(monkeypatch):
    def download(*_arguments, **_options):
        raise urllib.error.URLError("no network")

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", download)
    with pytest.raises(OSError, match=r"torchvision/resnet18 .*no network.*hub cache") as error:
        build_backbone("torchvision/resnet18", 1000, 224, pretrained=True)
    assert "\n" not in str(error.value)
    assert "resnet18-f37072fd.pth" in str(error.value)


def test_a_failed_timm_download_says_what_to_do(monkeypatch):
    def create(_name, pretrained, **_options):
        assert pretrained
        raise FileNotFoundError("cannot reach the hub\nsecond line")

    monkeypatch.setattr(timm, "create_model", create)
    with pytest.raises(OSError, match=r"timm/resnet18 .*cannot reach the hub\).*cache") as error:
        build_backbone("timm/resnet18", 1000, 224, pretrained=True)
    assert "\n" not in str(error.value)


def test_airbench_whitens_without_data_and_learns_all_but_its_stem():
    model = build_backbone("airbench", 10, 32)
    stem = model.stem
    assert not stem.conv.weight.requires_grad
    flat = stem.conv.weight.flatten(1)
    torch.testing.assert_close(flat @ flat.T, torch.eye(12), atol=1e-6, rtol=0)
    pictures = torch.randn(64, 3, 32, 32) * torch.tensor([1.0, 3.0, 0.2]).view(3, 1, 1)
    answers = stem.train()(pictures)
    assert answers.shape == (64, 24, 31, 31)
    torch.testing.assert_close(answers.var(dim=(0, 2, 3)), torch.ones(24), atol=0.02, rtol=0)
    torch.testing.assert_close(answers[:, :12], -answers[:, 12:])
    active = ["BatchNorm2d", "GELU"]
    for number, channels in ((1, 24), (2, 64), (3, 256)):  # a block starts with the identity
        block, x = model.get_submodule(f"block{number}"), torch.randn(2, channels, 5, 5)
        kept = min(channels, block.conv1.out_channels)
        torch.testing.assert_close(block.conv1(x)[:, :kept], x[:, :kept])
        assert kinds(block) == ["Conv2d", "MaxPool2d", *active, "Conv2d", *active]
    learned = sum(part.numel() for part in model.parameters() if part.requires_grad)
    assert learned == sum(part.numel() for part in model.parameters()) - 12 * 12


# A call before all work


class Odd(nn.Linear):
    """A network that asks for a value, which no meta tensor has, and may answer in a wrong way."""

    def __init__(self, answer):
        super().__init__(12, 5)
        self.answer = answer

    def forward(self, pictures):
        logits = super().forward(pictures.flatten(1))
        assert float(logits.detach().sum()) == float(logits.detach().sum())
        return self.answer(logits)


def test_what_the_meta_device_lacks_is_called_on_the_cpu():
    """The weights that are drawn for it change nothing that is drawn later."""
    torch.manual_seed(3)
    expected = torch.rand(3)
    torch.manual_seed(3)
    check_call(lambda: Odd(lambda logits: logits), (2, 3, 2, 2), 5)
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (lambda logits: (logits, logits), r"logits of shape \(2, 5\) were expected, got tuple"),
        (lambda logits: logits[:, :4], r"got \(2, 4\)"),
        (lambda logits: logits[None], r"got \(1, 2, 5\)"),
        (lambda logits: logits.detach(), "does not require grad"),
        (lambda logits: logits.unknown, "no attribute 'unknown'"),
    ],
)
def test_a_network_that_cannot_be_trained_says_why_in_a_line(answer, words):
    with pytest.raises(ValueError, match=words) as caught:
        check_call(lambda: Odd(answer), (2, 3, 2, 2), 5)
    assert "\n" not in str(caught.value)


def test_a_network_is_called_once_for_all_points_of_a_sweep(monkeypatch):
    calls = []
    monkeypatch.setattr("gvbsm.backbones.check_call", lambda *arguments: calls.append(arguments))
    for size in (24, 24, 25):
        check_takes("convnet8_d1", 3, size, 1)
    assert [shape for _, shape, _ in calls] == [(2, 1, 24, 24), (2, 1, 25, 25)]


def test_convnet__is_compiled_as_a_single_graph():
    model = build_backbone("convnet8_d2", 4, 8).eval().to(memory_format=torch.channels_last)
    explanation = torch._dynamo.explain(model)(torch.randn(2, 3, 8, 8))
    assert (explanation.graph_count, explanation.graph_break_count) == (1, 0)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("convnet128", Size(320_010, 50_745_344, 8)),  # three times half the side
        ("convnet8_d1", Size(20_730, 241_664, 2)),
        ("wrn10_1", None),
    ],
)
def test_the_size_of_a_network(name, expected):
    size = size_of(name, 32)
    if expected is None:  # no pooling but over the whole map
        assert size.smallest == 1
    else:
        assert size == expected
