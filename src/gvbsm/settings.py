"""Reading and checking settings: presets, YAML files, mappings and the command line."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from gvbsm.beyond import beyond_faults
from gvbsm.config import (
    Config,
    ConfigError,
    LabelStorageConfig,
    Method,
    OptimizerConfig,
    ViewConfig,
)
from gvbsm.names import check_names, merge, nearest

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser, Namespace

PRESETS = Path(__file__).parent / "presets"


def settings_parser(program: str) -> ArgumentParser:
    """A parser of every setting, with its help, for the command line and for mappings."""
    from jsonargparse import ArgumentParser

    parser = ArgumentParser(prog=program, exit_on_error=False)
    parser.add_class_arguments(Config)
    return parser


@functools.cache
def _parser() -> ArgumentParser:
    """One parser for all mappings: to make one takes as long as to parse with it."""
    return settings_parser("gvbsm")


def from_parsed(parser: ArgumentParser, parsed: Namespace) -> Config:
    """Build the settings that a parser has read, and check them.

    Raises:
        ConfigError: One line a fault.
    """
    made = parser.instantiate(parsed)
    config = Config(**{item.name: made[item.name] for item in dataclasses.fields(Config)})
    if config.method == "sre2l":  # it knows one backbone; presets name ResNet-18 first
        for section in ("synthesis", "labels"):
            part = getattr(config, section)
            if part.backbones is None:
                part = dataclasses.replace(part, backbones=config.squeeze.backbones[:1])
                config = dataclasses.replace(config, **{section: part})
    return validate(config)


def build_config(settings: dict[str, Any]) -> Config:
    """Build checked settings from a nested mapping; what it leaves out keeps its default.

    Raises:
        ConfigError: One line a fault.
    """
    from jsonargparse import ArgumentError

    check_names(settings, where="the settings")
    parser = _parser()
    whole = merge(to_dict(Config()), settings)  # the parser takes twice as long over its defaults
    try:
        return from_parsed(parser, parser.parse_object(whole, defaults=False))
    except ArgumentError as error:
        raise ConfigError(" ".join(str(error).split())) from None


def as_config(settings: Config | str | Mapping[str, Any]) -> Config:
    """Checked settings from a preset's name, a YAML file's path, a mapping or settings.

    Raises:
        ConfigError: One line a fault.
    """
    if isinstance(settings, Config):
        return validate(settings)
    if isinstance(settings, str):
        return build_config(read_preset(settings))
    return build_config(dict(settings))


def for_method(config: Config, method: Method) -> Config:
    """The settings of a baseline in place of G-VBSM: its preset laid over `config`."""
    return build_config(merge(to_dict(config), read_preset(method)))


def selection_of(method: str) -> str | None:
    """How a method selects real pictures (random, herding, ...); None if it synthesizes images."""
    selection, _, labels = method.rpartition("-")
    return selection if labels in ("hard", "soft") else None


def to_dict(config: Any) -> dict[str, Any]:
    """Turn a dataclass of settings into plain lists, dicts and numbers, as JSON and YAML hold."""

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: plain(item) for key, item in value.items()}
        if isinstance(value, (list, tuple)):
            return [plain(item) for item in value]
        return value

    result: dict[str, Any] = plain(dataclasses.asdict(config))
    return result


def format_yaml(settings: dict[str, Any]) -> str:
    """Nested settings as YAML, which `read_preset` reads back the same."""
    text: str = yaml.safe_dump(
        settings, sort_keys=False, allow_unicode=True, default_flow_style=None, width=88
    )
    return text


def usual_workdir(preset: str) -> Path:
    """Where a preset's run is kept unless it is told: a folder in `runs` of the preset's name."""
    return Path("runs") / Path(preset).stem


def preset_names() -> list[str]:
    """Names of the presets that come with the package."""
    return sorted(path.stem for path in PRESETS.glob("*.yaml"))


def read_preset(name: str) -> dict[str, Any]:
    """Settings of a preset, of a YAML file, or of several joined by `+` (the later wins).

    Raises:
        ConfigError: If there is no such preset or file, or the file is not a YAML mapping.
    """
    merged: dict[str, Any] = {}
    for part in name.split("+"):
        merged = merge(merged, _read_one(part))
    return merged


def _read_one(name: str) -> dict[str, Any]:
    is_file = name.endswith((".yaml", ".yml"))
    path = Path(name) if is_file else PRESETS / f"{name}.yaml"
    if not path.is_file():
        if is_file:
            raise ConfigError(f"there is no settings file {name}")
        raise ConfigError(f"there is no preset {name!r}; {nearest(name, preset_names())}")
    content = read_yaml(path)
    check_names(content, where=name)
    return content


def read_yaml(path: Path) -> dict[str, Any]:
    """What a YAML file of a mapping holds.

    Raises:
        ConfigError: If it is not one.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict):
        raise ConfigError(f"{path} must hold a mapping of settings, found {type(content).__name__}")
    return content


def _optimizer_faults(name: str, optimizer: OptimizerConfig) -> Iterator[str | None]:
    for position, beta in enumerate(optimizer.betas):
        yield _chance(f"{name}.betas[{position}]", beta, closed=False)
    yield _chance(f"{name}.momentum", optimizer.momentum, closed=False)
    yield _not_negative(f"{name}.weight_decay", optimizer.weight_decay)
    yield _chance(f"{name}.warmup", optimizer.warmup, closed=False)
    if not 1 <= optimizer.zeta < math.inf:
        yield f"{name}.zeta must be at least 1 (and finite), got {optimizer.zeta}"
    if optimizer.schedule == "constant" and optimizer.zeta != 1:
        yield f"{name}.zeta stretches the cosine of {name}.schedule=cosine or ssrs, not a constant"


def _positive(name: str, value: float) -> str | None:
    if math.isfinite(value):
        return None if value > 0 else f"{name} must be positive, got {value}"
    return f"{name} must be finite, got {value}"


def _not_negative(name: str, value: float) -> str | None:
    if math.isfinite(value):
        return None if value >= 0 else f"{name} must not be negative, got {value}"
    return f"{name} must be finite, got {value}"


def _chance(name: str, value: float, *, closed: bool) -> str | None:
    fits = 0 <= value <= 1 if closed else 0 <= value < 1
    return None if fits else f"{name} must be in [0, 1{']' if closed else ')'}, got {value}"


def _backbone_faults(config: Config) -> Iterator[str]:
    teachers = config.squeeze.backbones
    if not teachers:
        yield "squeeze.backbones is empty; give at least one backbone"
    for name in teachers:
        if teachers.count(name) > 1:
            yield f"squeeze.backbones names {name!r} twice"
    if not config.evaluation.students:
        yield "evaluation.students is empty; give at least one backbone"
    if config.continual.students == ():
        yield "continual.students is empty; give at least one backbone, or null"
    yield from _subset("synthesis.backbones", config.synthesis.backbones, teachers)
    yield from _subset("labels.backbones", config.labels.backbones, teachers)
    if config.coreset.backbone is not None:
        yield from _subset("coreset.backbone", (config.coreset.backbone,), teachers)


def _subset(name: str, chosen: tuple[str, ...] | None, teachers: tuple[str, ...]) -> Iterator[str]:
    if chosen is not None and not chosen:
        yield f"{name} is empty; give at least one backbone, or null for all"
    for item in chosen or ():
        if item not in teachers:
            yield f"{name} names {item!r}, which is not in squeeze.backbones {list(teachers)}"


def _view_faults(name: str, views: ViewConfig) -> Iterator[str | None]:
    low, high = views.scale
    if not 0 < low <= high <= 1:
        yield f"{name}.scale must satisfy 0 < low <= high <= 1, got {list(views.scale)}"
    if not 0 < views.ratio[0] <= views.ratio[1]:
        yield f"{name}.ratio must satisfy 0 < low <= high, got {list(views.ratio)}"
    for key in ("padding", "roll", "cutmix", "mixup", "shuffle"):
        yield _not_negative(f"{name}.{key}", getattr(views, key))


_POSITIVE = (
    "ipc squeeze.epochs squeeze.batch_size squeeze.tests statistics.n_p statistics.batch_size "
    "statistics.passes synthesis.iterations synthesis.batch_size synthesis.tau "
    "synthesis.flatness_tau labels.epochs "
    "labels.batch_size labels.temperature evaluation.seeds evaluation.batch_size evaluation.tests "
    "evaluation.temperature baselines.draws squeeze.optimizer.lr synthesis.optimizer.lr "
    "evaluation.optimizer.lr continual.steps continual.orders"
)

_NOT_NEGATIVE = (
    "checkpoint_seconds labels.min_steps labels.full_batch_up_to evaluation.gamma "
    "synthesis.weight_cross_entropy synthesis.weight_batchnorm synthesis.weight_conv "
    "synthesis.weight_densification synthesis.weight_flatness synthesis.first_layer_multiplier"
)


def _faults(config: Config) -> Iterator[str | None]:
    for faults in (
        _number_faults,
        _backbone_faults,
        _section_faults,
        _label_faults,
        _weight_faults,
        _mode_faults,
        beyond_faults,
    ):
        yield from faults(config)


def _number_faults(config: Config) -> Iterator[str | None]:
    synthesis = config.synthesis
    for names, fault in ((_POSITIVE, _positive), (_NOT_NEGATIVE, _not_negative)):
        for name in names.split():
            value: Any = functools.reduce(getattr, name.split("."), config)
            yield fault(name, value)
    for name in ("alpha", "residual", "flatness_decay"):
        yield _chance(f"synthesis.{name}", getattr(synthesis, name), closed=False)
    yield _chance("evaluation.ema", config.evaluation.ema, closed=False)
    for name in ("beta_dr", "weight_class"):
        yield _chance(f"synthesis.{name}", getattr(synthesis, name), closed=True)
    if not 0 < config.data.val_fraction < 1:
        yield f"data.val_fraction must be in (0, 1), got {config.data.val_fraction}"
    for student, rate in config.evaluation.lr_of.items():
        yield _positive(f"evaluation.lr_of.{student}", rate)
    for name, count in (
        ("threads", config.threads),
        ("synthesis.groups", synthesis.groups),
        ("squeeze.micro_batch", config.squeeze.micro_batch),
        ("evaluation.micro_batch", config.evaluation.micro_batch),
        ("labels.storage.top_k", config.labels.storage.top_k),
        ("continual.epochs", config.continual.epochs),
        ("coreset.epochs", config.coreset.epochs),
    ):
        if count is not None:
            yield _positive(name, count)
    yield _not_negative("continual.min_steps", config.continual.min_steps or 0)
    yield _not_negative("data.workers", config.data.workers or 0)


def _section_faults(config: Config) -> Iterator[str | None]:
    for section in ("squeeze", "synthesis", "evaluation"):
        yield from _optimizer_faults(f"{section}.optimizer", getattr(config, section).optimizer)
    if config.synthesis.optimizer.name == "muon":
        yield "synthesis.optimizer.name must not be muon, which moves matrices: pixels are none"
    for section in ("squeeze", "synthesis", "labels"):
        yield from _view_faults(f"{section}.views", getattr(config, section).views)
    for section in ("squeeze", "synthesis"):
        for key in ("cutmix", "mixup", "shuffle"):
            if getattr(getattr(config, section).views, key):
                yield f"{section}.views.{key} must be 0: only labels.views mixes images"


def _label_faults(config: Config) -> Iterator[str | None]:
    labels, batch = config.labels, config.evaluation.batch_size
    by_batch = labels.batchnorm == "batch"
    if (by_batch or not labels.store) and labels.batch_size != batch:
        how = (
            "labels.store=false labels each training batch as it comes"
            if not labels.store
            else "labels.batchnorm=batch labels each view by its training batch"
        )
        yield (
            f"{how}, so labels.batch_size ({labels.batch_size}) must equal evaluation.batch_size "
            f"({batch})"
        )
    if not labels.storage.pruning >= 1:
        yield f"labels.storage.pruning must be at least 1, got {labels.storage.pruning}"
    if by_batch and labels.storage.pruning > 1:
        yield (
            "labels.storage.pruning draws the training batches anew, but labels.batchnorm=batch "
            "labels each view by its batch; leave one out"
        )
    if not labels.store and labels.storage != LabelStorageConfig():
        yield "labels.storage says how labels are stored, but labels.store is false; leave one out"


def _weight_faults(config: Config) -> Iterator[str | None]:
    weights, teachers = config.labels.weights, config.labels.backbones or config.squeeze.backbones
    for name, weight in weights.items():
        if name not in teachers:
            yield f"labels.weights names {name!r}, which is none of the labels' {list(teachers)}"
        yield _not_negative(f"labels.weights.{name}", weight)
    if teachers and all(weights.get(name, 1.0) == 0 for name in teachers):
        yield "labels.weights gives all teachers of the labels 0; let at least one count"


def _mode_faults(config: Config) -> Iterator[str]:
    if config.squeeze.weights_dir is not None and not config.squeeze.pretrained:
        yield "squeeze.weights_dir is read with squeeze.pretrained=true alone: set both, or neither"
    methods = (config.method, *config.baselines.methods)
    epochs = config.coreset.epochs or config.squeeze.epochs
    if "forgetting" in map(selection_of, methods) and epochs < 2:
        yield f"coreset.epochs must be at least 2, to see what the next forgets; got {epochs}"
    if config.method != "gvbsm" and config.baselines.methods:
        yield f"method={config.method} is itself a baseline: set baselines.methods to []"


def validate(config: Config) -> Config:
    """Check what one field's type cannot; all faults are told at once.

    Raises:
        ConfigError: One line a fault.
    """
    faults = list(dict.fromkeys(fault for fault in _faults(config) if fault))
    if faults:
        raise ConfigError("\n".join(faults))
    return config
