"""Train a network on a distilled set, whoever wrote it (`gvbsm train`)."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gvbsm._version import __version__
from gvbsm.backbones import build_backbone, code_of
from gvbsm.config import Config, ConfigError
from gvbsm.config.build import to_dict
from gvbsm.config.given import code_name
from gvbsm.config.keys import nested
from gvbsm.config.paths import MEMORY, user_path
from gvbsm.data.classes import matched_by_place, renumbered
from gvbsm.data.datasets import DATASETS, ImageData
from gvbsm.data.sources.memory import InMemory
from gvbsm.engine.device import Runtime, runtime_for
from gvbsm.engine.progress.spelling import spell_count
from gvbsm.engine.seeds import seeded
from gvbsm.engine.torch_defaults import torch_defaults
from gvbsm.exchange.load import load
from gvbsm.exchange.public_files import label_files
from gvbsm.files.artifacts import (
    ArtifactError,
    Recipe,
    check_replaceable,
    is_current,
    read_header,
    read_json,
    write_json,
)
from gvbsm.files.checkpoint import Checkpoint
from gvbsm.files.network_names import file_name, without_folders
from gvbsm.files.plugins import admit
from gvbsm.files.tensors import save
from gvbsm.pipeline.checks.sets import check_trainable
from gvbsm.pipeline.forms.choice import RaceTask
from gvbsm.pipeline.preflight import load_data
from gvbsm.stages.distilled_training import fit_student
from gvbsm.stages.judge import Judge
from gvbsm.store.batches import Labeler, StudentTask
from gvbsm.store.distilled import DistilledDataset
from gvbsm.store.label_store import is_normalized
from gvbsm.store.training_settings import EVALUATION, LABELS, recorded_settings, settle

log = logging.getLogger("gvbsm")


@dataclass(frozen=True)
class _Work:
    """One training: the network, the distilled set, and all settings."""

    model: str
    source: str
    distilled: DistilledDataset
    config: Config
    runtime: Runtime
    test: ImageData | None


@torch_defaults()
def train(
    source: str | Path,
    model: str | Callable[..., nn.Module],
    out: str | Path | None = None,
    settings: Mapping[str, Any] | None = None,
    quiet: bool = False,
    *,
    data: Any = None,
) -> dict[str, Any]:
    """Train a network on a distilled set, with its soft labels if it has them.

    Args:
        source: What `gvbsm.load` takes.
        model: Name of the architecture, as for students of `gvbsm run`, or a class or function that
            builds it (docs/own_parts.md).
        out: The file of the weights; its history goes beside it as JSON. None is
            `runs/train/MODEL.safetensors`.
        settings: Nested, named as for `gvbsm run`: `data` (the real pictures, whose test split is
            the test set; nothing is tested without its name or root), `labels`, `evaluation`,
            `seed`, `device` and so on. Settings that are left out are taken from the set's record.
        quiet: No progress bars.
        data: The real pictures, as for `gvbsm.run`, in the place of those that the settings name.
            Of `(X, y)` alone the share is tested that the run held out.

    Returns:
        What the JSON file holds: `recipe`, `model`, `distilled`, `epochs` (those after which the
        network was tested), `top1` and `losses`; and, with test pictures, their `confusion`.

    Raises:
        ConfigError, ArtifactError, DataError, RunError: With one clear line.
    """
    model = model if isinstance(model, str) else code_name(model)
    admit([model])
    path = user_path(out) if out is not None else Path("runs") / "train" / file_name(model)
    if path.suffix != ".safetensors":
        raise ConfigError(f"--out must name a .safetensors file, got {path}")
    _check_history(path.with_suffix(".json"))
    check_replaceable(path)
    pictures = None if data is None else InMemory.of(data)
    work = _settle(str(source), model, nested(settings or {}), quiet, pictures)
    recipe, history = _recipe(work), path.with_suffix(".json")
    if is_current(path, recipe) and history.is_file():
        log.info("%s exists, and was trained with these settings", path)
        return read_json(history)
    if path.exists():
        raise ConfigError(f"{path} exists, trained in another way; name another file as --out")
    return _train(work, path, recipe)


def _check_history(path: Path) -> None:
    """Check that the file of the history is missing, or is the history of a training.

    Raises:
        ConfigError: If another file is there.
    """
    if not path.exists():
        return
    try:
        recipe = read_json(path).get("recipe")
    except ArtifactError:
        recipe = None
    if not isinstance(recipe, dict) or recipe.get("stage") != "train":
        raise ConfigError(
            f"{path}, the file of the history, is no history of gvbsm train; name another --out"
        )


def _settle(
    source: str, model: str, given: dict[str, Any], quiet: bool, pictures: InMemory | None
) -> _Work:
    distilled = _load_for(model, source)
    side, channels = distilled.images.shape[-1], distilled.images.shape[1]
    check_trainable(model, len(distilled.class_names), channels, side)
    config = settle(given, distilled, model)
    runtime = runtime_for(config, quiet)
    if config.precision == "auto":
        task = RaceTask(len(distilled.class_names), (channels, side, side))
        views = config.labels.epochs * len(distilled.images)
        form = task.choose(model, "training", views, runtime)
        runtime = runtime.in_form(form or runtime.form)
    test = None
    asked = given.get("data", {})
    if pictures is not None or asked.get("name") or asked.get("root"):
        test = _test_data(asked, config, distilled, runtime, pictures)
    return _Work(model, source, distilled, config, runtime, test)


def _load_for(model: str, source: str) -> DistilledDataset:
    """Load a set with the labels that a student of this name learns from, if it has them."""
    distilled = load(source)
    table = recorded_settings(distilled).get("labels", {}).get("logit_normalization_of", {})
    stored = distilled.soft_labels
    normalized = table.get(model, table.get(without_folders(model)))
    if stored is None or normalized in (None, is_normalized(stored)):
        return distilled
    try:
        return load(source, logit_normalization=normalized)
    except ArtifactError as error:
        log.warning("%s, which %s should learn from", error, model)
        return distilled


def _test_data(
    asked: Mapping[str, Any],
    config: Config,
    distilled: DistilledDataset,
    runtime: Runtime,
    pictures: InMemory | None,
) -> ImageData:
    """Load the real pictures with the size, normalization and class order of the set."""
    side, channels = distilled.images.shape[-1], distilled.images.shape[1]
    dataset = str(distilled.header.get("dataset"))
    name = asked.get("name") or (dataset if dataset in DATASETS else "folder")
    name = name if pictures is None else MEMORY
    if asked.get("image_size") not in (None, side):
        raise ConfigError(f"data.image_size must be the set's, {side}, got {asked['image_size']}")
    settings = replace(config, data=replace(config.data, name=name, image_size=side))
    data = load_data(settings, runtime, pictures)
    if data.channels != channels:
        raise ConfigError(
            f"the set has {spell_count(channels, 'channel')}, "
            f"the pictures of {name} {data.channels}"
        )
    labels = _relabeled(data, distilled.class_names)
    split = replace(data.test, labels=labels)
    return replace(
        data, class_names=distilled.class_names, test=split, normalization=distilled.normalization
    )


def _relabeled(data: ImageData, names: tuple[str, ...]) -> Tensor:
    """Return the test labels in the order of the set's classes.

    If the names of the classes differ but not their number, the orders are assumed to agree
    (`matched_by_place`).

    Raises:
        ConfigError: If there are more or fewer classes.
    """
    test_classes = data.class_names
    if len(test_classes) != len(names):
        raise ConfigError(
            f"the set has {len(names)} classes, the pictures of {data.name} {len(test_classes)}"
        )
    if test_classes == names:
        return data.test.labels
    if (labels := renumbered(data.test.labels, test_classes, names)) is not None:
        log.info("test labels are renumbered to the class order of the set")
        return labels
    places = matched_by_place(torch.arange(len(names)), test_classes, names)
    pairs = [(place, names[place], test_classes[at]) for at, place in enumerate(places.tolist())]
    log.warning(
        "class %d is %r in the set and %r in the test pictures: their orders are assumed to agree",
        *next(pair for pair in pairs if pair[1] != pair[2]),
    )
    return places[data.test.labels]


def _recipe(work: _Work) -> Recipe:
    digest = hashlib.sha256()
    distilled, stored = work.distilled, work.distilled.soft_labels
    for tensor in (distilled.images, distilled.labels):
        digest.update(tensor.contiguous().view(-1).numpy().data)
    about = [distilled.class_names, distilled.normalization.mean, distilled.normalization.std]
    digest.update(json.dumps(about).encode())
    if stored is not None:
        index, *shards = label_files(stored)
        digest.update(index.read_bytes())
        for path in shards:
            digest.update(f"{path.name}\0{read_header(path).get('digest')}\n".encode())
    labels, evaluation = to_dict(work.config.labels), to_dict(work.config.evaluation)
    return {
        "stage": "train",
        "model": work.model,
        **code_of(work.model),
        "set": digest.hexdigest(),
        "labels": {key: labels[key] for key in LABELS if key != "min_steps"},
        "evaluation": {key: evaluation[key] for key in EVALUATION},
        "test": work.test and work.test.fingerprint,
        "seed": work.config.seed,
        "precision": work.runtime.form.name,
    }


def _train(work: _Work, path: Path, recipe: Recipe) -> dict[str, Any]:
    distilled, config, runtime = work.distilled, work.config, work.runtime
    count, channels, side = distilled.images.shape[:3]
    classes = len(distilled.class_names)
    with seeded(runtime.seed, "train", work.model):
        model = build_backbone(work.model, classes, side, channels)
    model = runtime.place(model)
    labeler = Labeler(count, side, config.labels, runtime, distilled.soft_labels, [])
    workers = runtime.workers(config.data.workers)
    test = None if work.test is None else Judge(work.test, runtime, workers)
    checkpoint = Checkpoint(path, recipe, runtime.checkpoint_seconds)
    task = StudentTask(
        distilled.images,
        distilled.labels,
        labeler,
        distilled.normalization,
        config.evaluation,
        config.labels,
    )
    history = fit_student(model, task, f"train {work.model}", test, runtime, checkpoint)
    result = {"recipe": recipe, "model": work.model, "distilled": work.source, **vars(history)}
    if test is not None:
        result |= test.record()
    write_json(path.with_suffix(".json"), result)
    save(path, model.state_dict(), _header(work, recipe, history.top1))
    checkpoint.clear()
    return result


def _header(work: _Work, recipe: Recipe, top1: Sequence[float]) -> dict[str, Any]:
    """The header of the weights: what builds the network again, and what it was trained on."""
    distilled, stored, tested = work.distilled, work.distilled.soft_labels, None
    if work.test is not None:
        tested = {"dataset": work.test.name, "pictures": len(work.test.test), "top1": top1[-1]}
    hard = work.config.evaluation.loss == "hard" or stored is None
    return {
        "kind": "student",
        "recipe": recipe,
        "gvbsm": __version__,
        "backbone": work.model,
        "class_names": list(distilled.class_names),
        "image_size": int(distilled.images.shape[-1]),
        "channels": int(distilled.images.shape[1]),
        "mean": list(distilled.normalization.mean),
        "std": list(distilled.normalization.std),
        "trained_on": {
            "dataset": distilled.title,
            "method": str(distilled.header.get("method") or "unknown"),
            "images": len(distilled),
            "label_epochs": None if hard else work.config.labels.epochs,
        },
        "test": tested,
    }
