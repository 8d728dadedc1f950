"""Join the soft labels of several sets into one store, view by view."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from gvbsm.config import Config, LabelStorageConfig
from gvbsm.data.epochs import EpochPlan
from gvbsm.data.mixing import Mixes
from gvbsm.data.views import Views
from gvbsm.engine.device import Runtime
from gvbsm.files.artifacts import ArtifactError, Recipe
from gvbsm.stages.labels import SHARD_BYTES, SHARD_EPOCHS
from gvbsm.store.distilled import DistilledDataset
from gvbsm.store.label_codec import field, row_bytes
from gvbsm.store.label_store import Field
from gvbsm.store.soft_labels import Encoded, SoftLabels


@dataclass(frozen=True)
class Part:
    """One of the sets.

    Attributes:
        name: Where it was read from.
        distilled: The set.
        config: The settings that its students train with.
        classes: Number in the merged set of each of its classes, int64 (classes of the set,).
    """

    name: str
    distilled: DistilledDataset
    config: Config
    classes: Tensor

    @property
    def stored(self) -> SoftLabels:
        """Its soft labels, where the sets have some."""
        assert self.distilled.soft_labels is not None
        return self.distilled.soft_labels


def with_all_classes(logits: Tensor, classes: Tensor, count: int) -> Tensor:
    """Return logits over the classes of the merged set.

    A class that the teachers of a set do not know gets the smallest logit of the row: they saw no
    evidence for it.

    Args:
        logits: (rows, classes of the set).
        classes: Number in the merged set of each class of the set, int64 (classes of the set,).
        count: Classes of the merged set.

    Returns:
        (rows, count).
    """
    smallest = logits.amin(dim=1, keepdim=True).expand(-1, count)
    return smallest.index_copy(1, classes, logits)


def join_plans_of_sets(plans: Sequence[EpochPlan], places: Tensor, order: Tensor) -> EpochPlan:
    """Join the plans of one epoch of several sets; each image keeps its view and its partner.

    Args:
        plans: The plan of each set, with the same optional entries.
        places: Number in the merged set of each image, set after set, int64 (images,).
        order: Order of the merged set's images, int64 (images,).
    """
    sizes = [len(plan.order) for plan in plans]
    starts = torch.tensor([0, *sizes]).cumsum(0)[:-1].tolist()
    partners = torch.cat(
        [plan.mixes.partners + start for plan, start in zip(plans, starts, strict=True)]
    )
    sources = torch.argsort(places)  # image of all sets end to end -> image of the merged set

    def joined(columns: Sequence[Tensor | None]) -> Tensor | None:
        tensors = [column for column in columns if column is not None]
        return torch.cat(tensors)[sources] if tensors else None

    views = [torch.cat(column)[sources] for column in zip(*(p.views for p in plans), strict=True)]
    boxes = torch.cat([plan.mixes.boxes for plan in plans])[sources]
    return EpochPlan(
        order,
        Views(*views),
        Mixes(places[partners][sources], boxes),
        joined([plan.cells for plan in plans]),
        joined([plan.shares for plan in plans]),
    )


def check_fields(parts: Sequence[Part]) -> tuple[Field, ...]:
    """Return bit fields that hold the views of all sets, for the merged number of images.

    Raises:
        ArtifactError: If one set has patch shuffle or Mixup in its labels and another has not.
    """
    first, images = parts[0], sum(part.stored.images for part in parts)
    names = [item.name for item in first.stored.fields]
    for part in parts[1:]:
        if [item.name for item in part.stored.fields] != names:
            raise ArtifactError(
                f"the views of {part.name} have other entries than those of {first.name} (patch "
                "shuffle or Mixup): label both sets with the same labels.views, or merge with "
                "--soft_labels false"
            )
    fields = []
    for column in zip(*(part.stored.fields for part in parts), strict=True):
        if column[0].name in ("image", "partner"):
            fields.append(field(column[0].name, 0, images - 1))
            continue
        low = min(item.low for item in column)
        high = max(item.low + 2**item.bits - 1 for item in column)
        fields.append(field(column[0].name, low, high))
    return tuple(fields)


class MergedLabels:
    """The soft labels of several sets as those of one.

    Epoch k of the merged set joins epoch k of each set; a set with fewer epochs begins again. If a
    store is pruned, its stored epochs count. Encoded logits are copied as they are if all sets have
    the classes of the merged set in its order and are encoded alike; else they are decoded and
    stored as float16 of all classes.

    Args:
        parts: The sets.
        places: Number in the merged set of each image, set after set, int64 (images,).
        classes: Classes of the merged set.
        batch: Images in a batch of training.
        runtime: Holds the seed of the orders.
    """

    def __init__(
        self,
        parts: Sequence[Part],
        places: Tensor,
        classes: int,
        batch: int,
        runtime: Runtime,
    ) -> None:
        self._parts, self._places, self._classes = parts, places, classes
        self._batch, self._runtime = batch, runtime
        same_classes = all(torch.equal(part.classes, torch.arange(classes)) for part in parts)
        encodings = {(part.stored.storage.top_k, part.stored.storage.bits) for part in parts}
        self.are_copied = same_classes and len(encodings) == 1

    def write(self, folder: Path, recipe: Recipe) -> SoftLabels:
        """Write the store to a folder.

        Raises:
            ArtifactError: If the labels of a set are missing or damaged, or the views differ.
        """
        store = self._store(folder, recipe)
        store.write_index()
        for shard in self._runtime.track(store.shards, "soft labels"):
            store.write(shard, self._labeled(store, shard.epochs))
        return store

    def _store(self, folder: Path, recipe: Recipe) -> SoftLabels:
        stores = [part.stored for part in self._parts]
        epochs, rows = max(s.epochs for s in stores), max(len(s.kept) for s in stores)
        pruning = 1.0 if rows == epochs else max(s.storage.pruning for s in stores)
        storage = replace(stores[0].storage, pruning=pruning)
        if not self.are_copied:
            storage = LabelStorageConfig(pruning=pruning)
        fields, images = check_fields(self._parts), len(self._places)
        nbytes = images * row_bytes(fields, self._classes, storage)
        return SoftLabels(
            folder,
            epochs,
            images,
            self._classes,
            tuple(range(rows)),
            storage,
            fields,
            self._batch,
            shard_epochs=max(1, min(SHARD_BYTES // nbytes, SHARD_EPOCHS, rows)),
            shard_images=images,
            recipe=recipe,
        )

    def _labeled(
        self, store: SoftLabels, epochs: Sequence[int]
    ) -> Iterator[tuple[list[EpochPlan], list[Encoded]]]:
        """Yield the plan and the encoded labels of each epoch, in the order of the plan."""
        for epoch in epochs:
            plans, encoded = [], []
            for part in self._parts:
                kept = part.stored.kept
                plan, labels = part.stored.epoch(kept[epoch % len(kept)])
                index = torch.arange(part.stored.images)
                plans.append(plan)
                if self.are_copied:
                    encoded.append(labels.encoded(index))
                else:
                    logits = with_all_classes(labels.logits(index), part.classes, self._classes)
                    encoded.append(store.encode(logits.half()))
            generator = self._runtime.generator("merge", epoch)
            order = torch.randperm(len(self._places), generator=generator)
            rows = torch.argsort(self._places)[order]
            joined = {name: torch.cat([e[name] for e in encoded])[rows] for name in encoded[0]}
            yield [join_plans_of_sets(plans, self._places, order)], [joined]
