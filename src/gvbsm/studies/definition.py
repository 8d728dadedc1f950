"""Read a study: which settings vary over which values. All other settings are a preset's.

A study is a YAML file; those of the paper's tables and figures are in `presets/`. Its entries are

    title   question of the study, in a few words
    source  where the paper asks it
    axes    names of the axes: one for each setting of `grid`, or one for `points`
    grid    setting -> values; the points are all combinations, named `AXIS=VALUE,...`
    points  instead of grid: name of the point -> its settings (null for none)
    additive  true: each point keeps the settings of the points before it and adds its own; the
            table then shows the gain over the point before
    base    settings of all points
    for     data set -> further settings of all points on it
    unfit   data set -> why the study cannot run on it
    paper   the paper's accuracies, one entry for each data set and student: `data`, `student`,
            `ipc` (left out where the points set it) and `figures` (point -> percent)

Settings are dotted names, as on the command line. Two more forms are allowed. `preset` names
presets, which the settings beside it override. `synthesis.backbones` and `labels.backbones` may
select from `squeeze.backbones`: `{first: 2}`, `{only: 2}` for the second alone, or
`{without: convnet}` for all whose names do not begin with `convnet`. Later settings override
earlier ones, in this order: preset, `base`, `for`, command line, point. A preset is read for the
images per class of each point (`at_ipc`). Nothing here imports torch.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import cache, partial, reduce
from pathlib import Path
from typing import Any

from gvbsm.config import Config, ConfigError
from gvbsm.config.build import build_config
from gvbsm.config.fields import dotted_names_of
from gvbsm.config.keys import check_names, flat_keys, merge, nearest, nest
from gvbsm.config.paths import user_path
from gvbsm.config.preset_files import overlay, read_preset
from gvbsm.config.settled import check_beta_dr
from gvbsm.config.yaml_files import read_yaml
from gvbsm.studies.backbone_choice import BackboneChoice, read_choice
from gvbsm.studies.published import PublishedFigure, read_published

STUDIES = Path(__file__).parent / "presets"
KEYS = ["title", "source", "axes", "grid", "points", "additive", "base", "for", "unfit", "paper"]
CHOSEN = dotted_names_of(Config(), "chooses_teachers")

Settings = dict[str, Any]
Reader = Callable[[object], Settings]  # images per class -> a preset's settings


@dataclass(frozen=True)
class Variant:
    """A point of a study without the preset's settings.

    Attributes:
        name: Name of the point.
        axes: Axis -> value.
        layers: Its own settings, nested; in an additive study after those of the points before it.
    """

    name: str
    axes: dict[str, Any]
    layers: tuple[Settings, ...]

    @property
    def settings(self) -> Settings:
        """All its settings without those of presets."""
        return reduce(merge, self.layers, {})


@dataclass(frozen=True)
class Study:
    """A study as its file defines it.

    Attributes:
        name: Name of the file without its suffix.
        title: The question.
        source: Where the paper asks it.
        axes: Names of the axes.
        variants: The points.
        base: Settings of all points, nested.
        per_data: Data set -> further settings of all points.
        unfit: Data set -> why the study cannot run on it.
        paper: Accuracies that the paper gives.
        additive: Whether each point keeps the settings of the points before it.
    """

    name: str
    title: str
    source: str
    axes: tuple[str, ...]
    variants: tuple[Variant, ...]
    base: Settings = field(default_factory=dict)
    per_data: dict[str, Settings] = field(default_factory=dict)
    unfit: dict[str, str] = field(default_factory=dict)
    paper: tuple[PublishedFigure, ...] = ()
    additive: bool = False


@dataclass(frozen=True)
class Point:
    """A point with all its settings."""

    name: str
    axes: dict[str, Any]
    config: Config


@dataclass(frozen=True)
class SweepPlan:
    """Studies with all settings of all points, checked.

    Attributes:
        studies: Each study with its points.
        repeat: Runs of each point; each run's seed is one higher.
    """

    studies: tuple[tuple[Study, tuple[Point, ...]], ...]
    repeat: int


def read_sweep_plan(
    names: str, settings: Settings | str, options: Settings, repeat: int = 1
) -> SweepPlan:
    """Read studies and complete the settings of their points.

    Args:
        names: A study, a YAML file, several joined by `+`, or `all`.
        settings: Nested settings, or a preset's name, which is read for the images per class of
            each point.
        options: Nested settings that override those of the study for all points.
        repeat: Runs of each point.

    Raises:
        ConfigError: One line for each fault of any point.
    """
    if repeat < 1:
        raise ConfigError(f"repeat must be at least 1, got {repeat}")
    base = read_preset(settings) if isinstance(settings, str) else settings
    studies = read_studies(names, data_name(merge(base, options)))
    points = map(tuple, complete_points(studies, settings, options))
    return SweepPlan(tuple(zip(studies, points, strict=True)), repeat)


def study_names() -> list[str]:
    """Names of the studies that come with the package."""
    return sorted(path.stem for path in STUDIES.glob("*.yaml"))


def read_studies(names: str, data: str) -> list[Study]:
    """Read a study, a YAML file, several joined by `+`, or `all` that can run on a data set.

    Raises:
        ConfigError: If one does not exist, is faulty or cannot run on the data set.
    """
    if names == "all":
        return [study for study in map(read_study, study_names()) if data not in study.unfit]
    studies = [read_study(name) for name in dict.fromkeys(names.split("+"))]
    if len({study.name for study in studies}) < len(studies):
        raise ConfigError(
            f"two studies of {names} have the same name: their results would be one file"
        )
    for study in studies:
        if data in study.unfit:
            raise ConfigError(f"{study.name} does not fit {data}: {study.unfit[data]}")
    return studies


def read_study(name: str) -> Study:
    """Read and check one study.

    Args:
        name: A study of the package, or a path that ends in .yaml.

    Raises:
        ConfigError: One line for each fault.
    """
    is_file = name.endswith((".yaml", ".yml"))
    path = user_path(name) if is_file else STUDIES / f"{name}.yaml"
    if not path.is_file():
        hint = "" if is_file else f"; {nearest(name, [*study_names(), 'all'])}"
        raise ConfigError(f"there is no study {name!r}{hint}")
    content = read_yaml(path)
    faults = list(_shape_faults(content))
    if not faults:
        try:
            study = _build(path.stem, content)
        except ConfigError as error:
            faults = str(error).splitlines()
    if faults:
        raise ConfigError("\n".join(f"study {name}: {fault}" for fault in faults))
    return study


def complete_points(
    studies: Iterable[Study], settings: Settings | str, options: Settings
) -> list[list[Point]]:
    """All points of each study, with all their settings.

    Args:
        studies: The studies.
        settings: As for `read_sweep_plan`.
        options: Settings of the command line, nested.

    Raises:
        ConfigError: One line for each fault of any point.
    """
    points: list[list[Point]] = []
    faults: dict[str, list[str]] = {}
    settings_at = _reader(settings)
    for study in studies:
        for key in _without_effect(study, options):
            faults.setdefault(
                f"--{key} is the setting that the study varies; leave it out", []
            ).append(study.name)
        points.append([])
        for variant in study.variants:
            try:
                config = _complete(study, variant, settings_at, options)
            except ConfigError as error:
                for fault in str(error).splitlines():
                    faults.setdefault(fault, []).append(f"{study.name}, {variant.name}")
            else:
                points[-1].append(Point(variant.name, variant.axes, config))
    if faults:
        raise ConfigError(
            "\n".join(
                f"{first}{f' and {len(others)} more' if others else ''}: {fault}"
                for fault, (first, *others) in faults.items()
            )
        )
    return points


def _without_effect(study: Study, options: Settings) -> list[str]:
    """Options that every point overrides."""
    found = [{*flat_keys(variant.settings)} for variant in study.variants]
    return [key for key in flat_keys(options) if all(key in keys for keys in found)]


def data_name(settings: Settings) -> str:
    """The data set that nested settings name."""
    return str(settings.get("data", {}).get("name", Config().data.name))


def _reader(settings: Settings | str) -> Reader:
    """A preset's settings by images per class; nested settings are the same at each number."""
    return (
        cache(partial(read_preset, settings)) if isinstance(settings, str) else lambda _: settings
    )


def _laid(layers: Iterable[Settings], settings_at: Reader, ipc: object) -> Settings:
    """Lay settings over those of the preset, all for a number of images per class."""
    settings = settings_at(ipc)
    for layer in layers:
        if "preset" in layer:
            settings = overlay(settings, layer["preset"], ipc)
        settings = merge(settings, {key: value for key, value in layer.items() if key != "preset"})
    return settings


def _complete(study: Study, variant: Variant, settings_at: Reader, options: Settings) -> Config:
    data = data_name(merge(settings_at(None), options))
    layers = (study.base, study.per_data.get(data, {}), options, *variant.layers)
    settings = _laid(layers, settings_at, _laid(layers, settings_at, None).get("ipc"))
    teachers = settings.get("squeeze", {}).get("backbones", Config().squeeze.backbones)
    for key in CHOSEN:
        section, _, name = key.partition(".")
        choice = settings.get(section, {}).get(name)
        if isinstance(choice, BackboneChoice):
            try:
                chosen = choice.of(list(teachers))
            except ConfigError as error:
                raise ConfigError(f"{key} {error}") from None
            settings = merge(settings, {section: {name: chosen}})
    config = build_config(settings)
    if any("beta_dr" in layer.get("synthesis", {}) for layer in (options, variant.settings)):
        check_beta_dr(config)
    return config


# Reading.


def _shape_faults(content: Settings) -> Iterator[str]:
    """Faults of the file's entries and their types."""
    for key in content:
        if key not in KEYS:
            yield f"there is no entry {key!r}; {nearest(str(key), KEYS)}"
    for key in ("title", "source"):
        if not isinstance(content.get(key), str):
            yield f"{key} must be a text, found {content.get(key)!r}"
    axes = content.get("axes")
    if not isinstance(axes, list) or not axes or not all(isinstance(axis, str) for axis in axes):
        yield f"axes must be a list of names, found {axes!r}"
    for key in ("grid", "points", "base", "for", "unfit"):
        if not isinstance(content.get(key, {}), dict):
            yield f"{key} must be a mapping, found {content[key]!r}"
    if bool(content.get("grid")) == bool(content.get("points")):
        yield "give either grid or points"
    yield from _additive_faults(content)


def _additive_faults(content: Settings) -> Iterator[str]:
    additive = content.get("additive", False)
    if not isinstance(additive, bool):
        yield f"additive must be true or false, found {additive!r}"
    elif additive and content.get("grid"):
        yield "additive is for points, which follow each other; a grid has no order"


def _build(name: str, content: Settings) -> Study:
    axes = tuple(content["axes"])
    grid, points = content.get("grid"), content.get("points")
    variants = tuple(_from_grid(axes, grid) if grid else _from_points(axes, points or {}))
    if content.get("additive", False):
        variants = tuple(_accumulated(variants))
    names = [variant.name for variant in variants]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise ConfigError(
            f"two points are named {twice!r}; give each a name, or values, of its own"
        )
    return Study(
        name=name,
        title=content["title"],
        source=content["source"],
        axes=axes,
        variants=variants,
        base=_nested(content.get("base", {}), "base"),
        per_data={
            data: _nested(settings, f"for {data}")
            for data, settings in content.get("for", {}).items()
        },
        unfit={data: str(why) for data, why in content.get("unfit", {}).items()},
        paper=read_published(
            content.get("paper", []),
            {variant.name: variant.settings.get("ipc") for variant in variants},
        ),
        additive=content.get("additive", False),
    )


def _from_grid(axes: tuple[str, ...], grid: Settings) -> Iterator[Variant]:
    if len(axes) != len(grid):
        raise ConfigError(f"grid varies {len(grid)} settings, but axes names {len(axes)}")
    for setting, values in grid.items():
        if not isinstance(values, list) or not values:
            raise ConfigError(f"grid: {setting} must have a list of values, found {values!r}")
    for values in itertools.product(*grid.values()):
        point_axes = dict(zip(axes, values, strict=True))
        name = ",".join(f"{axis}={axis_text(value)}" for axis, value in point_axes.items())
        settings = _nested(dict(zip(grid, values, strict=True)), f"grid, {name}")
        yield Variant(name, point_axes, (settings,))


def _from_points(axes: tuple[str, ...], points: Settings) -> Iterator[Variant]:
    if len(axes) != 1:
        raise ConfigError(f"points vary along one axis, but axes names {len(axes)}")
    for key, settings in points.items():
        yield Variant(str(key), {axes[0]: key}, (_nested(settings or {}, f"point {key}"),))


def _accumulated(variants: Iterable[Variant]) -> Iterator[Variant]:
    """Lay each point's preset, then its settings, over those of the points before it.

    Raises:
        ConfigError: If a point adds nothing; the first point may be empty.
    """
    previous: Settings | None = None
    layers: tuple[Settings, ...] = ()
    for variant in variants:
        layers = (*layers, *variant.layers)
        if previous == (settings := _laid(layers, lambda _: {}, None)):
            raise ConfigError(f"point {variant.name} adds nothing to the point before")
        previous = settings
        yield replace(variant, layers=layers)


def axis_text(value: Any) -> str:
    """Return a value on an axis as YAML writes it."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def _nested(settings: Any, where: str) -> Settings:
    """Nest dotted settings, check their names and read backbone choices."""
    if not isinstance(settings, dict):
        raise ConfigError(f"{where} must be a mapping of settings, found {settings!r}")
    nested: Settings = {}
    for key, value in settings.items():
        if key == "preset":
            read_preset(str(value))  # raises now if there is no such preset
            continue
        setting = read_choice(key, value, where) if key in CHOSEN else value
        nested = merge(nested, nest(str(key), setting))
    check_names(nested, where)
    return {**nested, **({"preset": str(settings["preset"])} if "preset" in settings else {})}
