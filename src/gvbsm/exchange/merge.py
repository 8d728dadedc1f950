"""Merge the distilled sets of several clients into one (`gvbsm merge`).

Clients of one-shot federated learning send distilled sets, and a server trains on their union. The
merged set is a folder in the layout of a work directory, without teachers.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gvbsm._version import __version__
from gvbsm.config import Config, ConfigError
from gvbsm.config.build import to_dict
from gvbsm.config.paths import user_path
from gvbsm.data.class_sizes import ipc_of_labels
from gvbsm.data.epochs import batch_size_for
from gvbsm.data.pixels import Normalization
from gvbsm.engine.device import Runtime
from gvbsm.engine.torch_defaults import torch_defaults
from gvbsm.exchange.card import MIXED
from gvbsm.exchange.export import check_free, check_whole
from gvbsm.exchange.load import load
from gvbsm.exchange.merged_labels import MergedLabels, Part
from gvbsm.files.artifacts import fingerprint, write_json
from gvbsm.files.network_names import without_folders
from gvbsm.files.replacing import replacing
from gvbsm.files.tensors import digest, save
from gvbsm.store.distilled import DistilledDataset
from gvbsm.store.training_settings import settings_of_labels, settle

log = logging.getLogger("gvbsm")

SAME_LABELS = ("views", "logit_normalization", "temperature")  # settings of labels that must agree


@torch_defaults()
def merge(
    sources: Sequence[str | Path],
    out: str | Path,
    *,
    overwrite: bool = False,
    soft_labels: bool = True,
    quiet: bool = False,
) -> Path:
    """Merge distilled sets into one, which `gvbsm.load`, `train`, `export` and `show` read.

    Classes are matched by name: the merged set has those of all sets. Each image keeps its labels
    and views. The images come class by class, within a class set by set.

    Args:
        sources: At least two sets, each what `gvbsm.load` takes.
        out: The folder of the merged set.
        overwrite: Replace a merged set that is there already.
        soft_labels: Take the soft labels along; all sets must have them.
        quiet: No progress bar.

    Returns:
        `out`.

    Raises:
        ConfigError, ArtifactError, DataError: With one clear line, if the sets do not fit.
    """
    out = user_path(out)
    if len(sources) < 2:
        raise ConfigError(f"merge takes at least two sets, got {len(sources)}")
    check_free(out, "folder", overwrite)
    if len({user_path(source).resolve() for source in sources}) < len(sources):
        raise ConfigError("merge takes each set once; a set is named twice")
    sets = {str(source): load(source) for source in sources}
    if not soft_labels:
        sets = {name: replace(item, soft_labels=None) for name, item in sets.items()}
    names = merged_classes([item.class_names for item in sets.values()])
    number = {name: place for place, name in enumerate(names)}
    parts = [
        Part(name, item, settle({}, item), torch.tensor([number[c] for c in item.class_names]))
        for name, item in sets.items()
    ]
    _check_fit(parts)
    _log_unknown(parts, names)
    with replacing(out) as draft:
        _write(draft, parts, names, quiet)
    return out


def merged_classes(lists: Sequence[Sequence[str]]) -> tuple[str, ...]:
    """Return the union of several lists of classes.

    Sorted if each list is; else in the order of their first appearance.
    """
    union = [*dict.fromkeys(name for names in lists for name in names)]
    is_sorted = all(list(names) == sorted(names) for names in lists)
    return tuple(sorted(union) if is_sorted else union)


def pooled(parts: Sequence[DistilledDataset]) -> Normalization:
    """Return mean and standard deviation of pixels of several sets, weighted by their images.

    That of one is returned as it is if all agree. Images are stored as bytes, so that each set may
    be normalized in another way than where it was made.
    """
    normals = [part.normalization for part in parts]
    if len(set(normals)) == 1:
        return normals[0]
    weights = torch.tensor([len(part) for part in parts], dtype=torch.float64)
    weights = (weights / weights.sum())[:, None]
    means, deviations = (
        torch.tensor([getattr(normal, name) for normal in normals], dtype=torch.float64)
        for name in ("mean", "std")
    )
    mean = (weights * means).sum(0)
    variance = (weights * (deviations**2 + means**2)).sum(0) - mean**2
    return Normalization(tuple(mean.tolist()), tuple(variance.sqrt().tolist()))


def _check_fit(parts: Sequence[Part]) -> None:
    """Check sizes, channels and labels, before any work.

    Raises:
        ConfigError: Naming the first two sets that do not fit.
        ArtifactError: If soft labels are not whole.
    """
    first = parts[0]
    shape, has_labels = first.distilled.images.shape[1:], first.distilled.soft_labels is not None
    for part in parts:
        check_whole(part.distilled.soft_labels)
        if part.distilled.images.shape[1:] != shape:
            raise ConfigError(
                f"{part.name} has images of {list(part.distilled.images.shape[1:])} (channels, "
                f"height, width), {first.name} of {list(shape)}: distill both at one size"
            )
        if (part.distilled.soft_labels is not None) != has_labels:
            bare = part if has_labels else first
            raise ConfigError(
                f"{bare.name} has no soft labels and others have: pass --soft_labels false to "
                "merge images with hard labels"
            )
        if has_labels:
            _check_labels(part, first)


def _check_labels(part: Part, first: Part) -> None:
    """Check that the labels of a set are made as those of the first.

    Raises:
        ConfigError: Naming the first setting that differs.
    """
    recorded = settings_of_labels(part.distilled).get("labels", {})
    if recorded.get("batchnorm") == "batch":
        raise ConfigError(
            f"{part.name} was labeled in batches that change its labels (labels.batchnorm=batch), "
            "and a merged set has other batches: label it with labels.batchnorm=running, or pass "
            "--soft_labels false"
        )
    others = settings_of_labels(first.distilled).get("labels", {})
    defaults = to_dict(Config())["labels"]
    for name in SAME_LABELS:
        values = [settings.get(name, defaults[name]) for settings in (recorded, others)]
        if name == "views":
            values = [to_dict(item.config.labels)[name] for item in (part, first)]
        if values[0] != values[1]:
            raise ConfigError(
                f"labels.{name} of {part.name} is {values[0]}, of {first.name} {values[1]}: label "
                "both sets in the same way, or pass --soft_labels false"
            )


def _log_unknown(parts: Sequence[Part], names: Sequence[str]) -> None:
    for part in parts:
        known = {*part.distilled.class_names}
        if unknown := [name for name in names if name not in known]:
            shown = ", ".join(unknown[:10]) + ", ..." * (len(unknown) > 10)
            log.info(
                "%s does not know %d of %d classes: %s", part.name, len(unknown), len(names), shown
            )


def _write(draft: Path, parts: Sequence[Part], names: tuple[str, ...], quiet: bool) -> None:
    sets, first = [part.distilled for part in parts], parts[0]
    labels = torch.cat([part.classes[part.distilled.labels] for part in parts])
    order = torch.argsort(labels, stable=True)
    images = torch.cat([item.images for item in sets])[order]
    tensors = {"images": images, "labels": labels[order]}
    normalization = pooled(sets)
    if len({item.normalization for item in sets}) > 1:
        log.info("the sets have several normalizations; the merged set has %s", normalization)
    recipe = _recipe(parts, names, labels)
    settings = without_folders(_settings(first))
    common = partial(_common, sets)
    header = {
        "kind": "images",
        "recipe": recipe,
        "gvbsm": __version__,
        "method": common("method") or MIXED,
        "dataset": common("dataset") or MIXED,
        "title": common("title"),
        "class_names": list(names),
        "mean": list(normalization.mean),
        "std": list(normalization.std),
        "settings": settings,
    }
    side, crop = int(images.shape[-1]), settings["data"]["test_crop"]
    data = {"name": header["dataset"], "classes": len(names), "image_size": side, "test_crop": crop}
    write_json(draft / "data.json", data)
    save(draft / "synthesis" / "images.safetensors", tensors, header)
    if first.distilled.soft_labels is not None:  # then all have them
        runtime = Runtime(torch.device("cpu"), "fp32", first.config.seed, quiet=quiet)
        config = first.config
        batch = batch_size_for(
            len(labels), config.evaluation.batch_size, config.labels.full_batch_up_to
        )
        merged = MergedLabels(parts, torch.argsort(order), len(names), batch, runtime)
        entries = {"stage": "labels", "images": fingerprint(recipe), **settings}
        merged.write(draft / "labels", entries)


def _recipe(parts: Sequence[Part], names: Sequence[str], labels: Tensor) -> dict[str, Any]:
    contents = [
        digest({"images": part.distilled.images, "labels": part.distilled.labels}) for part in parts
    ]
    return {"stage": "merge", **ipc_of_labels(labels, names), "content": contents}


def _settings(part: Part) -> dict[str, Any]:
    """The settings that students of the merged set train with: those of its first set."""
    recorded = settings_of_labels(part.distilled)
    settings = {name: dict(recorded.get(name, {})) for name in ("labels", "evaluation")}
    crop = part.config.data.test_crop
    return {"seed": part.config.seed, **settings, "data": {"test_crop": crop}}


def _common(sets: Sequence[DistilledDataset], name: str) -> Any:
    """The entry of the headers that all sets share; None if they differ."""
    values = {item.header.get(name) for item in sets}
    return values.pop() if len(values) == 1 else None
