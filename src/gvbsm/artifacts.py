"""What is on disk: safetensors with a JSON header, written atomically; no pickle.

A work directory holds, for each stage, files under the stage's name. Every header carries the
format version, the kind of the artefact and its recipe: the settings that it was made with and the
fingerprints (hashes) of the recipes of what it was made from. So what is out of date, and why, is
known without reading tensors. Half-done work lies in `*.partial.safetensors` beside the result.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.utils.data import Dataset

from gvbsm._version import __version__
from gvbsm.moments import Moments

FORMAT = 1
KEY = "gvbsm"


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


def save(path: Path, tensors: Mapping[str, Tensor], header: Mapping[str, Any]) -> None:
    """Write tensors and header atomically; `header` needs `kind` and `recipe`."""
    full = {"format": FORMAT, "version": __version__, **header}
    # safetensors writes neither views of shared storage nor strided tensors.
    plain = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    with atomic(path) as temporary:
        try:
            save_file(plain, temporary, metadata={KEY: json.dumps(full, sort_keys=True)})
        except SafetensorError as error:  # a full disk is not an OSError here
            raise OSError(f"cannot write {path}: {error}") from None


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
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
    with _opened(path) as file:
        return _header_of(file, path)


def load_tensors(path: Path, kind: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and header of one artefact.

    Raises:
        ArtifactError: As `read_header`, or if the file holds another kind of artefact.
    """
    with _opened(path) as file:
        header = _header_of(file, path)
        if header.get("kind") != kind:
            raise ArtifactError(f"{path} holds {header.get('kind')!r}, expected {kind!r}")
        return {name: file.get_tensor(name) for name in file.keys()}, header  # noqa: SIM118


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


class Checkpoint:
    """Half-done work of one artefact: at most one file, replaced atomically now and then."""

    def __init__(self, path: Path, recipe: Recipe, every_seconds: float) -> None:
        self._path = path.with_name(f"{path.name.removesuffix('.safetensors')}.partial.safetensors")
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


@dataclass(frozen=True)
class SoftLabels:
    """Logits of every view of every epoch, with the views that they belong to.

    Stored as shards of consecutive epochs, indexed by epoch and image, so that the batch size of a
    reader is free. A shard's tensors are (epochs, images, ...): `logits` float16 (..., classes),
    `boxes` int16 (..., 4), `flips` bool, `rolls` int16 (..., 2), `partners` int32, `mix_boxes`
    int16 (..., 4) and `order` int32: the images in the order of labelling and of training.
    """

    directory: Path
    epochs: int
    shard_epochs: int
    images: int
    classes: int

    def shard_path(self, epoch: int) -> Path:
        """The file that holds `epoch`."""
        return self.directory / f"shard-{epoch // self.shard_epochs:05d}.safetensors"

    def read(self, epoch: int) -> dict[str, Tensor]:
        """One epoch's tensors, each (images, ...), read from its shard alone.

        Raises:
            ArtifactError: If the shard is missing or damaged.
        """
        with _opened(self.shard_path(epoch)) as file:
            row = epoch % self.shard_epochs
            return {name: file.get_slice(name)[row] for name in file.keys()}  # noqa: SIM118

    def nbytes(self) -> int:
        """Bytes on disk."""
        return sum(path.stat().st_size for path in self.directory.glob("shard-*.safetensors"))


@dataclass(frozen=True)
class DistilledDataset:
    """A distilled (or selected) set.

    Attributes:
        images: uint8 (N, channels, height, width), class by class.
        labels: Hard labels, int64 (N,).
        class_names: Name of each class.
        mean: Channel means of the real training set, of pixels scaled to [0, 1].
        std: Channel deviations, likewise.
        soft_labels: The labels of all views, where they are stored.
        header: What else the file says: method, data set, recipe.
    """

    images: Tensor
    labels: Tensor
    class_names: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    soft_labels: SoftLabels | None
    header: dict[str, Any]

    @property
    def ipc(self) -> int:
        """Images per class."""
        return len(self.labels) // len(self.class_names)

    def dataset(self) -> Dataset[tuple[Tensor, int]]:
        """A map-style data set of (normalized float image, hard label)."""
        return _HardDataset(self)


class _HardDataset(Dataset[tuple[Tensor, int]]):
    def __init__(self, distilled: DistilledDataset) -> None:
        self._distilled = distilled
        self._mean = torch.tensor(distilled.mean)[:, None, None]
        self._std = torch.tensor(distilled.std)[:, None, None]

    def __len__(self) -> int:
        return len(self._distilled.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        image = self._distilled.images[index].float() / 255
        return (image - self._mean) / self._std, int(self._distilled.labels[index])


def load_distilled(directory: str | Path) -> DistilledDataset:
    """The distilled set of a work directory (`gvbsm.load`).

    Raises:
        ArtifactError: If the directory holds none, or a damaged one.
    """
    directory = Path(directory)
    has_labels = (directory / "labels" / "index.json").is_file()
    soft_labels = load_labels(directory / "labels") if has_labels else None
    return load_images(directory / "synthesis" / "images.safetensors", soft_labels)


def load_images(path: Path, soft_labels: SoftLabels | None = None) -> DistilledDataset:
    """The set in one file of images.

    Raises:
        ArtifactError: If the file is missing or damaged.
    """
    tensors, header = load_tensors(path, "images")
    try:
        return DistilledDataset(
            images=tensors["images"],
            labels=tensors["labels"],
            class_names=tuple(header["class_names"]),
            mean=tuple(header["mean"]),
            std=tuple(header["std"]),
            soft_labels=soft_labels,
            header=header,
        )
    except KeyError as error:
        raise ArtifactError(f"{path} lacks {error}; remove it to make it again") from None


def stored_bytes(directory: Path) -> dict[str, int]:
    """Bytes that a set takes: `images` their pixels, `labels` the files of its soft labels.

    Args:
        directory: Where the set lies: a work directory, or one of its baselines.

    Returns:
        0 for what is not there, as the labels that teachers give during training.
    """
    images = directory / "synthesis" / "images.safetensors"
    pixels = 0
    if images.is_file():
        with _opened(images) as file:
            pixels = math.prod(file.get_slice("images").get_shape())  # uint8
    has_labels = (directory / "labels" / "index.json").is_file()
    return {
        "images": pixels,
        "labels": load_labels(directory / "labels").nbytes() if has_labels else 0,
    }


def load_labels(directory: Path) -> SoftLabels:
    """The soft labels of a `labels` directory.

    Raises:
        ArtifactError: If its index is missing or damaged.
    """
    index = read_json(directory / "index.json")
    try:
        return SoftLabels(
            directory,
            **{key: int(index[key]) for key in ("epochs", "shard_epochs", "images", "classes")},
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ArtifactError(f"{directory / 'index.json'} is damaged ({error}); remove it") from None
