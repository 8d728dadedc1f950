"""Reading and checking settings: presets, YAML files, mappings and the command line."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, cast, get_args

from gvbsm.config import (
    BY_FORGETTING,
    LABEL_KINDS,
    Config,
    ConfigError,
    Method,
    Rival,
    SqueezeConfig,
)
from gvbsm.config.checks import faults
from gvbsm.config.fields import names_of, replaced, without_effect
from gvbsm.config.given import plain
from gvbsm.config.keys import check_names, fault_in_words, merge, nearest, nested, value_at
from gvbsm.config.preset_files import read_preset, with_overrides
from gvbsm.config.settled import (
    coreset_teacher,
    matched_teachers,
    settle_beta_dr,
    settle_teachers,
)
from gvbsm.config.yaml_files import NOWHERE, yaml_lines

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser, Namespace


def settings_parser(program: str) -> ArgumentParser:
    """Build a parser of all settings, with their help texts."""
    from jsonargparse import ArgumentParser

    parser = ArgumentParser(prog=program, exit_on_error=False, allow_abbrev=False)
    parser.add_class_arguments(Config)
    return parser


@functools.cache
def _parser() -> ArgumentParser:
    """Return one parser for all mappings, since building it takes as long as parsing."""
    return settings_parser("gvbsm")


def from_parsed(parser: ArgumentParser, parsed: Namespace) -> Config:
    """Build the settings that a parser has read, and check them.

    Raises:
        ConfigError: One line a fault.
    """
    values = parser.instantiate(parsed)
    config = Config(**{item.name: values[item.name] for item in dataclasses.fields(Config)})
    return validate(_with_backbones(_alone(_with_typed_tables(config))))


def build_config(settings: dict[str, Any]) -> Config:
    """Build checked settings from a nested mapping; what it leaves out keeps its default.

    Raises:
        ConfigError: One line a fault.
    """
    config = replaced(Config(), _typed(settings, where="the settings"))
    return validate(_with_backbones(_alone(_with_typed_tables(config))))


def _typed(settings: dict[str, Any], where: str) -> dict[str, Any]:
    """Check nested settings, not necessarily all, and give each value the type of its field.

    Raises:
        ConfigError: One line a fault.
    """
    from jsonargparse import ArgumentError

    check_names(settings, where)
    try:
        return dict(_parser().parse_object(plain(settings), defaults=False).as_dict())
    except ArgumentError as error:
        raise ConfigError(fault_in_words(str(error))) from None


def _with_typed_tables(config: Config) -> Config:
    """Check and type the tables of single classes, single teachers and single baselines.

    Raises:
        ConfigError: One line a fault.
    """
    config = dataclasses.replace(config, ipc_of=_by_class_name(config.ipc_of))
    squeeze, baselines = config.squeeze, config.baselines
    if not squeeze.settings_of and not baselines.overrides:
        return config
    settings_of = _typed_table("squeeze.settings_of", squeeze.settings_of, _typed_teacher)
    overrides = _typed_table("baselines.overrides", baselines.overrides, _typed_baseline)
    return dataclasses.replace(
        config,
        squeeze=dataclasses.replace(squeeze, settings_of=settings_of),
        baselines=dataclasses.replace(baselines, overrides=overrides),
    )


def _by_class_name(table: Mapping[Any, int]) -> dict[str, int]:
    """Return a table of classes with text as keys: YAML reads a name such as 0 as a number.

    Raises:
        ConfigError: If a key is neither, or two are the same name.
    """
    for name in table:
        if isinstance(name, bool) or not isinstance(name, (str, int)):
            raise ConfigError(
                f"ipc_of names a class {name!r}, which is not text; write its name in quotes"
            )
    named: dict[str, int] = {}
    for name, count in table.items():
        if str(name) in named:
            raise ConfigError(f"ipc_of names the class {str(name)!r} twice; leave one out")
        named[str(name)] = count
    return named


def _typed_table(
    key: str,
    table: dict[str, dict[str, Any]],
    typed: Callable[[str, dict[str, Any], str], dict[str, Any]],
) -> dict[str, dict[str, Any]]:
    result, faults = {}, []
    for name, settings in table.items():
        where = f"{key}.{name}"
        try:
            result[name] = typed(name, settings, where)
        except ConfigError as error:
            faults += _located(where, str(error).splitlines())
    if faults:
        raise ConfigError("\n".join(faults))
    return result


def _typed_teacher(name: str, settings: dict[str, Any], where: str) -> dict[str, Any]:
    typed: dict[str, Any] = _typed({"squeeze": settings}, where).get("squeeze", {})
    if foreign := sorted({*settings} - {*names_of(SqueezeConfig, "of_one_teacher")}):
        raise ConfigError(f"{', '.join(foreign)} cannot differ between teachers")
    return typed


def _typed_baseline(name: str, settings: dict[str, Any], where: str) -> dict[str, Any]:
    if name not in (known := get_args(Rival)):
        raise ConfigError(f"there is no such baseline; {nearest(name, known)}")
    if foreign := sorted({*settings} - {"synthesis", "labels", "evaluation"}):
        raise ConfigError(f"{', '.join(foreign)} cannot differ between baselines")
    if images_of(name) == "gvbsm" and "synthesis" in settings:
        raise ConfigError("synthesis cannot differ: it is trained on the images of gvbsm")
    return _typed(settings, where)


def _located(where: str, faults: Iterable[str]) -> list[str]:
    """Begin each message with where the fault is."""
    return [fault if fault.startswith(f"{where}: ") else f"{where}: {fault}" for fault in faults]


def _alone(config: Config) -> Config:
    """Leave out what is for other baselines where one is run alone: it has none beside it."""
    if config.method == "gvbsm" or not config.baselines.overrides:
        return config
    return replaced(config, {"baselines": {"overrides": {}}})


def _with_backbones(config: Config) -> Config:
    """Let SRe2L use the first teacher alone, where the settings do not name its teachers."""
    if config.method != "sre2l":
        return config
    for section in ("synthesis", "labels"):
        settings = getattr(config, section)
        if settings.backbones is None:
            settings = dataclasses.replace(settings, backbones=config.squeeze.backbones[:1])
            config = dataclasses.replace(config, **{section: settings})
    return config


def as_config(
    settings: Config | str | Mapping[str, Any], changes: Mapping[str, Any] | None = None
) -> Config:
    """Return checked settings from a preset's name, a YAML file's path, a mapping or a `Config`.

    Args:
        settings: The settings. The entry `preset` of a mapping names one that it is laid over.
        changes: Settings that are laid over these.

    Both mappings are nested, with dotted names if one likes: `{"synthesis.iterations": 300}`.

    Raises:
        ConfigError: One line a fault.
    """
    over = nested(plain(changes or {}))
    if isinstance(settings, Config):
        over = merge(to_dict(settings), over)
        settings = replaced(settings, _typed(over, where="the settings"))
        return validate(_with_typed_tables(settings))
    if isinstance(settings, str):
        return build_config(_over_preset(settings, over))
    if not isinstance(settings, Mapping):
        raise ConfigError(
            f"settings are a preset's name, a path, a mapping or a gvbsm.Config, found a "
            f"{type(settings).__name__}; pictures are passed as gvbsm.run(data=...)"
        )
    given = nested(plain(settings))
    return build_config(_over_preset(given.pop("preset", None), merge(given, over)))


def _over_preset(preset: Any, settings: dict[str, Any]) -> dict[str, Any]:
    """Lay settings over a preset, read for their number of images per class; None is no preset."""
    if preset is None:
        return settings
    if not isinstance(preset, str):
        raise ConfigError(f"preset must be the name of a preset, found {preset!r}")
    return merge(read_preset(preset, settings.get("ipc")), settings)


def for_method(config: Config, method: Method) -> Config:
    """Return the settings of a baseline in place of G-VBSM: its preset laid over `config`.

    Raises:
        ConfigError: One line a fault.
    """
    for settings in with_overrides(_typed_preset(method), config.baselines.overrides):
        config = replaced(config, settings)
    # Those of other baselines are laid over the run's settings, not over these.
    config = replaced(config, {"baselines": {"overrides": {}}})
    config = settle_beta_dr(validate(_with_backbones(config)))
    labels = settle_teachers(config.labels, config.squeeze.backbones)
    return dataclasses.replace(config, labels=labels)


@functools.cache
def _typed_preset(name: str) -> dict[str, Any]:
    return _typed(read_preset(name), where=name)


def squeeze_of(config: SqueezeConfig, backbone: str) -> SqueezeConfig:
    """Return the settings of one teacher's training: `settings_of` laid over the common ones.

    `settings_of` is empty, and the settings of pretrained weights are None for a teacher that is
    trained.
    """
    squeeze = replaced(config, config.settings_of.get(backbone, {}))
    if not squeeze.pretrained:
        squeeze = dataclasses.replace(squeeze, weights_dir=None, weights_classes=None)
    return dataclasses.replace(squeeze, settings_of={})


def forgetting_training(config: Config) -> SqueezeConfig:
    """Return the settings of the training that counts how often pictures are forgotten.

    They are those of the teacher that selects real pictures, with `coreset.epochs` if it is set.
    """
    squeeze = squeeze_of(config.squeeze, coreset_teacher(config))
    return dataclasses.replace(squeeze, epochs=config.coreset.epochs or squeeze.epochs)


def images_of(method: str) -> str:
    """Return the images that a method trains on: random of random-hard, gvbsm of gvbsm-hard."""
    source, _, labels = method.rpartition("-")
    return source if labels in LABEL_KINDS else method


def selection_of(method: str) -> str | None:
    """Return how a method selects real pictures (random, herding, ...); None if it synthesizes."""
    images = images_of(method)
    return None if images in (method, "gvbsm") else images


def to_dict(config: Any) -> dict[str, Any]:
    """Convert a dataclass of settings to dicts, lists and numbers, as in JSON and YAML."""

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {str(key): plain(item) for key, item in value.items()}  # as JSON has them
        if isinstance(value, (list, tuple)):
            return [plain(item) for item in value]
        return value

    result: dict[str, Any] = plain(dataclasses.asdict(config))
    return result


def settings_with_effect(config: Config) -> dict[str, Any]:
    """Return the settings on which the results depend, nested, as `to_dict` writes them."""
    settings = to_dict(config)
    for key in without_effect(config):
        section, _, last = key.rpartition(".")
        del (value_at(settings, section) if section else settings)[last]
    return settings


def settings_lines(
    config: Config, only_changed: bool = False, places: Mapping[str, str] = NOWHERE
) -> Iterator[str]:
    """Yield the lines of a settings file, one setting a line; changed ones name their default.

    Args:
        config: The settings.
        only_changed: Leave out the settings that have their defaults.
        places: Where settings are from, by their dotted names, as far as it is known.
    """
    return yaml_lines(to_dict(config), to_dict(Config()), only_changed, places)


def _teacher_faults(config: Config) -> Iterator[str]:
    """Yield the faults of single teachers' settings, where the common ones have none."""
    squeeze = config.squeeze
    for name in squeeze.settings_of:
        teacher = dataclasses.replace(Config(), squeeze=squeeze_of(squeeze, name))
        yield from _located(f"squeeze.settings_of.{name}", faults(teacher))
    selections = {*map(selection_of, (config.method, *config.baselines.methods))}
    if selections.isdisjoint(BY_FORGETTING):
        return
    if (epochs := forgetting_training(config).epochs) < 2:
        yield f"coreset.epochs must be at least 2, to count what an epoch forgets; got {epochs}"


def _baseline_faults(config: Config) -> Iterator[str]:
    """Yield the faults of single baselines' settings, where the common ones have none."""
    for name in config.baselines.overrides:
        where = f"baselines.overrides.{name}"
        try:
            rival = for_method(config, cast(Rival, name))
        except ConfigError as error:
            yield from _located(where, str(error).splitlines())
        else:
            yield from _located(where, _unrecorded(rival, config))


def _unrecorded(rival: Config, config: Config) -> Iterator[str]:
    """Yield a fault for each setting of a baseline whose statistics a run does not record."""
    for key in ("weight_class", "difficulty_groups"):
        if getattr(rival.synthesis, key) and not getattr(config.synthesis, key):
            yield (
                f"synthesis.{key} needs statistics that are recorded only if the run's own images "
                f"have it: set --synthesis.{key} as well, or leave it out"
            )
    synthesis, recorded = rival.synthesis, matched_teachers(config)
    others = [name for name in matched_teachers(rival) if name not in recorded]
    by_statistics = synthesis.weight_conv or synthesis.weight_class or synthesis.difficulty_groups
    if others and by_statistics and selection_of(rival.method) is None:
        yield (
            f"synthesis.backbones has {', '.join(others)}, but statistics are recorded of the "
            f"teachers of the run's own images alone, {list(recorded)}: name it in "
            "--synthesis.backbones as well, or set the baseline's synthesis.weight_conv to 0"
        )


def validate(config: Config) -> Config:
    """Return the settings after checking what the types of single fields cannot express.

    Raises:
        ConfigError: One line a fault, all faults at once.
    """
    messages = list(dict.fromkeys(faults(config)))
    messages = messages or [*_teacher_faults(config), *_baseline_faults(config)]
    if messages:
        raise ConfigError("\n".join(messages))
    return config
