"""Networks of torchvision and timm for full-size images, with or without published weights.

Both libraries take seconds to import, so each function imports the one that it needs.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from gvbsm.config.errors import first_line

if TYPE_CHECKING:
    from torchvision.models import WeightsEnum

# These two have auxiliary heads and return a tuple in training: not usable as classifiers here.
_TUPLE_OUTPUT = {"googlenet", "inception_v3"}


def torchvision_names() -> list[str]:
    """Return the names of torchvision's classifiers."""
    import torchvision.models

    names = torchvision.models.list_models(module=torchvision.models)
    return sorted(set(names) - _TUPLE_OUTPUT)


def timm_names() -> list[str]:
    """Return the names of timm's networks, without tags of weights."""
    import timm

    return list(timm.list_models())


def is_timm_name(name: str) -> bool:
    """Return whether timm has a network `name`, with or without a tag (`resnet18.a1_in1k`)."""
    import timm

    return timm.is_model(name) and ("." not in name or timm.is_model_pretrained(name))


def build_torchvision(name: str, classes: int, channels: int, pretrained: bool) -> nn.Module:
    """Build a classifier of torchvision.

    Args:
        name: One of `torchvision_names()`.
        classes: Number of logits.
        channels: Channels of the input; must be 3.
        pretrained: Load IMAGENET1K_V1, the paper's weights. (torchvision's "DEFAULT" comes from a
            later, stronger recipe, and would change the teachers.)

    Returns:
        A module (batch, 3, height, width) -> (batch, classes).

    Raises:
        ValueError: If channels is not 3, or there are no weights for this number of classes.
        OSError: If the weights can be neither found nor downloaded.
    """
    import torchvision.models

    if channels != 3:
        raise ValueError(
            f"torchvision/{name} takes images of 3 channels, got {channels}; choose a backbone of "
            "timm/ or for small images, which take any number"
        )
    if not pretrained:
        model: nn.Module = torchvision.models.get_model(name, weights=None, num_classes=classes)
        return model
    weights = torchvision_weights(name)
    _require_classes(f"torchvision/{name}", len(weights.meta["categories"]), classes)
    try:
        model = torchvision.models.get_model(name, weights=weights)
    except (OSError, RuntimeError) as error:  # RuntimeError: the file's hash does not match
        raise OSError(
            f"cannot load the weights of torchvision/{name} from {weights.url} ({error}); "
            f"put the file into torch's hub cache, {torch.hub.get_dir()}/checkpoints"
        ) from error
    return model


def torchvision_weights(name: str) -> WeightsEnum:
    """Return the entry of a classifier's published weights; nothing is loaded.

    Raises:
        ValueError: If there are none.
    """
    import torchvision.models

    versions = torchvision.models.get_model_weights(name).__members__
    if "IMAGENET1K_V1" not in versions:
        raise ValueError(f"torchvision/{name} has no weights IMAGENET1K_V1, only {list(versions)}")
    return versions["IMAGENET1K_V1"]


def build_timm(
    name: str, classes: int, image_size: int, channels: int, pretrained: bool
) -> nn.Module:
    """Build a network of timm.

    Args:
        name: One of `timm_names()`, with or without a tag of weights.
        classes: Number of logits.
        image_size: Height and width of the input. Passed to timm only for networks of a fixed size
            (ViT, Swin, mixers), whose position embeddings timm then resizes.
        channels: Channels of the input.
        pretrained: Load the weights of the tag; without a tag, timm's default weights.

    Returns:
        A module (batch, channels, image_size, image_size) -> (batch, classes).

    Raises:
        ValueError: If there are no weights for this number of classes.
        OSError: If the weights can be neither found nor downloaded.
    """
    import timm

    options = _timm_options(name, classes, image_size, channels)
    if not pretrained:
        return timm.create_model(name, pretrained=False, **options)
    _require_classes(f"timm/{name}", timm_classes(name), classes)
    published = timm.get_pretrained_cfg(name)
    assert published is not None
    try:
        return timm.create_model(name, pretrained=True, **options)
    except OSError as error:
        source = published.hf_hub_id or published.url
        raise OSError(
            f"cannot load the weights of timm/{name} from {source} ({first_line(error)}); "
            f"put them into the Hugging Face cache, or into torch's hub cache "
            f"({torch.hub.get_dir()}/checkpoints) if the source is a URL"
        ) from error


def fill_timm(
    name: str,
    classes: int,
    image_size: int,
    channels: int,
    weights: Mapping[str, Tensor],
    what: str,
) -> nn.Module:
    """Build a network of timm with weights from a file; timm converts names of older versions.

    Args:
        name: As in `build_timm`.
        classes: Number of logits, of the network and of the weights.
        image_size: As in `build_timm`.
        channels: Channels of the input.
        weights: The state dict.
        what: Description of the weights and their file, for the error.

    Raises:
        ValueError: If the weights do not fit the network.
    """
    import timm

    # If the numbers of classes differed, timm would leave the classifier random.
    overlay = {"state_dict": dict(weights), "num_classes": classes, "label_offset": 0}
    options = _timm_options(name, classes, image_size, channels)
    try:
        model: nn.Module = timm.create_model(
            name, pretrained=True, pretrained_cfg_overlay=overlay, **options
        )
    except (RuntimeError, KeyError, ValueError) as error:
        raise ValueError(f"{what} do not fit: {' '.join(str(error).split())[:400]}") from None
    return model


def published_stems(name: str) -> list[str]:
    """Return the names, without suffix, of the files of a network's published weights."""
    prefix, _, library_name = name.rpartition("/")
    if prefix == "torchvision" and library_name in torchvision_names():
        import torchvision.models

        versions = torchvision.models.get_model_weights(library_name).__members__
        weights = versions.get("IMAGENET1K_V1")
        return [] if weights is None else [PurePosixPath(weights.url).stem]
    if prefix == "timm" and is_timm_name(library_name):
        import timm

        published = timm.get_pretrained_cfg(library_name)
        if published is None or not published.has_weights:
            return []
        tag = f".{published.tag}" if published.tag else ""
        stems = [f"{published.architecture}{tag}"]
        url = published.url if isinstance(published.url, str) else None
        return stems + ([PurePosixPath(url).stem] if url else [])
    return []


def timm_classes(name: str) -> int:
    """Return the number of classes of a network's published weights.

    Raises:
        ValueError: If it has none.
    """
    import timm

    published = timm.get_pretrained_cfg(name)
    if published is None or not published.has_weights:
        raise ValueError(f"timm/{name} has no pretrained weights")
    return int(published.num_classes)


def _timm_options(name: str, classes: int, image_size: int, channels: int) -> dict[str, Any]:
    import timm

    published = timm.get_pretrained_cfg(name)
    options: dict[str, Any] = {"num_classes": classes, "in_chans": channels}
    if published is not None and published.fixed_input_size:
        options["img_size"] = image_size
    return options


def _require_classes(name: str, available: int, classes: int) -> None:
    """Raise ValueError unless the weights' classifier has exactly `classes` logits."""
    if available != classes:
        raise ValueError(
            f"the pretrained weights of {name} have {available} classes, the data set {classes}; "
            "train the network on the data set (--squeeze.pretrained false)"
        )
