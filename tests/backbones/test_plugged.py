"""Networks of users and of packages: how they are called, their names and their code."""

from importlib.metadata import EntryPoint

import pytest
import torch

from gvbsm.backbones import (
    backbone_names,
    build_backbone,
    build_empty,
    check_known,
    check_takes,
    code_of,
    plugged,
    unavailable,
)
from gvbsm.config import ConfigError
from gvbsm.files.network_names import file_stem
from gvbsm.files.plugins import admit

CODE = """
from torch import nn

class Net(nn.Module):
    def __init__(self, classes, channels=3, width=4):
        super().__init__()
        self.conv = nn.Conv2d(channels, width, 3)
        self.act = nn.ReLU(inplace=True)
        self.head = nn.Linear(width, classes)
    def forward(self, x):
        return self.head(self.act(self.conv(x)).mean((2, 3)))

def by_count(num_classes):
    return Net(num_classes)

def by_keywords(**settings):
    return Net(settings["num_classes"])

def all_sizes(classes, image_size, channels):
    assert image_size == 8
    return Net(classes, channels)

def neither(width=3):
    return Net(2)

def both(classes, num_classes):
    return Net(2)

def hungry(classes, depth):
    return Net(2)

def fails(classes):
    raise RuntimeError("no weights\\nhere")

def a_number(classes):
    return 3

def with_values(classes):
    model = Net(classes)
    assert float(model.head.weight.sum().item()) != 0
    return model

def wrong_logits(classes):
    return Net(classes + 1)
"""


@pytest.fixture
def nets(tmp_path, monkeypatch):
    """Write the file, and admit a function of it by name."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "nets.py").write_text(CODE)

    def name(attribute):
        admit([f"nets.py:{attribute}"])
        return f"nets.py:{attribute}"

    return name


@pytest.mark.parametrize(
    ("attribute", "channels"),
    [("Net", 1), ("by_count", 3), ("by_keywords", 3), ("all_sizes", 2)],
)
def test_a_network_is_given_the_sizes_that_it_takes(nets, attribute, channels):
    model = build_backbone(nets(attribute), 5, 8, channels)
    assert model(torch.zeros(2, channels, 8, 8)).shape == (2, 5)
    assert not model.act.inplace  # as of all networks
    check_takes(nets(attribute), 5, 8, channels)


@pytest.mark.parametrize(
    ("attribute", "words"),
    [
        ("neither", r"takes neither classes nor num_classes, the number of logits"),
        ("both", r"takes both classes and num_classes"),
        ("hungry", r"needs the argument\(s\) depth; it is given those of classes, num_classes"),
        ("fails", r"fails\(classes=5\) fails: RuntimeError: no weights \(nets\.py, line \d+\)$"),
        ("a_number", r"gives an int, expected a torch\.nn\.Module"),
    ],
)
def test_a_fault_is_one_line(nets, attribute, words):
    with pytest.raises(ConfigError, match=words):
        build_backbone(nets(attribute), 5, 8)


def test_a_network_that_gives_other_logits_or_takes_other_pictures_is_refused(nets):
    with pytest.raises(ValueError, match=r"logits of shape \(2, 5\) were expected, got \(2, 6\)"):
        check_takes(nets("wrong_logits"), 5, 8, 3)
    with pytest.raises(ValueError, match=r"by_count cannot be trained on pictures of 8 x 8"):
        check_takes(nets("by_count"), 5, 8, 1)


def test_a_network_that_needs_values_is_checked_with_values(nets):
    before = torch.get_rng_state()
    assert build_empty(nets("with_values"), 5, 8, 3).head.weight.device.type == "cpu"
    check_takes(nets("with_values"), 5, 8, 3)
    assert torch.equal(torch.get_rng_state(), before)
    assert build_empty(nets("Net"), 5, 8, 3).head.weight.is_meta


def test_weights_of_one_s_own_network_are_read_from_a_file(nets, tmp_path):
    name = nets("Net")
    with pytest.raises(ValueError, match=r"expected a file named nets\.py-Net, with one of"):
        build_backbone(name, 5, 8, pretrained=True, weights_dir=tmp_path)
    model = build_backbone(name, 5, 8)
    torch.save(model.state_dict(), tmp_path / "nets.py-Net.pth")
    loaded = build_backbone(name, 5, 8, pretrained=True, weights_dir=tmp_path)
    assert torch.equal(loaded.head.weight, model.head.weight)
    with pytest.raises(ValueError, match="has no pretrained weights"):
        build_backbone(name, 5, 8, pretrained=True)


def test_code_that_the_user_has_not_named_is_not_built(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "stranger.py").write_text("open('ran', 'w')\n")
    check_known("stranger.py:Net")
    assert "is not run" in unavailable("stranger.py:Net")
    for use in (
        lambda: build_backbone("stranger.py:Net", 2, 8),
        lambda: code_of("stranger.py:Net"),
    ):
        with pytest.raises(ValueError, match=r"the code of stranger\.py:Net is not run"):
            use()
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("name", "pattern"),
    [
        ("resnet18", r"resnet18"),
        ("timm/resnet18.a1_in1k", r"timm--resnet18\.a1_in1k"),
        ("my.py:Net", r"my\.py-Net"),
        ("a.package:Net.Small", r"a\.package-Net\.Small"),
        ("nets/my.py:Net", r"my\.py-Net-[0-9a-f]{8}"),
        ("../nets/my.py:Net", r"my\.py-Net-[0-9a-f]{8}"),
        ("~/a b/ö:ä.py:Net", r"ö_ä\.py-Net-[0-9a-f]{8}"),
        ("x" * 300 + ".py:Net", r"x{73}\.py-Net-[0-9a-f]{8}"),
    ],
)
def test_file_names_are_safe_and_differ(name, pattern):
    import re

    assert re.fullmatch(pattern, file_stem(name))
    assert file_stem(f"other/{name}") != file_stem(name)


# Networks of packages


@pytest.fixture
def package(tmp_path, monkeypatch):
    """An installed package that registers networks."""
    (tmp_path / "a_package_of_nets.py").write_text(CODE)
    monkeypatch.syspath_prepend(tmp_path)
    names = {"gnet": "Net", "resnet18": "a_number", "lost": "none", "wrn10_1": "a_number"}
    entries = [
        EntryPoint(name, f"a_package_of_nets:{value}", plugged.GROUP)
        for name, value in names.items()
    ]
    monkeypatch.setattr(plugged, "entry_points", lambda group: entries)
    plugged.registered.cache_clear()
    yield tmp_path
    plugged.registered.cache_clear()


def test_packages_register_networks(package):
    assert "gnet" in backbone_names()
    assert build_backbone("gnet", 5, 8, 1)(torch.zeros(2, 1, 8, 8)).shape == (2, 5)
    check_takes("gnet", 5, 8, 1)
    check_known("gnet")
    assert unavailable("gnet") == ""
    assert len(code_of("gnet")["code"]) == 20
    with pytest.raises(ValueError, match=r"unknown backbone 'gnet2'; did you mean gnet\? Known"):
        check_known("gnet2")
    with pytest.raises(ConfigError, match=r"network lost of a_package_of_nets:none cannot be imp"):
        build_backbone("lost", 5, 8)


def test_no_package_takes_a_name_of_gvbsm(package):
    for name in ("resnet18", "wrn10_1"):
        assert build_backbone(name, 5, 8)(torch.zeros(2, 3, 8, 8)).shape == (2, 5)
        assert code_of(name) == {}
    assert backbone_names().count("resnet18") == 1
    assert "wrn10_1" not in backbone_names()
