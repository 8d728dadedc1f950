"""The label store: the views and logits of all epochs in shards, read batch by batch.

A `labels` folder holds `index.json` and the shards. The index is written before the first shard and
lists them all. Each shard is written in one step, so that a store can be read while it is made. A
shard holds whole epochs, or, of a large set, some batches of one epoch. Its rows are the images of
an epoch in the order of labeling and of training, so that a batch is contiguous: `views`, packed
bit fields (`plan_codec.plan_fields`), and the logits of `label_codec.encode_logits`. The content of
a shard depends on the recipe and the shard's number alone. docs/labels.md describes every byte.

Tensors are memory maps: reading a batch reads its pages alone. When a shard is opened, all of it is
read once to compare its checksum, and none of it is kept in memory.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from gvbsm.data.epochs import EpochPlan
from gvbsm.engine.torch_defaults import torch_defaults
from gvbsm.files.artifacts import ArtifactError, DamagedError
from gvbsm.files.tensors import load_tensors, save
from gvbsm.store.label_codec import (
    decode_logits,
    encode_logits,
    pack_rows,
    packed_bytes,
    unpack_rows,
)
from gvbsm.store.label_store import LAYOUT, LabelStore, Shard
from gvbsm.store.plan_codec import from_table, pack_plan, tabulate

OPEN_SHARDS = 8  # shards that stay mapped
LOGITS = {"logits", "codes", "classes", "fill", "low", "scale"}  # tensors of `encode_logits`

Encoded = dict[str, Tensor]
LabeledEpochs = tuple[Sequence[EpochPlan], Iterable[Encoded]]
"""Plans of epochs, and the encoded labels of their images in a shard, in the order of the plans."""


@dataclass(frozen=True)
class SoftLabels(LabelStore):
    """Soft labels of every view of every epoch, with the views that they belong to."""

    _open: dict[Path, Encoded] = field(default_factory=dict, compare=False, repr=False)

    # Reading.

    def epoch(self, epoch: int) -> tuple[EpochPlan, EpochLabels]:
        """Return an epoch's plan and its labels, which are read batch by batch.

        Raises:
            ValueError: If the epoch is not kept.
            ArtifactError: If a shard is missing, damaged or of other labels.
        """
        return self.joined([epoch])

    @torch_defaults()
    def joined(self, epochs: Sequence[int]) -> tuple[EpochPlan, EpochLabels]:
        """Return the plans of several epochs as one (`data.epochs.join_plans`), and their labels.

        Raises:
            ValueError, ArtifactError: As `epoch`.
        """
        for epoch in epochs:
            if epoch not in self.kept:
                raise ValueError(f"epoch {epoch} is not stored; there are {list(self.kept)}")
        rows = [self.kept.index(epoch) for epoch in epochs]
        numbers = range(self.shards_per_epoch)
        packed = [self._rows(row, number)["views"] for row in rows for number in numbers]
        table = unpack_rows(torch.cat(packed), self.fields)
        names = [field.name for field in self.fields]
        columns = dict(zip(names, table.unbind(1), strict=True))
        images, partners = (columns[name].view(len(rows), -1) for name in ("image", "partner"))
        self.check_order(epochs, images, partners)
        for column in (images, partners):  # number the images as `join_plans` does
            column += self.images * torch.arange(len(rows))[:, None]
        plan = from_table(table, self.fields)
        return plan, EpochLabels(self, torch.tensor(rows), plan.order)

    def check_order(self, epochs: Sequence[int], order: Tensor, partners: Tensor) -> None:
        """Check the images of the views of some epochs.

        Args:
            epochs: Their numbers.
            order: Image at each position, int64 (epochs, images).
            partners: The image that each image is mixed with, int64 (epochs, images).

        Raises:
            ArtifactError: If an image comes twice or not at all, or a partner is not in the set.
        """
        outside = (partners < 0) | (partners >= self.images)
        wrong = (order.sort(dim=1).values != torch.arange(self.images)) | outside
        if bool(wrong.any()):
            epoch = epochs[int(wrong.any(dim=1).nonzero()[0])]
            raise ArtifactError(
                f"the soft labels in {self.directory} are damaged (epoch {epoch} should have each "
                f"of {self.images} images once, mixed with another of them); `gvbsm labels` makes "
                "them again once their folder is moved away"
            )

    def read(self, epoch: int) -> dict[str, Tensor]:
        """Read a whole epoch, by image.

        Returns:
            `logits` (images, classes), float16 if they are stored so, else float32; and the tensors
            of `plan_codec.pack_plan`.

        Raises:
            ValueError, ArtifactError: As `epoch`.
        """
        plan, labels = self.epoch(epoch)
        logits = labels.logits(torch.arange(self.images))
        exact = self.storage.bits == 16 and self.storage.top_k is None
        return {"logits": logits.half() if exact else logits, **pack_plan(plan)}

    def encoded(self, rows: Tensor, positions: Tensor) -> Encoded:
        """Return the encoded logits at positions of epochs.

        Args:
            rows: Index of each position's epoch in `kept`, int64 (batch,).
            positions: Positions in the epochs' orders, int64 (batch,).
        """
        parts = positions // self.shard_images  # of an epoch, in shards of their own
        sizes = (self.images - parts * self.shard_images).clamp(max=self.shard_images)
        within = rows % self.shard_epochs * sizes + positions % self.shard_images
        numbers = rows // self.shard_epochs * self.shards_per_epoch + parts
        if bool((numbers == numbers[0]).all()):
            return self._at(int(numbers[0]), within)
        batch: Encoded = {}
        for number in sorted(set(numbers.tolist())):
            in_shard = numbers == number
            for name, values in self._at(number, within[in_shard]).items():
                column = batch.setdefault(name, values.new_empty(len(positions), *values.shape[1:]))
                column[in_shard] = values
        return batch

    def _at(self, number: int, rows: Tensor) -> Encoded:
        """The encoded logits at rows of a shard."""
        shard = self._opened(self.shards[number])
        return {name: shard[name][rows] for name in shard.keys() & LOGITS}

    def _rows(self, row: int, number: int) -> Encoded:
        """The tensors of one epoch in its shard of that number, (positions, ...), not yet read."""
        group, epoch = divmod(row, self.shard_epochs)
        shard = self.shards[group * self.shards_per_epoch + number]
        size = shard.stop - shard.start
        rows_of_epoch = slice(epoch * size, (epoch + 1) * size)
        return {name: rows[rows_of_epoch] for name, rows in self._opened(shard).items()}

    def _opened(self, shard: Shard) -> Encoded:
        """The shard's memory maps; its checksum is compared when it is first opened."""
        if shard.path not in self._open:
            tensors = self._load(shard)
            while len(self._open) >= OPEN_SHARDS:
                del self._open[next(iter(self._open))]  # the one opened first
            self._open[shard.path] = tensors
        return self._open[shard.path]

    def all_rows(self) -> Encoded:
        """Concatenate the tensors of all shards, as a single shard would hold them.

        Raises:
            ArtifactError: If a shard is missing, damaged or of other labels.
        """
        shards = [self._load(shard) for shard in self.shards]
        return {name: torch.cat([rows[name] for rows in shards]) for name in shards[0]}

    def _load(self, shard: Shard) -> Encoded:
        if not shard.path.is_file():
            missing = len(self.missing())
            raise ArtifactError(
                f"there is no {shard.path} ({missing} of {len(self.shards)} shards are missing); "
                "run `gvbsm labels` to make them"
            )
        tensors, header = load_tensors(shard.path, "labels")
        if header.get("recipe") != self.recipe:
            raise DamagedError(shard.path, "it belongs to other labels")
        self.check_rows(shard, tensors, shard.path)
        return tensors

    def check_rows(self, shard: Shard, tensors: Encoded, path: Path) -> None:
        """Check the types and shapes of a shard's tensors, and their class indices.

        Raises:
            ArtifactError: Naming the first tensor that is not valid.
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
                raise DamagedError(path, f"a class index is not in [0, {self.classes})")

    # Writing.

    def encode(self, logits: Tensor) -> Encoded:
        """Encode logits, float16 (batch, classes), as this store keeps them."""
        return encode_logits(logits, self.storage.top_k, self.storage.bits)

    def write(self, shard: Shard, labeled: Iterable[LabeledEpochs]) -> None:
        """Write a shard.

        Args:
            shard: The shard.
            labeled: Its epochs in order, one or several at a time; labels are taken one by one.
        """
        rows: dict[str, list[Tensor]] = {}
        for plans, batches in labeled:
            tables = [tabulate(plan)[shard.start : shard.stop] for plan in plans]
            rows.setdefault("views", []).append(pack_rows(torch.cat(tables), self.fields))
            for encoded in batches:
                for name, values in encoded.items():
                    rows.setdefault(name, []).append(values)
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


class EpochLabels:
    """The labels of one epoch, or of several that are joined, read batch by batch.

    Args:
        store: Their store.
        rows: Index of each epoch in `store.kept`, int64 (epochs,).
        order: Image at each position, int64 (epochs * images,), numbered as by `join_plans`.
    """

    def __init__(self, store: SoftLabels, rows: Tensor, order: Tensor) -> None:
        self._store, self._rows = store, rows
        self._position = torch.empty_like(order)
        self._position[order] = torch.arange(len(order))

    def encoded(self, index: Tensor) -> Encoded:
        """Encoded logits of the images at `index`, int64 (batch,)."""
        positions, images = self._position[index], self._store.images
        return self._store.encoded(self._rows[positions // images], positions % images)

    @torch_defaults()
    def logits(self, index: Tensor, device: torch.device | str = "cpu") -> Tensor:
        """Logits of the images at `index`, float32 (batch, classes), on a device."""
        encoded = {
            name: values.to(device, non_blocking=True)
            for name, values in self.encoded(index).items()
        }
        return decode_logits(encoded, self._store.classes)
