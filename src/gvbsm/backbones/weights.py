"""Weights from files on the user's machine, for networks of any library and our own."""

from __future__ import annotations

import hashlib
import re
import warnings
from collections import OrderedDict
from collections.abc import Collection, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from gvbsm.backbones.library import published_stems
from gvbsm.config.errors import first_line
from gvbsm.config.paths import user_path

SUFFIXES = (".safetensors", ".pth", ".pt", ".bin")
_NAMED = 3  # of the tensors that do not fit, those that an error names

# torchvision's DenseNet files have names from before torch 0.4, which its own loader mends as well
# (torchvision 0.15 and later, models/densenet.py: `_load_state_dict`).
_OLD_DENSENET = re.compile(r"(denselayer\d+\.(?:norm|conv))\.([12]\.\w+)$")


def file_stem(name: str) -> str:
    """A backbone's name as a file's; library names such as timm/x hold a slash."""
    return name.replace("/", "--")


def find_weights(name: str, directory: Path) -> Path:
    """The file of a network's weights.

    Args:
        name: The backbone.
        directory: Holds a file under the name by which the library publishes the weights
            (`resnet18-f37072fd.pth`), or under the network's own (`torchvision--resnet18`), with
            any of `SUFFIXES`.

    Raises:
        ValueError: If there is none.
    """
    directory = user_path(directory)
    stems = [*published_stems(name), file_stem(name)]
    for stem in stems:
        for suffix in SUFFIXES:
            if (path := directory / f"{stem}{suffix}").is_file():
                return path
    raise ValueError(
        f"no weights of {name} in {directory} (squeeze.weights_dir): expected a file "
        f"{' or '.join(stems)} with the ending {', '.join(SUFFIXES)}"
    )


def weights_digest(name: str, directory: Path) -> str:
    """SHA-256 of the file of a network's weights, by which they are known.

    Raises:
        ValueError: If there is none.
    """
    path = find_weights(name, directory)
    return _digest(path, path.stat().st_mtime_ns)


@lru_cache(maxsize=64)
def _digest(path: Path, _changed: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a state dict, on the CPU.

    A file of torch is opened with `weights_only`, which builds tensors and plain containers and
    runs no code. A dict inside `state_dict` or `model`, as training scripts keep it, is taken out.

    Raises:
        ValueError: If the file is damaged or holds anything else.
    """
    found: Any
    try:
        if path.suffix == ".safetensors":
            found = load_file(path)
        else:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of sparse tensors, which are refused below
                found = torch.load(path, map_location="cpu", weights_only=True)
    except SafetensorError as error:
        raise ValueError(f"{path} cannot be read as safetensors ({error})") from None
    except Exception as error:  # torch raises almost any built-in, and the unpickler's own
        # torch's own text would have the user switch the guard off
        guarded = type(error).__name__ == "UnpicklingError"
        first = first_line(error)
        why = "it is damaged, or holds more than tensors" if guarded else first
        raise ValueError(f"{path} cannot be read as weights: {why}") from None
    for inner in ("state_dict", "model"):
        if isinstance(found, Mapping) and isinstance(found.get(inner), Mapping):
            found = found[inner]
    if not isinstance(found, dict) or not all(isinstance(v, Tensor) for v in found.values()):
        raise ValueError(f"{path} holds no state dict (name -> tensor)")
    _check_state(found, path)
    return found


def _check_state(state: Mapping[Any, Tensor], path: Path) -> None:
    """Check names, kinds of tensors and the versions of layers that torch keeps beside them.

    Raises:
        ValueError: Naming the first that does not fit.
    """
    if strange := [name for name in state if not isinstance(name, str)]:
        raise ValueError(f"{path} holds no state dict: the name {strange[0]!r} is no text")
    for name, tensor in state.items():
        if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_meta:
            raise ValueError(
                f"{path} holds {name} as {_kind(tensor)}, expected a plain tensor: save it with "
                "tensor.to_dense() or tensor.dequantize()"
            )
    if not _has_versions(getattr(state, "_metadata", {})):
        raise ValueError(f"{path}: the versions of its layers (_metadata) are damaged")


def _has_versions(layers: Any) -> bool:
    return isinstance(layers, Mapping) and all(
        isinstance(layer, Mapping) and isinstance(layer.get("version"), int | None)
        for layer in layers.values()
    )


def _kind(tensor: Tensor) -> str:
    if tensor.is_meta:
        return "a tensor without values"
    return "quantized numbers" if tensor.is_quantized else str(tensor.layout)


def fill(model: nn.Module, found: Mapping[str, Tensor], what: str) -> None:
    """Put weights into a network; all must fit.

    Args:
        model: The network.
        found: Its state dict. Counters of batches, which old files lack, keep their value.
        what: Whose weights these are and where they come from, for the error.

    Raises:
        ValueError: If tensors are missing, unexpected, of another shape, or whole numbers where
            fractions belong, or the reverse.
    """
    own = model.state_dict()
    metadata = getattr(found, "_metadata", None) or getattr(own, "_metadata", None)
    state = OrderedDict((_OLD_DENSENET.sub(r"\1\2", key), value) for key, value in found.items())
    for key, value in own.items():
        if key.endswith("num_batches_tracked"):
            state.setdefault(key, value)
    missing, unexpected = own.keys() - state.keys(), state.keys() - own.keys()
    shapes = {
        f"{key} {tuple(state[key].shape)}, expected {tuple(value.shape)}"
        for key, value in own.items()
        if key in state and state[key].shape != value.shape
    }
    kinds = {
        f"{key} {state[key].dtype}, expected {value.dtype}"
        for key, value in own.items()
        if key in state and state[key].is_floating_point() != value.is_floating_point()
    }
    faults = {
        "missing": missing,
        "unexpected": unexpected,
        "of another shape": shapes,
        "of another type": kinds,
    }
    told = [f"{len(keys)} {fault} ({_some(keys)})" for fault, keys in faults.items() if keys]
    if told:
        raise ValueError(f"{what} do not fit: of {len(own)} tensors {'; '.join(told)}")
    state._metadata = metadata  # type: ignore[attr-defined]  # versions of layers (MNASNet's)
    model.load_state_dict(state)


def _some(keys: Collection[str]) -> str:
    more = ", ..." if len(keys) > _NAMED else ""
    return ", ".join(sorted(keys)[:_NAMED]) + more
