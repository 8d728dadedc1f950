"""Networks by name, and their weights.

Small-image networks are built here: those of `BACKBONES`, and `convnet<width>[_d<depth>]` and
`wrn<depth>_<width>` for any numbers. Full-size networks come from a library, by prefix
(`torchvision/`, `timm/`). Networks of users and of other packages: see `plugged`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

import torch
from torch import nn

from gvbsm.backbones import library
from gvbsm.backbones.airbench import build_airbench
from gvbsm.backbones.calling import check_call, disable_inplace
from gvbsm.backbones.convnet import build_convnet
from gvbsm.backbones.mobilenet import build_mobilenet_v2_x0_5
from gvbsm.backbones.plugged import build_plugged, digest_of, is_plugged, registered
from gvbsm.backbones.resnet import build_resnet
from gvbsm.backbones.shufflenet import build_shufflenet_v2_x0_5
from gvbsm.backbones.weights import (
    fill,
    find_weights,
    read_weights,
    weights_digest,
)
from gvbsm.backbones.wide_resnet import build_wide_resnet
from gvbsm.config import ConfigError
from gvbsm.config.keys import closest
from gvbsm.files.plugins import is_plugin, plugin

__all__ = [
    "BACKBONES",
    "BackboneSpec",
    "backbone_names",
    "build_backbone",
    "build_empty",
    "check_known",
    "check_takes",
    "code_of",
    "disable_inplace",
    "fill",
    "published_classes",
    "unavailable",
    "weights_digest",
]


@dataclass(frozen=True)
class BackboneSpec:
    """How to build one small-image network.

    Attributes:
        build: (classes, image_size, channels) -> module.
        summary: One line that describes it, for listings.
    """

    build: Callable[[int, int, int], nn.Module]
    summary: str


def _convnet(width: int, depth: int = 3) -> BackboneSpec:
    summary = f"{depth} blocks conv3x3({width})-GroupNorm-ReLU-AvgPool2; no BatchNorm"
    return BackboneSpec(partial(build_convnet, width, depth), summary)


def _wide_resnet(depth: int, width: int) -> BackboneSpec:
    summary = f"Wide ResNet of depth {depth} and width {width}, pre-activation"
    return BackboneSpec(partial(build_wide_resnet, depth, width), summary)


def _resnet(depth: int) -> BackboneSpec:
    summary = f"ResNet of depth {depth}, 3x3 stem of stride 1, no max-pool"
    return BackboneSpec(partial(build_resnet, depth), summary)


BACKBONES: dict[str, BackboneSpec] = {
    "convnet128": _convnet(128),
    "wrn16_2": _wide_resnet(16, 2),
    "resnet18": _resnet(18),
    "resnet34": _resnet(34),
    "resnet50": _resnet(50),
    "resnet101": _resnet(101),
    "shufflenet_v2_x0_5": BackboneSpec(
        build_shufflenet_v2_x0_5, "ShuffleNetV2 x0.5, 1x1 stem of stride 1, no max-pool"
    ),
    "mobilenet_v2_x0_5": BackboneSpec(
        build_mobilenet_v2_x0_5, "MobileNetV2 x0.5, stem of stride 2, 1/16 of the size at the end"
    ),
    "airbench": BackboneSpec(
        build_airbench,
        "fixed whitening stem, then three blocks of two conv3x3; meant as a quick teacher",
    ),
}

FURTHER_NAMES = "convnet<width>[_d<depth>], wrn<depth>_<width>, torchvision/<name>, timm/<name>"
OWN_NAMES = "file.py:Class, module:attribute"

# Families with free numbers: the groups of the pattern are the builder's arguments.
_FAMILIES: tuple[tuple[str, Callable[..., BackboneSpec]], ...] = (
    (r"convnet(\d+)(?:_d(\d+))?", _convnet),
    (r"wrn(\d+)_(\d+)", _wide_resnet),
)


def backbone_names() -> list[str]:
    """Return the names of the small-image networks, and of those that packages register."""
    return [*BACKBONES, *(name for name in registered() if not _is_built_in(name))]


def code_of(name: str) -> dict[str, str]:
    """Return the entry of a recipe for the code of a network; empty for a network of gvbsm.

    Raises:
        ValueError: If it is code that the user has not named.
    """
    if _is_built_in(name) or not is_plugged(name):
        return {}
    return {"code": digest_of(name)[:20]}  # as long as a fingerprint


def build_backbone(
    name: str,
    classes: int,
    image_size: int,
    channels: int = 3,
    pretrained: bool = False,
    weights_dir: Path | None = None,
) -> nn.Module:
    """Build a network; new weights are drawn from torch's global generator (see `engine.seeds`).

    Args:
        name: A key of `BACKBONES`, `convnet<width>[_d<depth>]`, `wrn<depth>_<width>`,
            `torchvision/<name>`, `timm/<name>`, a registered name, or `SOURCE:ATTRIBUTE`, which
            must be admitted (`files.plugins`).
        classes: Number of logits.
        image_size: Height and width of the input, in pixels.
        channels: Channels of the input.
        pretrained: Load published weights; without `weights_dir` only for `torchvision/` and
            `timm/`.
        weights_dir: If `pretrained`, read the weights of any network from a file in this folder
            (`find_weights`).

    Returns:
        A module (batch, channels, image_size, image_size) -> (batch, classes). None of its layers
        works in place, so that recorded inputs do not change.

    Raises:
        ValueError: If the name is unknown, the network cannot take these arguments, or the file of
            weights is missing or does not fit.
        OSError: If pretrained weights can be neither found nor downloaded.
    """
    sizes = {"classes": classes, "image_size": image_size, "channels": channels}
    for argument, value in sizes.items():
        if value < 1:
            raise ValueError(f"`{argument}` must be at least 1, got {value}")
    if pretrained and weights_dir is not None:
        model = _build_from(weights_dir, name, classes, image_size, channels)
    else:
        model = _build(name, classes, image_size, channels, pretrained)
    disable_inplace(model)
    return model


def check_takes(name: str, classes: int, image_size: int, channels: int, at_once: int = 2) -> None:
    """Check that a network can be built, trained and tested on pictures of a size.

    Args:
        name: As for `build_backbone`.
        classes: Number of logits.
        image_size: Height and width of the pictures, in pixels.
        channels: Channels of the pictures.
        at_once: How many pictures the network is called with.

    Raises:
        ValueError: If the name is unknown, or the network cannot be built or called with these.
    """
    _check_takes(name, classes, image_size, channels, at_once, **code_of(name))


@cache  # a sweep checks the same networks at every point; `code` differs for edited ones
def _check_takes(
    name: str, classes: int, image_size: int, channels: int, at_once: int, code: str = ""
) -> None:
    build = partial(build_backbone, name, classes, image_size, channels)
    build_empty(name, classes, image_size, channels)  # its error messages name the fault
    try:
        check_call(build, (at_once, channels, image_size, image_size), classes)
    except ValueError as error:
        alone = " one by one" if at_once == 1 else ""
        raise ValueError(
            f"{name} cannot be trained on pictures of {image_size} x {image_size} pixels{alone} "
            f"({error}); choose another network or another data.image_size"
        ) from error


def unavailable(name: str) -> str:
    """Return why a network cannot be built in this process; empty if it can. No code is run."""
    try:
        check_known(name)
        if is_plugin(name):
            plugin(name)
    except ValueError as error:
        return str(error)
    return ""


def build_empty(name: str, classes: int, image_size: int, channels: int) -> nn.Module:
    """Build a network without values, on the meta device; see `build_backbone`.

    Code of users that does not work there is built on the CPU, with values.
    """
    try:
        with torch.device("meta"):
            return build_backbone(name, classes, image_size, channels)
    except ConfigError:
        if not is_plugged(name):
            raise
    with torch.random.fork_rng(), torch.device("cpu"):
        return build_backbone(name, classes, image_size, channels)


def check_known(name: str) -> None:
    """Check that a network of this name exists, for any picture size; no code is run.

    Raises:
        ValueError: If none does.
    """
    prefix, library_name = _library_of(name)
    if prefix == "torchvision" and library_name in library.torchvision_names():
        return
    if prefix == "timm" and library.is_timm_name(library_name):
        return
    if not is_plugged(name):
        _small_image_spec(name)


def published_classes(name: str) -> int:
    """Return the number of classes of a network's published weights; nothing is loaded.

    Raises:
        ValueError: If it has none.
    """
    prefix, library_name = _library_of(name)
    if prefix == "torchvision":
        return len(library.torchvision_weights(library_name).meta["categories"])
    if prefix == "timm":
        return library.timm_classes(library_name)
    raise ValueError(f"{name} has no pretrained weights; only torchvision/ and timm/ do")


def _build_from(
    directory: Path, name: str, classes: int, image_size: int, channels: int
) -> nn.Module:
    """Build a network with the weights of a file in the folder."""
    path = find_weights(name, directory)
    weights = read_weights(path)
    what = f"the weights of {name} for {classes} classes in {path}"
    prefix, library_name = _library_of(name)
    if prefix == "timm" and library.is_timm_name(library_name):
        return library.fill_timm(library_name, classes, image_size, channels, weights, what)
    model = _build(name, classes, image_size, channels, pretrained=False)
    fill(model, weights, what)
    return model


def _build(name: str, classes: int, image_size: int, channels: int, pretrained: bool) -> nn.Module:
    """Find the builder of `name` and call it."""
    check_known(name)
    prefix, library_name = _library_of(name)
    if prefix == "torchvision":
        return library.build_torchvision(library_name, classes, channels, pretrained)
    if prefix == "timm":
        return library.build_timm(library_name, classes, image_size, channels, pretrained)
    if pretrained:
        published_classes(name)  # raises: small-image networks have no published weights
    if is_plugged(name) and not _is_built_in(name):
        return build_plugged(name, classes, image_size, channels)
    return _small_image_spec(name).build(classes, image_size, channels)


def _library_of(name: str) -> tuple[str, str]:
    """The library that a name begins with, "" for none, and the name of the network there."""
    if is_plugin(name):  # a path may begin with the name of a library
        return "", name
    prefix, _, library_name = name.rpartition("/")
    return prefix, library_name


def _is_built_in(name: str) -> bool:
    """Whether a name is that of a network that is built here, which no package can take."""
    return name in BACKBONES or any(re.fullmatch(pattern, name) for pattern, _ in _FAMILIES)


def _small_image_spec(name: str) -> BackboneSpec:
    """Return the entry of `BACKBONES` or of a family; raise ValueError if there is none."""
    if name in BACKBONES:
        return BACKBONES[name]
    for pattern, family in _FAMILIES:
        match = re.fullmatch(pattern, name)
        if match:
            return family(*(int(group) for group in match.groups() if group is not None))
    raise ValueError(_unknown_message(name))


def _unknown_message(name: str) -> str:
    """Return the error message for an unknown name, with the most similar names."""
    known = [
        *backbone_names(),
        *(f"torchvision/{other}" for other in library.torchvision_names()),
        *(f"timm/{other}" for other in library.timm_names()),
    ]
    here = ", ".join(backbone_names())
    return (
        f"unknown backbone {name!r}; {closest(name, known, 3)}Known: {here}, {FURTHER_NAMES}, or "
        f"your own: {OWN_NAMES}"
    )
