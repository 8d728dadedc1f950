"""Write the script that trains on an exported set without gvbsm (`train_plain.py`)."""

from __future__ import annotations

import logging
import math
import re
from typing import Any, NamedTuple

from gvbsm.config import EvaluationConfig, ViewConfig
from gvbsm.data.epochs import batch_size_for
from gvbsm.data.loading import batch_count
from gvbsm.exchange.card import filled
from gvbsm.method.beyond.cosine import HARD_SHARE, SMOOTHING
from gvbsm.method.beyond.hard_phase import hard_epochs
from gvbsm.store.distilled import DistilledDataset
from gvbsm.store.plan_codec import CELL, SHARE
from gvbsm.store.soft_labels import SoftLabels
from gvbsm.store.training_settings import TrainingSet, recorded_settings, settle

log = logging.getLogger("gvbsm")

SCRIPT = "train_plain.py"
SMALL = 64  # largest side in pixels for which a ConvNet is chosen


class Network(NamedTuple):
    """A network that the script can build, as one of the run's students.

    Attributes:
        student: The student's name; empty if the run has none such.
        convnet: Width, depth and side of the last feature map of a ConvNet; None for another.
        torchvision: Name of the network in torchvision; None is the script's own choice.
        small: Whether its stem is that for small images.
    """

    student: str
    convnet: dict[str, int] | None = None
    torchvision: str | None = None
    small: bool = False


def plain_script(distilled: DistilledDataset, form: str, images: str = "", labels: str = "") -> str:
    """Return the text of the script.

    It holds numbers and known words of the settings alone, and no text of the set's author.

    Args:
        distilled: The set.
        form: folder, hub or safetensors.
        images: The table of the images (hub), or the file (safetensors), beside the script.
        labels: Folder of the soft labels beside the script, with a slash at its end.

    Raises:
        ConfigError: If the recorded settings do not fit the set.
    """
    channels, size = distilled.images.shape[1:3]
    network = choose_network(distilled)
    config = settle({}, distilled, network.student)
    evaluation, views = config.evaluation, config.labels.views
    batch = batch_size_for(len(distilled), evaluation.batch_size, config.labels.full_batch_up_to)
    stored = distilled.soft_labels if evaluation.loss != "hard" else None
    has_hard_phase = bool(hard_epochs(config.labels.epochs, evaluation))
    if has_hard_phase:
        log.warning(
            "%s has no hard phase (evaluation.hard_phase): all of its epochs have soft labels; "
            "gvbsm train has it",
            SCRIPT,
        )
    if stored is None and (unread := _unread_views(views)):
        log.warning(
            "%s draws its views without %s, which gvbsm train has", SCRIPT, " and ".join(unread)
        )
    cut = (1 - config.data.test_crop) / 2
    facts: dict[str, Any] = {
        "form": form,
        "table": images,
        "labels": labels,
        "size": size,
        "channels": channels,
        "classes": len(distilled.class_names),
        "epochs": config.labels.epochs,
        "batch": batch,
        "steps": batch_count(len(distilled), batch),
        "bleed": f"bleed={cut:.6g}" if cut else "",
        "seed": config.seed,
        "soft": stored is not None,
        "has_hard_phase": has_hard_phase,
        **network._asdict(),
        **_training(evaluation, len(distilled.class_names)),
        **(_hard_views(evaluation, views, size) if stored is None else {}),
        **(_stored_views(stored, views) if stored is not None else {}),
    }
    return filled(SCRIPT, **facts)


def choose_network(distilled: TrainingSet) -> Network:
    """Choose the network: a ConvNet of the run's students, else one of torchvision."""
    students = recorded_settings(distilled).get("evaluation", {}).get("students") or ()
    channels, size = distilled.images.shape[1:3]
    networks = [_network(str(name), channels, size) for name in students]
    known = sorted(
        (network for network in networks if network.student), key=lambda item: not item.convnet
    )
    depth = min(3, int(size).bit_length() - 1)
    if known:
        return known[0]
    if size > SMALL:
        return Network("")
    return Network("", convnet={"width": 128, "depth": depth, "side": size // 2**depth})


def _network(name: str, channels: int, size: int) -> Network:
    if match := re.fullmatch(r"convnet(\d{1,5})(?:_d(\d{1,2}))?", name):  # of any author's set
        width, depth = int(match[1]), int(match[2] or 3)
        if width and depth and (side := size // 2**depth):
            return Network(name, {"width": width, "depth": depth, "side": side})
    if re.fullmatch(r"resnet(18|34|50|101)", name):
        return Network(name, torchvision=name, small=True)
    if (match := re.fullmatch(r"torchvision/(\w+)", name)) and channels == 3:
        return Network(name, torchvision=match[1])
    return Network("")


def _training(evaluation: EvaluationConfig, classes: int) -> dict[str, Any]:
    """What optimizer and loss need beside the settings."""
    optimizer = evaluation.optimizer
    own_rate = optimizer.warmup > 0 or optimizer.zeta != 1 or optimizer.schedule == "ssrs"
    others = SMOOTHING / max(1, classes - 1)  # probability of each other class
    return {
        "evaluation": evaluation,
        "optimizer": optimizer,
        "grouped": optimizer.weight_decay > 0 or optimizer.name == "muon",
        "own_rate": own_rate,  # none of torch's schedules
        "scheduled": own_rate or optimizer.schedule == "cosine",
        "mixed_targets": evaluation.loss in ("mse_gt", "cosine")
        and evaluation.hard_target == "mixed",
        "hard_share": HARD_SHARE,
        "others": others / (1 - SMOOTHING - others),  # before the label is scaled to length 1
    }


def _stored_views(stored: SoftLabels, views: ViewConfig) -> dict[str, Any]:
    """What the stored views and logits need, so that the script does nothing else."""
    fields = {field.name: field for field in stored.fields}
    cells = sum(name.startswith(CELL) for name in fields)
    return {
        "split": stored.shards_per_epoch,
        "shard_epochs": stored.shard_epochs,
        "bits": stored.storage.bits,
        "top_k": stored.storage.top_k,
        "kept": len(stored.kept),
        "pruned": len(stored.kept) < stored.epochs,
        "roll": bool(fields["roll down"].bits),
        "border": views.border,
        "resized": bool(fields["crop height"].bits),
        "cells": math.isqrt(cells),
        "mixup": SHARE in fields,
    }


def _unread_views(views: ViewConfig) -> list[str]:
    """Names of the settings of views that are on and that torchvision's transforms lack."""
    plain = {"tiles": (1,), "roll": (0,), "shuffle": (0, 1), "per_sample": (True,)}
    return [f"labels.views.{key}" for key, off in plain.items() if getattr(views, key) not in off]


def _hard_views(evaluation: EvaluationConfig, views: ViewConfig, size: int) -> dict[str, Any]:
    """Views that torchvision draws anew, for students that train with hard labels."""
    transforms = []
    if views.crop == "pad":
        fill = ", fill=BLACK" if views.border == "black" else ""
        transforms.append(f"v2.RandomCrop({size}, padding={views.padding}{fill})")
    elif views.crop == "resized":
        crop = f"scale={views.scale}, ratio={views.ratio}, antialias=False"
        transforms.append(f"v2.RandomResizedCrop({size}, {crop})")
    transforms.append(f"v2.RandomHorizontalFlip({0.5 if views.flip else 0.0})")
    mixes = [("CutMix", views.cutmix), ("MixUp", views.mixup)]
    drawn = [f"v2.{name}(num_classes=CLASSES, alpha={alpha})" for name, alpha in mixes if alpha]
    batch = "MIX(views, labels[index])" if drawn else "(views, labels[index])"
    if drawn and evaluation.hard_target == "base":
        batch = "(MIX(views, labels[index])[0], labels[index])"
    return {
        "transforms": ", ".join(transforms),
        "black": views.crop == "pad" and views.border == "black",
        "mixes": ", ".join(drawn),
        "mixed_batch": batch,
        "pruned": False,
    }
