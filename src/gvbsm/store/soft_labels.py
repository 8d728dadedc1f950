"""The label store: the views and logits of all epochs in shards, read batch by batch.

A `labels` folder holds `index.json`, which is there before the first shard and names them all, and
the shards, each whole from the moment that it is there. So a store can be read while it is made. A
shard holds whole epochs, or, of a large set, some batches of one. Its rows are the images of an
epoch in the order of labelling and of training, so that a batch lies in one piece: `views`, packed
bit fields (`plan_codec.plan_fields`), and the logits as `label_codec.encode_logits` has them. What
a shard holds follows from the recipe and its number alone. docs/labels.md has every byte.

Tensors are memory maps: a batch reads the pages that it lies on. A shard is read as a whole when it
is opened, to compare its checksum; none of it is held.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gvbsm.config import LabelStorageConfig
from gvbsm.data.epochs import Plan
from gvbsm.engine.torch_defaults import torch_defaults
from gvbsm.files.artifacts import (
    ArtifactError,
    DamagedError,
    Recipe,
    load_tensors,
    read_header,
    remove_all,
    save,
    write_json,
)
from gvbsm.store.label_codec import (
    Field,
    decode_logits,
    encode_logits,
    pack_rows,
    packed_bytes,
    unpack_rows,
)
from gvbsm.store.plan_codec import from_table, pack_plan, tabulate

LAYOUT = 2  # of a store, by which a newer one is known
OPEN_SHARDS = 8  # that stay mapped
FOLDER = "labels"
OTHER_FOLDERS = {True: "labels-normalized", False: "labels-plain"}
"""Folders of students' labels whose logit normalization is not that of the others."""
STORAGE = "storage"  # entry of a recipe: how the labels are kept
LOGITS = {"logits", "codes", "classes", "fill", "low", "scale"}  # of `encode_logits`

Encoded = dict[str, Tensor]
Labelled = tuple[Plan, Callable[[Tensor], Encoded]]
"""An epoch's plan, and its labels as they are stored, for any batch of image numbers."""


@dataclass(frozen=True)
class Shard:
    """A piece of a store, by itself a unit of work.

    Attributes:
        path: Its file.
        epochs: The epochs that it holds, of one epoch perhaps a part.
        start: First place of that part in the epoch's order.
        stop: Place behind its last.
    """

    path: Path
    epochs: tuple[int, ...]
    start: int
    stop: int


@dataclass(frozen=True)
class SoftLabels:
    """Soft labels of every view of every epoch, with the views that they belong to.

    Attributes:
        directory: The folder.
        epochs: Epochs of the training.
        images: Images of the set.
        classes: Number of classes.
        kept: The epochs that are stored, which is all unless the store is pruned.
        storage: How logits are kept.
        fields: What a row of `views` holds.
        batch: Images in a batch of labelling; a part of an epoch is some batches.
        shard_epochs: Epochs in a shard.
        shard_images: Images of an epoch in a shard; less than `images` only if `shard_epochs` is 1.
        recipe: What the labels are made from.
    """

    directory: Path
    epochs: int
    images: int
    classes: int
    kept: tuple[int, ...]
    storage: LabelStorageConfig
    fields: tuple[Field, ...]
    batch: int
    shard_epochs: int
    shard_images: int
    recipe: Recipe
    _open: dict[Path, Encoded] = field(default_factory=dict, compare=False, repr=False)

    # What there is.

    @property
    def parts(self) -> int:
        """Shards of one epoch; 1 if a shard holds whole epochs."""
        return -(-self.images // self.shard_images)

    @cached_property
    def shards(self) -> tuple[Shard, ...]:
        """All shards, there or not."""
        tag = _tag(self.storage)
        found: list[Shard] = []
        for first in range(0, len(self.kept), self.shard_epochs):
            epochs = self.kept[first : first + self.shard_epochs]
            for start in range(0, self.images, self.shard_images):
                path = self.directory / f"shard-{tag}{len(found):05d}.safetensors"
                stop = min(start + self.shard_images, self.images)
                found.append(Shard(path, epochs, start, stop))
        return tuple(found)

    def missing(self) -> list[Shard]:
        """The shards that are not there yet."""
        return [shard for shard in self.shards if not shard.path.is_file()]

    def nbytes(self) -> int:
        """Bytes on disk of the shards that are there."""
        paths = (shard.path for shard in self.shards)
        return sum(path.stat().st_size for path in paths if path.is_file())

    def describe(self) -> str:
        """How many epochs are there, and how they are kept."""
        pruned = f"{len(self.kept)} of " if len(self.kept) < self.epochs else ""
        words = [f"{pruned}{self.epochs} epochs"]
        if self.storage.top_k is not None:
            words.append(f"the {self.storage.top_k} largest logits")
        if self.storage.bits < 16:
            words.append(f"{self.storage.bits} bits")
        return ", ".join(words)

    # Reading.

    @torch_defaults()
    def epoch(self, epoch: int) -> tuple[Plan, EpochLabels]:
        """An epoch's plan, and its labels, which are read when a batch of them is asked for.

        Raises:
            ValueError: If the epoch is not kept.
            ArtifactError: If a shard is missing, damaged or of other labels.
        """
        if epoch not in self.kept:
            raise ValueError(f"epoch {epoch} is not stored; there are {list(self.kept)}")
        row = self.kept.index(epoch)
        packed = [self._rows(row, part)["views"] for part in range(self.parts)]
        table = unpack_rows(torch.cat(packed), self.fields)
        columns = dict(zip((part.name for part in self.fields), table.unbind(1), strict=True))
        self.check_order(epoch, columns["image"], columns["partner"])
        plan = from_table(table, self.fields)
        return plan, EpochLabels(self, row, plan.order)

    def check_order(self, epoch: int, order: Tensor, partners: Tensor) -> None:
        """Check the images of an epoch's views.

        Args:
            epoch: Its number.
            order: Image at each place, int64 (images,).
            partners: The image that each is mixed with, int64 (images,).

        Raises:
            ArtifactError: If an image comes twice or not at all, or a partner is none of the set.
        """
        outside = (partners < 0) | (partners >= self.images)
        if not torch.equal(order.sort().values, torch.arange(self.images)) or bool(outside.any()):
            raise ArtifactError(
                f"the soft labels in {self.directory} are damaged (epoch {epoch} should have each "
                f"of {self.images} images once, mixed with another of them); `gvbsm labels` makes "
                "them again once their folder is moved away"
            )

    def read(self, epoch: int) -> dict[str, Tensor]:
        """A whole epoch by image, for those who want no batches.

        Returns:
            `logits` (images, classes), float16 if they are stored so, else float32; and what
            `plan_codec.pack_plan` makes of the plan.

        Raises:
            ValueError, ArtifactError: As `epoch`.
        """
        plan, labels = self.epoch(epoch)
        logits = labels.logits(torch.arange(self.images))
        exact = self.storage.bits == 16 and self.storage.top_k is None
        return {"logits": logits.half() if exact else logits, **pack_plan(plan)}

    def encoded(self, row: int, places: Tensor) -> Encoded:
        """What is stored of the logits at places of one epoch.

        Args:
            row: Number of the epoch among those kept.
            places: Places in the epoch's order, int64 (batch,).
        """
        numbers = places // self.shard_images
        if bool((numbers == numbers[0]).all()):
            return self._at(row, int(numbers[0]), places % self.shard_images)
        found: Encoded = {}
        for number in sorted(set(numbers.tolist())):
            here = numbers == number
            for name, part in self._at(row, number, places[here] % self.shard_images).items():
                whole = found.setdefault(name, part.new_empty(len(places), *part.shape[1:]))
                whole[here] = part
        return found

    def _at(self, row: int, part: int, places: Tensor) -> Encoded:
        rows = self._rows(row, part)
        return {name: rows[name][places] for name in rows.keys() & LOGITS}

    def _rows(self, row: int, part: int) -> Encoded:
        """The tensors of one part of an epoch, (places, ...), unread."""
        group, within = divmod(row, self.shard_epochs)
        shard = self.shards[group * self.parts + part]
        size = shard.stop - shard.start
        here = slice(within * size, (within + 1) * size)
        return {name: rows[here] for name, rows in self._opened(shard).items()}

    def _opened(self, shard: Shard) -> Encoded:
        """The shard's memory maps; its checksum is compared when it is opened."""
        if shard.path not in self._open:
            tensors = self._load(shard)
            while len(self._open) >= OPEN_SHARDS:
                del self._open[next(iter(self._open))]  # the one that was opened first
            self._open[shard.path] = tensors
        return self._open[shard.path]

    def all_rows(self) -> Encoded:
        """The tensors of all shards, row after row: what a single shard of them would hold.

        Raises:
            ArtifactError: If a shard is missing, damaged or of other labels.
        """
        shards = [self._load(shard) for shard in self.shards]
        return {name: torch.cat([rows[name] for rows in shards]) for name in shards[0]}

    def _load(self, shard: Shard) -> Encoded:
        if not shard.path.is_file():
            left = len(self.missing())
            raise ArtifactError(
                f"there is no {shard.path} ({left} of {len(self.shards)} shards are missing); "
                "`gvbsm labels` makes what is missing"
            )
        tensors, header = load_tensors(shard.path, "labels")
        if header.get("recipe") != self.recipe:
            raise DamagedError(shard.path, "it belongs to other labels")
        self.check_rows(shard, tensors, shard.path)
        return tensors

    def check_rows(self, shard: Shard, tensors: Encoded, path: Path) -> None:
        """Check the types and shapes of a shard's tensors, and the classes that they name.

        Args:
            shard: Which.
            tensors: Name -> (rows, ...).
            path: The file that they were read from.

        Raises:
            ArtifactError: Naming the first that does not fit.
        """
        count = len(shard.epochs) * (shard.stop - shard.start)
        views = torch.zeros(1, packed_bytes(self.fields), dtype=torch.uint8)
        logits = self.encode(torch.zeros(1, self.classes, dtype=torch.float16))
        for name, row in {"views": views, **logits}.items():
            rows, shape = tensors.get(name), (count, *row.shape[1:])
            if rows is None or rows.shape != shape or rows.dtype != row.dtype:
                raise DamagedError(path, f"{name} is not {row.dtype} of {list(shape)}")
        if self.storage.top_k is not None:
            kept = tensors["classes"]
            if int(kept.min()) < 0 or int(kept.max()) >= self.classes:
                raise DamagedError(path, f"it names classes beyond the {self.classes} of the set")

    # Writing.

    def encode(self, logits: Tensor) -> Encoded:
        """Logits float16 (batch, classes) as this store keeps them."""
        return encode_logits(logits, self.storage.top_k, self.storage.bits)

    def is_made(self, shard: Shard) -> bool:
        """Whether the shard is there, of this recipe and layout."""
        if not shard.path.is_file():
            return False
        try:
            header = read_header(shard.path)
        except ArtifactError:
            return False
        return header.get("recipe") == self.recipe and header.get("layout") == LAYOUT

    def write(
        self, shard: Shard, labelled: Callable[[int], Labelled], count: Callable[[], object]
    ) -> None:
        """Label a shard batch by batch and write it.

        Args:
            shard: Which.
            labelled: Gives an epoch's plan and labels.
            count: Is called after each batch.
        """
        rows: dict[str, list[Tensor]] = {}
        for epoch in shard.epochs:
            plan, label = labelled(epoch)
            table = tabulate(plan)[shard.start : shard.stop]
            rows.setdefault("views", []).append(pack_rows(table, self.fields))
            for index in torch.split(plan.order[shard.start : shard.stop], self.batch):
                for name, part in label(index).items():
                    rows.setdefault(name, []).append(part)
                count()
        self.write_rows(shard, {name: torch.cat(parts) for name, parts in rows.items()})

    def write_rows(self, shard: Shard, tensors: Encoded) -> None:
        """Write a shard's tensors."""
        header = {
            "kind": "labels",
            "recipe": self.recipe,
            "layout": LAYOUT,
            "epochs": list(shard.epochs),
            "places": [shard.start, shard.stop],
        }
        save(shard.path, tensors, header)

    def batches(self, shard: Shard) -> int:
        """How often `write` counts."""
        return len(shard.epochs) * -(-(shard.stop - shard.start) // self.batch)

    def index(self) -> dict[str, Any]:
        """The content of `index.json`."""
        numbers = ("epochs", "images", "classes", "batch", "shard_epochs", "shard_images")
        return {
            "layout": LAYOUT,
            "recipe": self.recipe,
            **{name: getattr(self, name) for name in numbers},
            "kept": "all" if len(self.kept) == self.epochs else list(self.kept),
            "storage": asdict(self.storage),
            "fields": [list(part) for part in self.fields],
            "files": [shard.path.name for shard in self.shards],
        }

    def write_index(self) -> None:
        """Make this the folder's store."""
        write_json(self.directory / "index.json", self.index())

    def tidy(self) -> None:
        """Remove shards of other stores that gvbsm made in the folder."""
        kept = {shard.path for shard in self.shards if self.is_made(shard)}
        remove_all(set(self.directory.glob("shard-*")) - kept)


class EpochLabels:
    """The labels of one epoch, read batch by batch.

    Args:
        store: Where they are.
        row: Number of the epoch among those kept.
        order: Image at each place of the epoch, int64 (images,).
    """

    def __init__(self, store: SoftLabels, row: int, order: Tensor) -> None:
        self._store, self._row = store, row
        self._place = torch.empty_like(order)
        self._place[order] = torch.arange(len(order))

    def encoded(self, index: Tensor) -> Encoded:
        """What is stored of the images at `index`, int64 (batch,)."""
        return self._store.encoded(self._row, self._place[index])

    @torch_defaults()
    def logits(self, index: Tensor, device: torch.device | str = "cpu") -> Tensor:
        """Logits of the images at `index`, float32 (batch, classes), on a device."""
        encoded = self.encoded(index).items()
        parts = {name: part.to(device, non_blocking=True) for name, part in encoded}
        return decode_logits(parts, self._store.classes)


def _tag(storage: LabelStorageConfig) -> str:
    """Part of a shard's name, so that two stores can lie in one folder while one is converted."""
    words = [f"pool{storage.pruning:g}"] if storage.pruning > 1 else []
    words += [] if storage.top_k is None else [f"top{storage.top_k}"]
    words += [f"{storage.bits}bit"] if storage.bits < 16 else []
    return "".join(f"{word}-" for word in words)
