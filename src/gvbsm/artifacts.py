"""What is on disk: safetensors with a JSON header, written atomically; no pickle.

A work directory holds, for each stage, files under the stage's name. Every header carries the
format version, the kind of the artefact and its recipe: the settings that it was made with and the
fingerprints (hashes) of the recipes of what it was made from. So what is out of date, and why, is
known without reading tensors. Half-done work lies in `*.partial.safetensors` beside the result.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from gvbsm._version import __version__
from gvbsm.moments import Moments

FORMAT = 1
KEY = "gvbsm"
PARTIAL = ".partial.safetensors"  # how the names of checkpoints end


Recipe = dict[str, Any]
"""JSON-like: everything that an artefact's content depends on."""


class ArtifactError(Exception):
    """A file of the work directory is missing, damaged, newer, or made from something else."""


def fingerprint(recipe: Recipe) -> str:
    """Hash of a recipe, by which recipes further down name it."""
    text = json.dumps(recipe, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:20]


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """A name to write to; it becomes `path` in one step when the block ends well, else it goes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, content: Any) -> None:
    """Write JSON atomically."""
    with atomic(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        ArtifactError: If the file cannot be read or is no JSON object.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ArtifactError(
            f"{path} cannot be read ({error}); remove it to make it again"
        ) from None
    if not isinstance(content, dict):
        raise ArtifactError(f"{path} is not a JSON object; remove it to make it again")
    return content


def header_text(header: Mapping[str, Any]) -> str:
    """What a file keeps under `KEY`: the header of an artefact with format and version."""
    full = {"format": FORMAT, "version": __version__, **header}
    return json.dumps(full, sort_keys=True)


def save(path: Path, tensors: Mapping[str, Tensor], header: Mapping[str, Any]) -> None:
    """Write tensors and header atomically; `header` needs `kind` and `recipe`."""
    # safetensors writes neither views of shared storage nor strided tensors.
    plain = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    with atomic(path) as temporary:
        try:
            save_file(plain, temporary, metadata={KEY: header_text(header)})
        except SafetensorError as error:  # a full disk is not an OSError here
            raise OSError(f"cannot write {path}: {error}") from None


@contextmanager
def opened(path: Path) -> Iterator[Any]:
    """A safetensors file, whose tensors are read when they are asked for.

    Raises:
        ArtifactError: If it is missing or damaged.
    """
    if not path.is_file():
        raise ArtifactError(f"there is no {path}; run the stage that makes it first")
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except (SafetensorError, OSError) as error:
        raise ArtifactError(f"{path} is damaged ({error}); remove it to make it again") from None


def _header_of(file: Any, path: Path) -> dict[str, Any]:
    metadata = file.metadata() or {}
    try:
        header = json.loads(metadata[KEY])
        newer = header["format"] > FORMAT
    except (KeyError, TypeError, ValueError):
        raise ArtifactError(f"{path} was not written by gvbsm; move it away") from None
    if newer:
        raise ArtifactError(
            f"{path} has format {header['format']} of gvbsm {header.get('version')}; "
            f"this is gvbsm {__version__} and reads up to format {FORMAT}: upgrade gvbsm"
        )
    return dict(header)


def read_header(path: Path) -> dict[str, Any]:
    """The header alone, without reading tensors.

    Raises:
        ArtifactError: If the file is missing, damaged, foreign or newer than this version.
    """
    with opened(path) as file:
        return _header_of(file, path)


def load_tensors(path: Path, kind: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and header of one artefact.

    Raises:
        ArtifactError: As `read_header`, or if the file holds another kind of artefact.
    """
    with opened(path) as file:
        header = _header_of(file, path)
        if header.get("kind") != kind:
            raise ArtifactError(f"{path} holds {header.get('kind')!r}, expected {kind!r}")
        return {name: file.get_tensor(name) for name in file.keys()}, header  # noqa: SIM118


def checksum(tensors: Mapping[str, Tensor]) -> str:
    """CRC-32 of the bytes of all tensors, in the order of their names, as hexadecimal digits.

    It finds damage, not forgery; it takes a quarter of a second for a GiB.

    Args:
        tensors: Contiguous tensors on the CPU; those of a memory map are read and not copied.
    """
    found = 0
    for name in sorted(tensors):
        found = zlib.crc32(tensors[name].reshape(-1).view(torch.uint8).numpy().data, found)
    return f"{found:08x}"


def changes(old: Recipe, new: Recipe, prefix: str = "") -> list[str]:
    """What differs between two recipes, one line for each entry: `labels.epochs: 100 -> 200`."""
    lines = []
    for key in sorted({*old, *new}):
        before, after = old.get(key), new.get(key)
        if isinstance(before, dict) and isinstance(after, dict):
            lines += changes(before, after, f"{prefix}{key}.")
        elif before != after:
            lines.append(f"{prefix}{key}: {json.dumps(before)} -> {json.dumps(after)}")
    return lines


def is_current(path: Path, recipe: Recipe) -> bool:
    """Whether the artefact at `path` exists, is whole and was made by this recipe.

    Raises:
        ArtifactError: If the file is foreign or newer than this version. A damaged one is not
            current: it can be made again.
    """
    if not path.is_file():
        return False
    try:
        with safe_open(path, framework="pt") as file:
            return bool(_header_of(file, path).get("recipe") == recipe)
    except (SafetensorError, OSError):
        return False


def is_partial(path: Path) -> bool:
    """Whether a file holds half-done work (`Checkpoint`)."""
    return path.name.endswith(PARTIAL)


class Checkpoint:
    """Half-done work of one artefact: at most one file, replaced atomically now and then."""

    def __init__(self, path: Path, recipe: Recipe, every_seconds: float) -> None:
        self._path = path.with_name(f"{path.name.removesuffix('.safetensors')}{PARTIAL}")
        self._recipe = recipe
        self._every = every_seconds
        self._last = time.monotonic()

    def load(self) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """Tensors and state of the last checkpoint of the same work, or None."""
        if not is_current(self._path, self._recipe):
            return None
        tensors, header = load_tensors(self._path, "checkpoint")
        return tensors, header["state"]

    def due(self) -> bool:
        """Whether enough time has passed since the last one."""
        return time.monotonic() - self._last >= self._every

    def save(self, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
        """Write a checkpoint; `state` is JSON-like."""
        header = {"kind": "checkpoint", "recipe": self._recipe, "state": dict(state)}
        save(self._path, tensors, header)
        self._last = time.monotonic()

    def clear(self) -> None:
        """Remove it: the work is done."""
        self._path.unlink(missing_ok=True)


@dataclass(frozen=True)
class Statistics:
    """One teacher's global statistics.

    Attributes:
        channel: For each convolution (module path), its input's channel moments, (channels,).
        patch: For each convolution, its input's patch moments, (patch rows, patch columns).
    """

    channel: dict[str, Moments]
    patch: dict[str, Moments]

    def tensors(self) -> dict[str, Tensor]:
        """As named tensors: `PATH/{channel,patch}/{mean,variance}`."""
        return {
            f"{path}/{level}/{name}": value
            for level, table in (("channel", self.channel), ("patch", self.patch))
            for path, moments in table.items()
            for name, value in moments._asdict().items()
        }

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> Statistics:
        """The inverse of `tensors`."""
        tables: dict[str, dict[str, Moments]] = {"channel": {}, "patch": {}}
        try:
            for key in tensors:
                path, level, name = key.rsplit("/", 2)
                if name == "mean":
                    variance = tensors[f"{path}/{level}/variance"]
                    tables[level][path] = Moments(tensors[key], variance)
        except (KeyError, ValueError):
            raise ArtifactError(f"the statistics are damaged at {key!r}; remove them") from None
        return cls(**tables)
