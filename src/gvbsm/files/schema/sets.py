"""Schemas of the files of image sets and soft labels."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, Strict, ValidationError, model_validator

from gvbsm.files.artifacts import ArtifactError
from gvbsm.files.schema.base import (
    MOST_BYTES,
    MOST_EPOCHS,
    MOST_SHARDS,
    Classes,
    ClassNames,
    Deviation,
    Images,
    Manifest,
    Mean,
    Percent,
    Positive,
    Side,
    Text,
    Whole,
    entries_as,
    first_fault,
)
from gvbsm.files.schema.runs import AllSettings, ResultRow


class TeacherScore(Manifest):
    """Name and accuracy of a teacher in the facts of a set."""

    backbone: Text
    top1: Percent | None = None


class LabelSettings(Manifest):
    """The recorded settings `labels` of a run that training on its set reads."""

    batchnorm: Text | None = None
    batch_size: Positive | None = None
    full_batch_up_to: Whole | None = None

    @model_validator(mode="after")
    def _agree(self) -> Self:
        if self.batchnorm == "batch" and None in (self.batch_size, self.full_batch_up_to):
            raise ValueError("should have batch_size and full_batch_up_to beside batchnorm=batch")
        return self


class EvaluationSettings(Manifest):
    """The recorded settings `evaluation` of a run that training on its set reads."""

    lr_of: dict[str, Any] = Field(default_factory=dict)
    students: list[Text] = Field(default_factory=list)


class RunSettings(Manifest):
    """The recorded settings of a run; their values are validated as settings later."""

    labels: LabelSettings = LabelSettings()
    evaluation: EvaluationSettings = EvaluationSettings()
    data: dict[str, Any] = Field(default_factory=dict)


class SetFacts(Manifest):
    """The description of a set: `gvbsm.json`, or the header of a set in a single file."""

    method: Text | None = None
    dataset: Text | None = None
    title: Text | None = None
    class_names: ClassNames
    channels: Literal[1, 3]
    mean: list[Mean]
    std: list[Deviation]
    image_size: Side
    images: Images
    folders: list[Text] | None = None
    recipe: dict[str, Any] | None = None
    settings: RunSettings | None = None
    config: AllSettings | None = None
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


class ImagesPerClass(Manifest):
    """What a recipe of images says about their number."""

    ipc: Positive | None = None
    ipc_of: dict[str, Positive] = Field(default_factory=dict)


class ImagesHeader(Manifest):
    """The header of `synthesis/images.safetensors`."""

    method: Text
    dataset: Text | None = None
    recipe: Annotated[dict[str, Any], entries_as(ImagesPerClass, "have whole numbers of images")]
    class_names: ClassNames
    mean: list[Mean]
    std: list[Deviation]
    traces: list[list[dict[str, Any]]] = Field(default_factory=list)
    settings: RunSettings | None = None

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
    "image",
    "crop top",
    "crop left",
    "crop height",
    "crop width",
    "flip",
    "roll down",
    "roll right",
    "partner",
    "mix top",
    "mix left",
    "mix height",
    "mix width",
)
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


def check_facts(facts: Mapping[str, Any], path: Path) -> None:
    """Validate the description of a set (`SetFacts`).

    Raises:
        ArtifactError: If an entry is invalid, naming the first.
    """
    try:
        SetFacts.model_validate(facts)
    except ValidationError as error:
        raise ArtifactError(
            f"{path} is damaged ({first_fault(error)}); fetch or export the set again"
        ) from None
