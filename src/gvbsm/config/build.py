"""Reading and checking settings: presets, YAML files, mappings and the command line."""

from __future__ import annotations

import dataclasses
import functools
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast, get_args

import yaml

from gvbsm.config import (
    Config,
    ConfigError,
    LabelStorageConfig,
    Method,
    Rival,
    SqueezeConfig,
)
from gvbsm.config.checks import later_papers_faults, limit_faults
from gvbsm.config.fields import names_of
from gvbsm.config.keys import check_names, merge, nearest
from gvbsm.config.paths import user_path
from gvbsm.config.settled import settle_beta_dr

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser, Namespace

MOST_YAML_BYTES = 1024**2
MOST_YAML_VALUES = 100_000
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
    return build_config(_plain(settings))


def _plain(value: Any) -> Any:
    """Values of Python as YAML would give them: paths, tuples, and what NumPy and torch hold."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    return value.tolist() if hasattr(value, "tolist") else value


def for_method(config: Config, method: Method) -> Config:
    """The settings of a baseline in place of G-VBSM: its preset laid over `config`."""
    return settle_beta_dr(build_config(overlay(to_dict(config), method)))


def overlay(settings: dict[str, Any], name: str) -> dict[str, Any]:
    """Lay a preset over nested settings, joined ones one after the other.

    Where the preset names a method, the settings that `baselines.overrides` has for this method
    are laid over both, and the table has done its work.

    Raises:
        ConfigError: As `read_preset`.
    """
    for part in name.split("+"):
        content = _read_one(part)
        settings = merge(settings, content)
        table = settings.get("baselines", {}).get("overrides") or {}
        if "method" in content and content["method"] in table:
            settings = merge(settings, table[content["method"]])
            settings = merge(settings, {"baselines": {"overrides": {}}})
    return settings


def squeeze_of(config: SqueezeConfig, backbone: str) -> SqueezeConfig:
    """The settings of one teacher's training: `settings_of` laid over the others, and gone.

    Raises:
        ConfigError: One line a fault of its own settings.
    """
    own = config.settings_of.get(backbone, {})
    common = dataclasses.replace(config, settings_of={})
    if not own.get("pretrained", config.pretrained):
        common = dataclasses.replace(common, weights_dir=None)  # it is for those that are
    if not own:
        return common
    where = f"squeeze.settings_of.{backbone}"
    check_names({"squeeze": own}, where)
    if foreign := sorted({*own} - {*names_of(config, "of_one_teacher")}):
        raise ConfigError(f"{where}: {', '.join(foreign)} cannot differ between teachers")
    try:
        return _parsed_squeeze(json.dumps(merge(to_dict(common), own)))
    except ConfigError as error:
        lines = (f"{where}: {line}" for line in str(error).splitlines())
        raise ConfigError("\n".join(lines)) from None


@functools.cache
def _parsed_squeeze(text: str) -> SqueezeConfig:
    """Recipes ask for it again and again, and parsing takes long."""
    return build_config({"squeeze": json.loads(text)}).squeeze


def selection_of(method: str) -> str | None:
    """How a method selects real pictures (random, herding, ...); None if it synthesizes images."""
    selection, _, labels = method.rpartition("-")
    return selection if labels in ("hard", "soft") else None


def to_dict(config: Any) -> dict[str, Any]:
    """Turn a dataclass of settings into plain lists, dicts and numbers, as JSON and YAML hold."""

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {str(key): plain(item) for key, item in value.items()}  # as JSON has them
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
    return overlay({}, name)


def _read_one(name: str) -> dict[str, Any]:
    is_file = name.endswith((".yaml", ".yml"))
    path = user_path(name) if is_file else PRESETS / f"{name}.yaml"
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
    if path.stat().st_size > MOST_YAML_BYTES:
        raise ConfigError(f"{path} has more than {MOST_YAML_BYTES} bytes; is it a settings file?")
    try:
        text = path.read_text(encoding="utf-8")
        if (root := yaml.compose(text, yaml.SafeLoader)) is not None:
            _count_values(root, {})
        content = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict):
        raise ConfigError(f"{path} must hold a mapping of settings, found {type(content).__name__}")
    return content


def _count_values(node: yaml.Node, known: dict[int, int]) -> int:
    """How many values a node stands for, each alias as often as it is used.

    Args:
        node: The node.
        known: The counts of the nodes that have been counted, by identity.

    Raises:
        ValueError: If they are more than `MOST_YAML_VALUES`, or it holds itself.
    """
    if id(node) not in known:
        known[id(node)] = MOST_YAML_VALUES  # until it is counted: then it holds itself
        inner: list[Any] = node.value if isinstance(node, yaml.CollectionNode) else []
        parts = (part for item in inner for part in (item if isinstance(item, tuple) else (item,)))
        known[id(node)] = 1 + sum(_count_values(part, known) for part in parts)
    if known[id(node)] > MOST_YAML_VALUES:
        raise ValueError(f"its aliases make more than {MOST_YAML_VALUES} values")
    return known[id(node)]


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


def _faults(config: Config) -> Iterator[str | None]:
    for faults in (
        limit_faults,
        _backbone_faults,
        _label_faults,
        _weight_faults,
        _mode_faults,
        later_papers_faults,
    ):
        yield from faults(config)


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
    for name in weights:
        if name not in teachers:
            yield f"labels.weights names {name!r}, which is none of the labels' {list(teachers)}"
    if teachers and all(weights.get(name, 1.0) == 0 for name in teachers):
        yield "labels.weights gives all teachers of the labels 0; let at least one count"


def _mode_faults(config: Config) -> Iterator[str]:
    squeeze = config.squeeze
    own = (settings.get("pretrained") for settings in squeeze.settings_of.values())
    if squeeze.weights_dir is not None and not (squeeze.pretrained or any(own)):
        yield "squeeze.weights_dir is read with squeeze.pretrained=true alone: set both, or neither"
    if config.method != "gvbsm" and config.baselines.methods:
        yield f"method={config.method} is itself a baseline: set baselines.methods to []"


def _teacher_faults(config: Config) -> Iterator[str]:
    """Faults of single teachers' settings, laid over others that have none."""
    squeeze, coreset = config.squeeze, config.coreset
    for name in squeeze.settings_of:
        try:
            squeeze_of(squeeze, name)
        except ConfigError as error:
            yield from str(error).splitlines()
    if "forgetting" in map(selection_of, (config.method, *config.baselines.methods)):
        backbone = coreset.backbone or squeeze.backbones[0]
        epochs = coreset.epochs or squeeze_of(squeeze, backbone).epochs
        if epochs < 2:
            yield f"coreset.epochs must be at least 2, to see what the next forgets; got {epochs}"


def _baseline_faults(config: Config) -> Iterator[str]:
    """Faults of single baselines' settings, laid over others that have none."""
    table = config.baselines.overrides
    known = get_args(Rival)
    for name, own in table.items():
        where = f"baselines.overrides.{name}"
        if name not in known:
            yield f"{where}: there is no such baseline; {nearest(name, known)}"
        elif foreign := sorted({*own} - {"synthesis", "labels", "evaluation"}):
            yield f"{where}: {', '.join(foreign)} cannot differ between baselines"
        else:
            try:
                check_names(own, where)
                for_method(config, cast(Rival, name))
            except ConfigError as error:
                yield from (f"{where}: {line}" for line in str(error).splitlines())


def validate(config: Config) -> Config:
    """Check what one field's type cannot; all faults are told at once.

    Raises:
        ConfigError: One line a fault.
    """
    faults = list(dict.fromkeys(fault for fault in _faults(config) if fault))
    faults = faults or [*_teacher_faults(config), *_baseline_faults(config)]
    if faults:
        raise ConfigError("\n".join(faults))
    return config
