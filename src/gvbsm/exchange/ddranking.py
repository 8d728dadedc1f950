"""What DD-Ranking reads: its configuration, and teachers under its names for them.

Written for ddranking 0.2.0 (github.com/NUS-HPC-AI-Lab/DD-Ranking, `ddranking/metrics/soft_label.py`
and `utils/`): a folder of images with labels by teachers online (mode M) is the way that works.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gvbsm.config import (
    ConfigError,
    EvaluationConfig,
    LabelsConfig,
    OptimizerConfig,
    ViewConfig,
)
from gvbsm.config.build import build_config, to_dict
from gvbsm.config.keys import value_at
from gvbsm.config.yaml_files import format_yaml
from gvbsm.data.epochs import batch_size_for
from gvbsm.exchange.load import SetDescription
from gvbsm.files.artifacts import ArtifactError, atomic
from gvbsm.files.schema import checked_header
from gvbsm.files.tensors import load_tensors
from gvbsm.pipeline.tables import images_per_class
from gvbsm.store.distilled import DistilledDataset
from gvbsm.store.training_settings import recorded_settings
from gvbsm.store.workdir import Workspace

log = logging.getLogger("gvbsm")


@dataclass(frozen=True)
class Known:
    """A data set of DD-Ranking: its name there, its classes, and how it normalizes pictures."""

    name: str
    classes: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    student: str  # one whose accuracy on all real pictures it has or can measure
    measured: bool  # the accuracy comes with the package


# utils/data.py; both CIFAR sets have CIFAR-10's numbers there
_CIFAR = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)
_IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_KNOWN = {
    "cifar10": Known("CIFAR10", 10, *_CIFAR, "ConvNet-3", measured=False),
    "cifar100": Known("CIFAR100", 100, *_CIFAR, "ConvNet-3", measured=False),
    "tiny-imagenet": Known("TinyImageNet", 200, *_IMAGENET, "ResNet-18-BN", measured=True),
    "imagenet-1k": Known("ImageNet1K", 1000, *_IMAGENET, "ResNet-18-BN", measured=True),
}


# Settings that DD-Ranking has no names for, with the values that it assumes.
_UNNAMED: dict[str, tuple[Any, ...]] = {
    "labels.views.roll": (0,),
    "labels.views.tiles": (1,),
    "labels.views.per_sample": (True,),
    "labels.views.shuffle": (0, 1),
    "labels.views.mixup": (0,),  # it mixes in one way alone, here CutMix
    "labels.logit_normalization": (False,),
    "labels.logit_normalization_of": ({},),
    "labels.temperature": (1,),
    "labels.weights": ({},),
    "labels.batchnorm": ("running",),
    "evaluation.loss": ("mse_gt", "kl"),
    "evaluation.hard_target": ("base",),
    "evaluation.hard_phase.share": (0,),
    "evaluation.micro_batch": (None,),
    "evaluation.lr_of": ({},),
    "evaluation.ema": (0,),
    "evaluation.optimizer.name": ("sgd", "adam", "adamw"),  # muon becomes adamw
    "evaluation.optimizer.schedule": ("cosine", "constant"),
    "evaluation.optimizer.zeta": (1,),
    "evaluation.optimizer.warmup": (0,),
}


def inexpressible(labels: LabelsConfig, evaluation: EvaluationConfig) -> list[str]:
    """List settings that DD-Ranking's configuration cannot express, each as NAME=VALUE."""
    sections = {"labels": labels, "evaluation": evaluation}
    fits = {
        "evaluation.hard_target": evaluation.loss == "kl",  # which does not read it
        "evaluation.optimizer.zeta": _scheduler(evaluation.optimizer) == "cosine",
    }
    settings = []
    for name, lossless in _UNNAMED.items():
        value = value_at(sections, name)
        if value not in lossless and not fits.get(name, False):
            settings.append(f"{name}={value}")
    return settings


def known_set(facts: SetDescription) -> Known:
    """The data set as DD-Ranking knows it.

    Raises:
        ConfigError: If it knows none such.
    """
    name = str(facts["dataset"]).rpartition("/")[2].lower()
    entry = _KNOWN.get(name)
    if entry is None or entry.classes != len(facts["class_names"]):
        sets = ", ".join(f"{known.name} ({known.classes} classes)" for known in _KNOWN.values())
        raise ConfigError(
            f"DD-Ranking scores {sets}, not {facts['dataset']} with {len(facts['class_names'])} "
            "classes; export --to folder instead"
        )
    return entry


def check_scorable(facts: SetDescription) -> None:
    """Check that DD-Ranking can score a set: it knows the data, and classes are of one size.

    Raises:
        ConfigError: If it cannot.
    """
    known_set(facts)
    if facts.get("ipc_of"):
        raise ConfigError(
            "DD-Ranking scores sets with as many images of each class, this one has "
            f"{images_per_class(facts)}; export --to folder instead"
        )


def configuration(
    facts: SetDescription,
    teachers: Sequence[str],
    labels: LabelsConfig,
    evaluation: EvaluationConfig,
) -> dict[str, Any]:
    """What `ddranking.config.Config.from_file` reads; paths are relative to the exported folder."""
    known, optimizer = known_set(facts), evaluation.optimizer
    if evaluation.loss == "kl":
        loss: dict[str, Any] = {"temperature": evaluation.temperature, "scale_loss": False}
    else:
        loss = {"mse_weight": 1.0, "ce_weight": evaluation.gamma}
    size, views = facts["image_size"], labels.views
    return {
        "dataset": known.name,
        "real_data_path": "real",
        "ipc": facts["ipc"],
        "im_size": [size, size],
        "model_name": known.student,
        "stu_use_torchvision": True,  # heeded by ResNets alone
        "tea_use_torchvision": True,
        "teacher_dir": "teachers",
        "teacher_model_names": list(teachers),
        "soft_label_mode": "M",
        "soft_label_criterion": "kl" if evaluation.loss == "kl" else "mse_gt",
        "loss_fn_kwargs": loss,
        "data_aug_func": "cutmix" if views.cutmix else None,
        "aug_params": {"beta": views.cutmix} if views.cutmix else None,
        "use_aug_for_hard": False,
        "use_zca": False,
        "custom_train_trans": list(_transforms(views, size, known)),
        "custom_val_trans": None,
        "optimizer": "adamw" if optimizer.name == "muon" else optimizer.name,
        "lr_scheduler": _scheduler(optimizer),
        "step_size": labels.epochs + 1,  # of "step": never
        "weight_decay": optimizer.weight_decay,
        "momentum": optimizer.momentum,
        "num_epochs": labels.epochs,
        "num_eval": 5,
        "syn_batch_size": batch_size_for(
            facts["images"], evaluation.batch_size, labels.full_batch_up_to
        ),
        "real_batch_size": 256,
        "eval_full_data": not known.measured,
        "random_data_format": "image",
        "random_data_path": "random",
        "num_workers": 4,
        "save_path": "results/scores.csv",  # DD-Ranking creates its folder, so it needs one
        "device": "cuda",
        "dist": False,
    }


def _scheduler(optimizer: OptimizerConfig) -> str:
    """Its name of a schedule: its `cosine` is the one stretched by 2, which ends at half of lr."""
    if optimizer.schedule != "cosine":
        return "step"
    return "cosine" if optimizer.zeta == 2 else "cosineannealing"


def _transforms(views: ViewConfig, size: int, known: Known) -> Iterator[dict[str, Any]]:
    if views.crop == "resized":
        scale, ratio = list(views.scale), list(views.ratio)
        yield {
            "name": "RandomResizedCrop",
            "args": {"size": size, "scale": scale, "ratio": ratio, "antialias": True},
        }
    elif views.crop == "pad":
        # it takes one gray level or a tuple, which YAML has not: the mean color's level
        level = 0 if views.border == "black" else round(255 * sum(known.mean) / len(known.mean))
        yield {
            "name": "RandomCrop",
            "args": {"size": size, "padding": views.padding, "fill": level},
        }
    if views.flip:
        yield {"name": "RandomHorizontalFlip"}
    yield {"name": "ToTensor"}
    yield {"name": "Normalize", "args": {"mean": list(known.mean), "std": list(known.std)}}


def teacher_name(backbone: str, facts: SetDescription) -> str | None:
    """What DD-Ranking calls a network of the same layers, or None if it has none."""
    if match := re.fullmatch(r"convnet128(?:_d(\d+))?", backbone):
        return f"ConvNet-{match[1] or 3}"
    small = facts["image_size"] in (32, 64)  # there it takes torchvision's with a small stem
    name = backbone if small else backbone.removeprefix("torchvision/")
    if (small or name != backbone) and (match := re.fullmatch(r"resnet(18|34|50)", name)):
        return f"ResNet-{match[1]}-BN"
    return None


def teacher_state(
    backbone: str, tensors: Mapping[str, Tensor], facts: SetDescription
) -> dict[str, Tensor]:
    """A teacher's tensors under DD-Ranking's names, for pictures normalized as it does.

    The change of normalization, x -> scale * x + shift for each channel, is folded into the first
    convolution: exact where the shift is 0 (CIFAR-10), else but for the padded border.

    Args:
        backbone: Name of the architecture.
        tensors: Its state.
        facts: The description of the set, with the normalization of the teacher's pictures.
    """
    known = known_set(facts)
    theirs = [torch.tensor(values, dtype=torch.float64) for values in (known.mean, known.std)]
    ours = [torch.tensor(facts[key], dtype=torch.float64) for key in ("mean", "std")]
    scale, shift = theirs[1] / ours[1], (theirs[0] - ours[0]) / ours[1]  # (channels,) each
    state = {_renamed(name): tensor.clone() for name, tensor in tensors.items()}
    plain = backbone.startswith("convnet")
    first = "features.0.weight" if plain else "conv1.weight"
    weight = state[first].double()  # (out, channels, k, k)
    moved = torch.einsum("ockl,c->o", weight, shift)
    state[first] = (weight * scale[None, :, None, None]).to(state[first].dtype)
    bias, sign = ("features.0.bias", 1) if plain else ("bn1.running_mean", -1)
    state[bias] = (state[bias].double() + sign * moved).to(state[bias].dtype)
    return state


def _renamed(name: str) -> str:
    """`block2.norm.weight` -> `features.5.weight`: a block is convolution, norm, ReLU, pooling."""
    match = re.fullmatch(r"block(\d+)\.(conv|norm)\.(\w+)", name)
    if match is None:
        return name
    return f"features.{4 * (int(match[1]) - 1) + (match[2] == 'norm')}.{match[3]}"


def write_teachers(folder: Path, files: Mapping[str, Path], facts: SetDescription) -> list[str]:
    """Write the teachers that DD-Ranking has networks for, as it looks for them.

    Its format is torch's, of plain tensors; nothing here reads such files.

    Returns:
        Their names there.
    """
    written = []
    for backbone, file in files.items():
        name = teacher_name(backbone, facts)
        if name is None or name in written:
            continue
        tensors, header = load_tensors(file, "teacher")
        if header["class_names"] != facts["class_names"]:
            raise ArtifactError(f"{file} knows other classes than the set; leave it out")
        path = folder / known_set(facts).name / name / "ckpt_best.pt"
        with atomic(path) as draft:
            torch.save(teacher_state(backbone, tensors, facts), draft)
        written.append(name)
    return written


def _sections(distilled: DistilledDataset) -> tuple[LabelsConfig, EvaluationConfig]:
    """Settings of labels and evaluation recorded with the set; defaults where none are."""
    recorded = recorded_settings(distilled)
    known = {
        section: {key: value for key, value in recorded.get(section, {}).items() if key in fields}
        for section, fields in (
            ("labels", to_dict(LabelsConfig())),
            ("evaluation", to_dict(EvaluationConfig())),
        )
    }
    # Set aside: the defaults would reject these teachers and these options.
    labels = known["labels"]
    options = {key: labels.pop(key) for key in ("weights", "batchnorm") if key in labels}
    known["labels"] = {**labels, "backbones": None, "store": True}
    config = build_config(known)
    return replace(config.labels, **options), config.evaluation


def write_score(
    draft: Path, distilled: DistilledDataset, facts: SetDescription, workspace: Workspace
) -> None:
    """Write all that DD-Ranking reads beside the images: teachers, configuration and script."""
    labels, evaluation = _sections(distilled)
    files = {checked_header(path)["backbone"]: path for path in workspace.teachers()}
    teachers = write_teachers(draft / "teachers", files, facts)
    if not files:
        log.warning(
            "%s holds no teachers, by which DD-Ranking labels: export the run's work directory",
            workspace.directory,
        )
    elif not teachers:
        log.warning("DD-Ranking has none of the teachers' networks: its soft labels need another")
    if names := inexpressible(labels, evaluation):
        log.warning(
            "DD-Ranking has no such settings, and trains without them: %s", ", ".join(names)
        )
    config = configuration(facts, teachers, labels, evaluation)
    (draft / "config.yaml").write_text(format_yaml(config), encoding="utf-8")
    rate = evaluation.optimizer.lr
    (draft / "score.py").write_text(_SCORE.format(rate=rate), encoding="utf-8")


_SCORE = '''"""Scores this set (ddranking 0.2.0): real/ must hold the real pictures."""

from ddranking.config import Config
from ddranking.metrics import LabelRobustScoreSoft

config = Config.from_file("config.yaml")
print(LabelRobustScoreSoft(config).compute_metrics(image_path="images", syn_lr={rate}))
'''
