"""Check the settings: limits of numbers, and settings that do not go together."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, get_args

from gvbsm.config import (
    LABEL_KINDS,
    WHOLE_SET,
    Config,
    CorruptionsConfig,
    LabelStorageConfig,
    Method,
    OptimizerConfig,
    ViewConfig,
)
from gvbsm.config.fields import Interval, dotted_names_of, settings_in
from gvbsm.config.keys import value_at
from gvbsm.config.settled import labeling_teachers

# A network or method that is named twice would be trained twice, or be counted twice.
NAMED_ONCE = (
    "squeeze.backbones",
    "synthesis.backbones",
    "labels.backbones",
    "evaluation.students",
    "continual.students",
    "baselines.methods",
)


def faults(config: Config) -> Iterator[str]:
    """Yield one message for each fault of the settings; those of single networks are left out."""
    for messages in (
        _number_faults,
        _section_faults,
        _backbone_faults,
        _label_faults,
        _weight_faults,
        _mode_faults,
        _corruption_faults,
        _start_faults,
        _loop_faults,
        _matching_faults,
    ):
        yield from filter(None, messages(config))


def _number_faults(config: Config) -> Iterator[str | None]:
    """Yield one message for each number out of its limits; None is no fault."""
    for name, item, value in settings_in(config):
        limit = item.metadata.get("limit")
        if limit is None or value is None or isinstance(value, str):  # such as `auto`
            continue
        if isinstance(value, tuple):
            for position, each in enumerate(value):
                yield _LIMITS[limit](f"{name}[{position}]", each)
        else:
            yield _LIMITS[limit](name, value)
    yield from _table_faults(config)
    if config.data.split_seed < 0:
        yield f"data.split_seed must not be negative, got {config.data.split_seed}"


def _table_faults(config: Config) -> Iterator[str | None]:
    for name, count in config.ipc_of.items():
        yield _positive(f"ipc_of.{name}", count)
    for ipc, chance in config.synthesis.beta_dr_of.items():
        yield _positive("a number of images in synthesis.beta_dr_of", ipc)
        yield _within("[0, 1]", f"synthesis.beta_dr_of.{ipc}", chance)
    for student, rate in config.evaluation.lr_of.items():
        yield _positive(f"evaluation.lr_of.{student}", rate)
    for teacher, weight in config.labels.weights.items():
        yield _not_negative(f"labels.weights.{teacher}", weight)


def _section_faults(config: Config) -> Iterator[str | None]:
    for section in ("squeeze", "synthesis", "evaluation"):
        yield from _optimizer_faults(f"{section}.optimizer", getattr(config, section).optimizer)
    if config.synthesis.optimizer.name == "muon":
        yield "synthesis.optimizer.name must not be muon, which updates matrices: pixels are not"
    for section in ("squeeze", "synthesis", "labels"):
        yield from _view_faults(f"{section}.views", getattr(config, section).views)
    for section in ("squeeze", "synthesis"):
        for key in ("cutmix", "mixup", "shuffle"):
            if getattr(getattr(config, section).views, key):
                yield f"{section}.views.{key} must be 0: only labels.views mixes images"
        if getattr(config, section).views.tiles != 1:
            yield f"{section}.views.tiles must be 1: only images of labels.views have tiles"


def _optimizer_faults(name: str, optimizer: OptimizerConfig) -> Iterator[str | None]:
    if not 1 <= optimizer.zeta < math.inf:
        yield f"{name}.zeta must be at least 1 (and finite), got {optimizer.zeta}"
    if optimizer.schedule == "constant" and optimizer.zeta != 1:
        yield f"{name}.zeta stretches the cosine of {name}.schedule=cosine or ssrs, not a constant"


def _view_faults(name: str, views: ViewConfig) -> Iterator[str | None]:
    low, high = views.scale
    if not 0 < low <= high <= 1:
        yield f"{name}.scale must satisfy 0 < low <= high <= 1, got {list(views.scale)}"
    if not 0 < views.ratio[0] <= views.ratio[1]:
        yield f"{name}.ratio must satisfy 0 < low <= high, got {list(views.ratio)}"


def _positive(name: str, value: float) -> str | None:
    if math.isfinite(value):
        return None if value > 0 else f"{name} must be positive, got {value}"
    return f"{name} must be finite, got {value}"


def _not_negative(name: str, value: float) -> str | None:
    if math.isfinite(value):
        return None if value >= 0 else f"{name} must not be negative, got {value}"
    return f"{name} must be finite, got {value}"


def _seed(name: str, value: int) -> str | None:
    """Check that a seed has at most 64 bits, as headers and generators need."""
    fits = -(2**63) <= value < 2**63
    return None if fits else f"{name} must have at most 64 bits, got {value}"


def _within(interval: Interval, name: str, value: float) -> str | None:
    low = value >= 0 if interval[0] == "[" else value > 0
    high = value <= 1 if interval[-1] == "]" else value < 1
    return None if low and high else f"{name} must be in {interval}, got {value}"


_LIMITS: dict[str, Callable[[str, Any], str | None]] = {
    "positive": _positive,
    "not negative": _not_negative,
    "64 bits": _seed,
    **{interval: partial(_within, interval) for interval in get_args(Interval)},
}


def _start_faults(config: Config) -> Iterator[str]:
    """Yield one message for each conflict between settings of the images' start."""
    synthesis = config.synthesis
    low, high = synthesis.crop_scale
    if not 0 < low <= high <= 1:
        yield f"synthesis.crop_scale must satisfy 0 < low <= high <= 1, got {[low, high]}"
    if synthesis.init != "crops" and synthesis.crop_tiles != 1:
        yield (
            f"synthesis.crop_tiles={synthesis.crop_tiles} tiles crops, but synthesis.init is "
            f"{synthesis.init}; set synthesis.init=crops, or leave crop_tiles out"
        )
    if synthesis.residual and synthesis.init == "noise":
        yield (
            "synthesis.residual mixes the real start into the images, but synthesis.init is noise; "
            "set synthesis.init=real, or leave residual out"
        )
    if synthesis.weight_absorption and synthesis.init == "noise":
        yield (
            "synthesis.weight_absorption compares tiles with the real pictures of the start, but "
            "synthesis.init is noise; set synthesis.init=crops, or leave weight_absorption out"
        )
    if synthesis.rounds > 1 and synthesis.init == "noise":
        yield (
            "synthesis.rounds lets images begin late from their real start, but synthesis.init is "
            "noise; set synthesis.init=real, or leave rounds out"
        )


def _loop_faults(config: Config) -> Iterator[str]:
    """Yield one message for each conflict between settings of the loop, beyond the paper."""
    synthesis = config.synthesis
    if not 1 <= synthesis.stages <= max(synthesis.iterations, 1):
        yield (
            f"synthesis.stages must be from 1 to synthesis.iterations ({synthesis.iterations}), "
            f"got {synthesis.stages}"
        )
    sizes = synthesis.stage_sizes
    if sizes and (len(sizes) != synthesis.stages or min(sizes) < 1):
        yield (
            "synthesis.stage_sizes must name a side of 1 pixel or more for each of "
            f"synthesis.stages ({synthesis.stages}), got {list(sizes)}"
        )
    if synthesis.extra is not None and ":" not in synthesis.extra:
        yield (
            "synthesis.extra must name a function as file.py:function or module:function, got "
            f"{synthesis.extra!r}"
        )
    if synthesis.residual and synthesis.stages == 1:
        yield "synthesis.residual acts between stages, but synthesis.stages is 1; take more"
    if synthesis.residual_source == "nearest" and not synthesis.residual:
        yield (
            "synthesis.residual_source=nearest chooses what synthesis.residual mixes in, but "
            "residual is 0; set it, or leave residual_source out"
        )
    most = max(config.ipc, *config.ipc_of.values(), 1)
    if not 1 <= synthesis.rounds <= max(min(most, synthesis.iterations), 1):
        yield (
            "synthesis.rounds must be from 1 to the most images of a class, by ipc "
            f"({most}), and to synthesis.iterations ({synthesis.iterations}), "
            f"got {synthesis.rounds}"
        )
    if synthesis.difficulty_groups and synthesis.loop != "original":
        yield (
            "synthesis.difficulty_groups matches the k-th images of all classes together, but "
            f"synthesis.loop is {synthesis.loop}; set synthesis.loop=original, or leave "
            "difficulty_groups out"
        )


def _matching_faults(config: Config) -> Iterator[str]:
    """Yield one message for each setting of the matching where no layers are matched."""
    synthesis = config.synthesis
    if synthesis.weight_batchnorm or synthesis.weight_conv:
        return
    for key in ("weight_class", "difficulty_groups"):
        if getattr(synthesis, key):
            yield (
                f"synthesis.{key} says what layers are matched with, but both "
                "synthesis.weight_batchnorm and synthesis.weight_conv are 0; set one of them, or "
                f"leave {key} out"
            )


def _backbone_faults(config: Config) -> Iterator[str]:
    teachers = config.squeeze.backbones
    if not teachers:
        yield "squeeze.backbones is empty; give at least one backbone"
    for key in NAMED_ONCE:
        names = value_at(config, key) or ()
        for name in dict.fromkeys(names):
            if names.count(name) > 1:
                yield f"{key} names {name!r} twice; leave one out"
    if not config.evaluation.students:
        yield "evaluation.students is empty; give at least one backbone"
    if config.continual.students == ():
        yield "continual.students is empty; give at least one backbone, or null"
    for key in dotted_names_of(config, "chooses_teachers"):
        yield from _subset(key, value_at(config, key), teachers)
    if config.coreset.backbone is not None:
        yield from _subset("coreset.backbone", (config.coreset.backbone,), teachers)


def _subset(name: str, chosen: tuple[str, ...] | None, teachers: tuple[str, ...]) -> Iterator[str]:
    if chosen is not None and not chosen:
        yield f"{name} is empty; give at least one backbone, or null for all"
    for item in chosen or ():
        if item not in teachers:
            yield (
                f"{name} names {item!r}, which is not in squeeze.backbones {list(teachers)}; name "
                f"one of these in {name}"
            )


def faults_of_batch_labels(config: Config) -> Iterator[str]:
    """Yield one message for each setting that excludes labels of a view by its training batch."""
    labels, batch = config.labels, config.evaluation.batch_size
    if labels.batch_size != batch:
        yield (
            "labels.batchnorm=batch labels each view by its training batch, so labels.batch_size "
            f"({labels.batch_size}) must equal evaluation.batch_size ({batch})"
        )
    if labels.storage.pruning > 1:
        yield (
            "labels.storage.pruning draws the training batches anew, but labels.batchnorm=batch "
            "labels each view by its batch; leave one out"
        )


def _label_faults(config: Config) -> Iterator[str | None]:
    labels, batch = config.labels, config.evaluation.batch_size
    if labels.batchnorm == "batch":
        yield from faults_of_batch_labels(config)
    elif not labels.store and labels.batch_size != batch:
        yield (
            "labels.store=false labels each training batch as it comes, so labels.batch_size "
            f"({labels.batch_size}) must equal evaluation.batch_size ({batch})"
        )
    if labels.views.tiles > 1 and labels.views.crop != "resized":
        yield (
            f"labels.views.tiles={labels.views.tiles} crops inside of tiles, but labels.views.crop "
            f"is {labels.views.crop}; set it to resized, or leave tiles out"
        )
    if not labels.storage.pruning >= 1:
        yield f"labels.storage.pruning must be at least 1, got {labels.storage.pruning}"
    if not labels.store and labels.storage != LabelStorageConfig():
        yield "labels.storage says how labels are stored, but labels.store is false; leave one out"


def _weight_faults(config: Config) -> Iterator[str | None]:
    weights, teachers = config.labels.weights, labeling_teachers(config)
    for name in weights:
        if name not in teachers:
            yield f"labels.weights names {name!r}, which is none of the labels' {list(teachers)}"
    if teachers and all(weights.get(name, 1.0) == 0 for name in teachers):
        yield "labels.weights is 0 for all teachers of the labels; give one a positive weight"


def _corruption_faults(config: Config) -> Iterator[str]:
    name, section = "evaluation.corruptions", config.evaluation.corruptions
    if not section.severities or len({*section.severities}) < len(section.severities):
        yield f"{name}.severities must name each once, got {list(section.severities)}"
    if not {*section.severities} <= {1, 2, 3, 4, 5}:
        yield f"{name}.severities must be from 1 to 5, got {list(section.severities)}"
    if not section.kinds:
        yield from _unread_corruption_settings(section)
    for baseline, settings in config.baselines.overrides.items():
        if "corruptions" in settings.get("evaluation", {}):
            yield (
                f"baselines.overrides.{baseline} must not change evaluation.corruptions: all rows "
                "are tested on the same pictures"
            )


def _unread_corruption_settings(section: CorruptionsConfig) -> Iterator[str]:
    """Yield one message for each setting that only a kind of corruption would read."""
    for key, default in vars(CorruptionsConfig()).items():
        if (value := getattr(section, key)) != default:
            found = list(value) if isinstance(value, tuple) else value
            yield (
                f"evaluation.corruptions.{key} is {found}, but evaluation.corruptions.kinds is "
                f"empty, so that nothing reads it: name kinds, such as all, or leave {key} out"
            )


def _mode_faults(config: Config) -> Iterator[str]:
    squeeze = config.squeeze
    for name in config.baselines.sets:
        known = (*get_args(Method), *WHOLE_SET, *LABEL_KINDS, "real")
        if not re.fullmatch(r"\w+", name) or name in known:
            yield f"baselines.sets names a set {name!r}: take letters, digits and _, and no method"
    pretrained = [settings.get("pretrained") for settings in squeeze.settings_of.values()]
    for key in ("weights_dir", "weights_classes"):
        if getattr(squeeze, key) is not None and not (squeeze.pretrained or any(pretrained)):
            yield f"squeeze.{key} is only read with squeeze.pretrained=true: set both, or neither"
    if config.method != "gvbsm" and config.baselines.methods:
        yield f"method={config.method} is itself a baseline: set baselines.methods to []"
