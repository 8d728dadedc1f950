"""Read weights from files on the user's machine, and load them into networks."""

from __future__ import annotations

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
from gvbsm.files.network_names import file_stem
from gvbsm.files.state import State, sha256_of, state_of

SUFFIXES = (".safetensors", ".pth", ".pt", ".bin")
_NAMED = 3  # most names of tensors in an error message

# torchvision's DenseNet files have names from before torch 0.4. torchvision's own loader renames
# them likewise (models/densenet.py: `_load_state_dict`).
_OLD_DENSENET = re.compile(r"(denselayer\d+\.(?:norm|conv))\.([12]\.\w+)$")


def find_weights(name: str, directory: Path) -> Path:
    """Find the file of a network's weights.

    Args:
        name: The backbone.
        directory: A folder. The file has the name under which the library publishes the weights
            (`resnet18-f37072fd.pth`) or the network's name (`torchvision--resnet18`), with any of
            `SUFFIXES`.

    Raises:
        ValueError: If the folder has no such file.
    """
    directory = user_path(directory)
    stems = [*published_stems(name), file_stem(name)]
    for stem in stems:
        for suffix in SUFFIXES:
            if (path := directory / f"{stem}{suffix}").is_file():
                return path
    raise ValueError(
        f"no weights of {name} in {directory} (squeeze.weights_dir): expected a file named "
        f"{' or '.join(stems)}, with one of the suffixes {', '.join(SUFFIXES)}"
    )


def weights_digest(name: str, directory: Path) -> str:
    """Return the SHA-256 of the file of a network's weights, which identifies them in recipes.

    Raises:
        ValueError: If there is no such file.
    """
    path = find_weights(name, directory)
    return _digest(path, state_of(path))


@lru_cache(maxsize=64)
def _digest(path: Path, _state: State | None) -> str:
    return sha256_of(path)


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read the tensors of a state dict, to the CPU.

    A file of torch is read with `weights_only`, which builds tensors and plain containers and runs
    no code. If the state dict is inside `state_dict` or `model`, as training scripts save it, that
    entry is returned.

    Raises:
        ValueError: If the file is damaged or holds anything else.
    """
    content: Any
    try:
        if path.suffix == ".safetensors":
            content = load_file(path)
        else:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # about sparse tensors, which are refused below
                content = torch.load(path, map_location="cpu", weights_only=True)
    except SafetensorError as error:
        raise ValueError(f"{path} cannot be read as safetensors ({error})") from None
    except Exception as error:  # torch raises built-in errors of many types, and UnpicklingError
        # torch's message advises to turn `weights_only` off, which would run the file's code.
        unsafe = type(error).__name__ == "UnpicklingError"
        why = "it is damaged, or holds more than tensors" if unsafe else first_line(error)
        raise ValueError(f"{path} cannot be read as weights: {why}") from None
    for inner in ("state_dict", "model"):
        if isinstance(content, Mapping) and isinstance(content.get(inner), Mapping):
            content = content[inner]
    if not isinstance(content, dict) or not all(isinstance(v, Tensor) for v in content.values()):
        raise ValueError(f"{path} holds no state dict (name -> tensor)")
    _check_state(content, path)
    return content


def _check_state(state: Mapping[Any, Tensor], path: Path) -> None:
    """Check the names and kinds of a state dict's tensors, and its `_metadata`.

    Raises:
        ValueError: If one is wrong, naming the first.
    """
    if other := [name for name in state if not isinstance(name, str)]:
        raise ValueError(f"{path} holds no state dict: the name {other[0]!r} is not text")
    for name, tensor in state.items():
        if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_meta:
            raise ValueError(
                f"{path} holds {name} as {_kind(tensor)}, expected a plain tensor: save it with "
                "tensor.to_dense() or tensor.dequantize()"
            )
    if not _has_versions(getattr(state, "_metadata", {})):
        raise ValueError(f"{path} is damaged: _metadata does not hold versions of layers")


def _has_versions(layers: Any) -> bool:
    return isinstance(layers, Mapping) and all(
        isinstance(layer, Mapping) and isinstance(layer.get("version"), int | None)
        for layer in layers.values()
    )


def _kind(tensor: Tensor) -> str:
    if tensor.is_meta:
        return "a tensor without values"
    return "quantized numbers" if tensor.is_quantized else str(tensor.layout)


def fill(model: nn.Module, weights: Mapping[str, Tensor], what: str) -> None:
    """Load weights into a network; all must fit.

    Args:
        model: The network.
        weights: The state dict. BatchNorm's counters of batches may be missing, as in old files.
        what: Description of the weights and their file, for the error.

    Raises:
        ValueError: If tensors are missing, unexpected, of another shape, or integer where the
            network has floating point, or the reverse.
    """
    expected = model.state_dict()
    metadata = getattr(weights, "_metadata", None) or getattr(expected, "_metadata", None)
    state = OrderedDict((_OLD_DENSENET.sub(r"\1\2", key), value) for key, value in weights.items())
    for key, value in expected.items():
        if key.endswith("num_batches_tracked"):
            state.setdefault(key, value)
    missing, unexpected = expected.keys() - state.keys(), state.keys() - expected.keys()
    shapes = {
        f"{key} {tuple(state[key].shape)}, expected {tuple(value.shape)}"
        for key, value in expected.items()
        if key in state and state[key].shape != value.shape
    }
    dtypes = {
        f"{key} {state[key].dtype}, expected {value.dtype}"
        for key, value in expected.items()
        if key in state and state[key].is_floating_point() != value.is_floating_point()
    }
    faults = {
        "missing": missing,
        "unexpected": unexpected,
        "of another shape": shapes,
        "of another type": dtypes,
    }
    messages = [f"{len(keys)} {fault} ({_first(keys)})" for fault, keys in faults.items() if keys]
    if messages:
        raise ValueError(f"{what} do not fit: of {len(expected)} tensors {'; '.join(messages)}")
    state._metadata = metadata  # type: ignore[attr-defined]  # versions of layers (MNASNet's)
    model.load_state_dict(state)


def _first(keys: Collection[str]) -> str:
    more = ", ..." if len(keys) > _NAMED else ""
    return ", ".join(sorted(keys)[:_NAMED]) + more
