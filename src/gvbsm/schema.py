"""What manifests hold: the types, limits and agreements of every JSON object that is read back.

A manifest is a JSON file or the JSON header of a safetensors file. Whoever wrote one is not
trusted: `checked` turns the first entry that does not fit into one line, with the file, the entry,
what was expected and what was found. Sizes are limited before they decide how much memory is taken.
"""

from __future__ import annotations

import re
import reprlib
import unicodedata
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

import torch
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    Strict,
    ValidationError,
    model_validator,
)
from torch import Tensor

from gvbsm.artifacts import ArtifactError, DamagedError, read_header

MOST_BYTES = 16 * 1024**3  # of pixels, or of anything else that is read at once
MOST_CLASSES, MOST_SIDE = 100_000, 4096
MOST_EPOCHS = 1_000_000
MOST_SHARDS = 1_000_000

M = TypeVar("M", bound="Manifest")


class Manifest(BaseModel):
    """Entries of a JSON object; others may lie beside them."""

    model_config = ConfigDict(strict=True, extra="ignore", frozen=True)


def _check_names(names: list[str]) -> list[str]:
    normal = [unicodedata.normalize("NFC", name) for name in names]
    if len(set(normal)) < len(normal):
        twice = next(name for name in normal if normal.count(name) > 1)
        raise ValueError(f"should name every class once, but has {twice!r} twice")
    return names


Text = Annotated[str, Field(max_length=10_000)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Whole = Annotated[int, Field(ge=0, lt=2**63)]
Positive = Annotated[int, Field(ge=1, lt=2**63)]
Percent = Annotated[float, Field(ge=0, le=100, allow_inf_nan=False)]
Deviation = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Side = Annotated[int, Field(ge=1, le=MOST_SIDE)]
Images = Annotated[int, Field(ge=1, le=MOST_BYTES)]
Classes = Annotated[int, Field(ge=1, le=MOST_CLASSES)]
ClassNames = Annotated[
    list[Text], Field(min_length=2, max_length=MOST_CLASSES), AfterValidator(_check_names)
]


class Score(Manifest):
    """Top-1 accuracies of several students, in percent."""

    mean: Percent
    std: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    values: Annotated[list[Percent], Field(min_length=1)]


class ResultRow(Manifest):
    """A row of `results.json`."""

    method: Text
    student: Text
    ipc: Positive | None
    top1: Score
    top1_best: Score
    seconds: Finite


class TeacherScore(Manifest):
    """A teacher as the facts of a set name it."""

    backbone: Text
    top1: Percent | None = None


class Facts(Manifest):
    """`gvbsm.json`, and the header of a set in a single file: what a set says of itself."""

    method: Text | None = None
    dataset: Text | None = None
    class_names: ClassNames
    channels: Literal[1, 3]
    mean: list[Finite]
    std: list[Deviation]
    image_size: Side
    images: Images
    folders: list[Text] | None = None
    recipe: dict[str, Any] | None = None
    settings: dict[str, Any] | None = None
    config: dict[str, Any] | None = None
    results: list[ResultRow] | None = None
    versions: dict[str, Text] | None = None
    pictures: dict[str, Whole | None] | None = None
    teachers: list[TeacherScore] | None = None

    @model_validator(mode="after")
    def _agree(self) -> Self:
        for name in ("mean", "std"):
            if len(getattr(self, name)) != self.channels:
                raise ValueError(f"{name} should be {self.channels} numbers, one a channel")
        if self.folders is not None and len(self.folders) != len(self.class_names):
            raise ValueError("folders should name a folder for each class")
        nbytes = self.images * self.channels * self.image_size**2
        if nbytes > MOST_BYTES:
            raise ValueError(f"images should take at most {MOST_BYTES} bytes, not {nbytes}")
        return self


class ImagesHeader(Manifest):
    """The header of `synthesis/images.safetensors`."""

    method: Text
    dataset: Text | None = None
    recipe: dict[str, Any]
    class_names: ClassNames
    mean: list[Finite]
    std: list[Deviation]
    traces: list[list[dict[str, Any]]] = []

    @model_validator(mode="after")
    def _agree(self) -> Self:
        if len(self.mean) != len(self.std) or len(self.mean) not in (1, 3):
            raise ValueError("mean and std should each be 1 or 3 numbers, one a channel")
        return self


class Storage(Manifest):
    """How soft labels are stored."""

    top_k: Positive | None = None
    bits: Literal[8, 16] = 16
    pruning: Annotated[float, Field(ge=1, allow_inf_nan=False)] = 1.0


PackedField = Annotated[
    tuple[Text, Annotated[int, Field(ge=-(2**31), lt=2**31)], Annotated[int, Field(ge=0, le=32)]],
    Strict(False),
]
"""Name, least value and bits of a number inside a packed row."""


PACKED = (
    "image", "crop top", "crop left", "crop height", "crop width", "flip", "roll down",
    "roll right", "partner", "mix top", "mix left", "mix height", "mix width",
)  # fmt: skip
"""Names of the numbers that every packed row begins with."""
PACKED_MORE = re.compile(r"cell \d+|mix share")  # those that may follow


def _check_packed(fields: list[tuple[str, int, int]]) -> list[tuple[str, int, int]]:
    names = [name for name, _, _ in fields]
    more = names[len(PACKED) :]
    known = all(map(PACKED_MORE.fullmatch, more)) and len(set(more)) == len(more)
    if tuple(names[: len(PACKED)]) != PACKED or not known:
        raise ValueError(f"should begin with {', '.join(PACKED)}, and end with cells or a share")
    return fields


class LabelIndex(Manifest):
    """`index.json` of a store of soft labels."""

    layout: Literal[2]
    recipe: dict[str, Any]
    epochs: Annotated[int, Field(ge=1, le=MOST_EPOCHS)]
    images: Images
    classes: Classes
    kept: Literal["all"] | Annotated[list[Whole], Field(min_length=1)]
    storage: Storage
    fields: Annotated[list[PackedField], Field(max_length=10_000), AfterValidator(_check_packed)]
    batch: Positive
    shard_epochs: Positive
    shard_images: Positive

    @model_validator(mode="after")
    def _agree(self) -> Self:
        kept = range(self.epochs) if self.kept == "all" else self.kept
        if list(kept) != sorted({*kept}) or kept[-1] >= self.epochs:
            raise ValueError(f"kept should rise from epoch to epoch, each below {self.epochs}")
        if self.storage.top_k is not None and self.storage.top_k >= self.classes:
            raise ValueError(f"storage.top_k should be less than the {self.classes} classes")
        if self.shard_images < self.images and self.shard_epochs > 1:
            raise ValueError("shard_epochs should be 1 where a shard holds a part of an epoch")
        shards = -(-len(kept) // self.shard_epochs) * -(-self.images // self.shard_images)
        if shards > MOST_SHARDS:
            raise ValueError(f"shard_images should make at most {MOST_SHARDS} shards, not {shards}")
        return self


class History(Manifest):
    """The tests of a network in training."""

    epochs: list[Whole]
    top1: Annotated[list[Percent], Field(min_length=1)]


class TestedHeader(Manifest):
    """The header of a network's file, as far as it says how good the network is."""

    recipe: dict[str, Any]
    backbone: Text
    history: History


class TeacherHeader(TestedHeader):
    """The header of a teacher's file, from which the network is built again."""

    class_names: ClassNames
    image_size: Side
    channels: Literal[1, 3]


class StatisticsHeader(Manifest):
    """The header of a teacher's statistics."""

    recipe: dict[str, Any]
    backbone: Text


HEADERS: dict[str, type[Manifest]] = {
    "teacher": TestedHeader,
    "forgetting": TestedHeader,
    "statistics": StatisticsHeader,
    "images": ImagesHeader,
}
"""What is checked of each kind of file before it is shown."""


class Data(Manifest):
    """`data.json` of a work directory."""

    name: Text
    classes: Classes
    image_size: Side


class Account(Manifest):
    """What `results.json` says of how the data set was read, as far as the page shows it."""

    held_out: Text = ""


class Results(Manifest):
    """`results.json` of a work directory, as far as its table and its page show it."""

    rows: list[ResultRow]
    pictures: dict[str, Whole | None] = {}
    skipped: list[Text] = []
    notes: list[Text] = []
    data: Account | None = None


def checked(model: type[M], content: Mapping[str, Any], path: Path) -> M:
    """A manifest, once its entries are found to fit.

    Args:
        model: What it should be.
        content: Its JSON object.
        path: The file that it was read from.

    Raises:
        DamagedError: If an entry does not fit, naming the first.
    """
    try:
        return model.model_validate(content)
    except ValidationError as error:
        raise DamagedError(path, _first_fault(error)) from None


def checked_header(path: Path) -> dict[str, Any]:
    """The header of a file, once its entries are found to fit its kind (`HEADERS`).

    Raises:
        ArtifactError: As `read_header`, or naming the first entry that does not fit.
    """
    header = read_header(path)
    if model := HEADERS.get(str(header.get("kind"))):
        checked(model, header, path)
    return header


def check_facts(facts: Mapping[str, Any], path: Path) -> None:
    """Check what a set says of itself (`Facts`).

    Raises:
        ArtifactError: If an entry does not fit, naming the first.
    """
    try:
        Facts.model_validate(facts)
    except ValidationError as error:
        raise ArtifactError(
            f"{path} is damaged ({_first_fault(error)}); fetch or export the set again"
        ) from None


def _first_fault(error: ValidationError) -> str:
    """`ENTRY should be a valid integer, found 'x'`, in one line of printable characters."""
    first = error.errors(include_url=False, include_context=False)[0]
    entry = ".".join(_printable(str(key)) for key in first["loc"])
    message = first["msg"].removeprefix("Input ").removeprefix("Value error, ")
    if first["type"] == "missing":
        return f"it lacks {entry}"
    if first["type"] == "value_error" and not entry:  # entries that do not agree
        return _printable(message, 300)
    return f"{entry} {_printable(message, 300)}, found {_printable(reprlib.repr(first['input']))}"


def _printable(text: str, most: int = 80) -> str:
    return text[:most].encode("unicode_escape").decode() if not text.isprintable() else text[:most]


def check_images(path: Path, tensors: Mapping[str, Tensor], header: ImagesHeader) -> None:
    """Check the tensors of a set: `images` uint8 (N, channels, side, side), `labels` int64 (N,).

    Args:
        path: The file that they were read from.
        tensors: Name -> tensor.
        header: Its header.

    Raises:
        ArtifactError: If one is missing, of another type or shape, or a label names no class.
    """
    images, labels = tensors.get("images"), tensors.get("labels")
    if images is None or labels is None:
        raise DamagedError(path, "it lacks images or labels")
    shape, channels = tuple(images.shape), len(header.mean)
    is_set = images.dtype == torch.uint8 and len(shape) == 4 and 0 not in shape
    if not is_set or shape[1] != channels or shape[2] != shape[3]:
        raise DamagedError(
            path,
            f"images should be torch.uint8 (N, {channels}, side, side) with N of at least 1, "
            f"found {images.dtype} {shape}",
        )
    if labels.dtype != torch.int64 or labels.shape != images.shape[:1]:
        raise DamagedError(
            path,
            f"labels should be torch.int64 ({shape[0]},), one an image, found {labels.dtype} "
            f"{tuple(labels.shape)}",
        )
    check_labels(path, labels, len(header.class_names))


def check_labels(path: Path, labels: Tensor, classes: int) -> None:
    """Check that each hard label, int64 (N,), is the number of a class.

    Raises:
        ArtifactError: Naming one that is not.
    """
    if len(wrong := labels[(labels < 0) | (labels >= classes)]):
        raise ArtifactError(
            f"labels of {path} must be 0 to {classes - 1}, found {int(wrong[0])}; fetch the set "
            "again, or make it again"
        )
