"""Studies: which settings vary, over which values; everything else is a preset's.

A study is a YAML file; those of the paper's tables and figures are in `presets/studies`. It holds

    title   what is asked, in a few words
    source  where the paper asks it
    axes    names of what varies: one for each setting of `grid`, or one for `points`
    grid    setting -> values; the points are all combinations, named `AXIS=VALUE,...`
    points  in its place: name of the point -> what it sets (null for nothing)
    additive  true: each point keeps what the points before it set, and adds to it; what the page
            tells is then the gain over the point before
    base    settings of all points
    for     data set -> its further settings of all points
    unfit   data set -> why the study makes no sense on it
    paper   the paper's accuracies, one entry for each data set and student: `data`, `student`,
            `ipc` (left out where the points set it) and `figures` (point -> percent)

Settings are dotted names, as on the command line. Among them `preset` names presets to be laid
below, and `synthesis.backbones` and `labels.backbones` may be chosen from `squeeze.backbones`:
`{first: 2}`, or `{without: convnet}` for those whose names do not begin so. The later wins: preset,
`base`, `for`, the command line, the point itself.

This file imports no torch, so that the command line answers at once.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gvbsm.config import Config, ConfigError
from gvbsm.config.build import build_config, overlay, read_preset, read_yaml
from gvbsm.config.fields import dotted_names_of
from gvbsm.config.keys import check_names, flat_keys, merge, nearest, nest
from gvbsm.config.paths import user_path
from gvbsm.config.settled import check_beta_dr
from gvbsm.studies.backbone_choice import BackboneChoice, read_choice
from gvbsm.studies.published import PublishedFigure, read_published

STUDIES = Path(__file__).parent / "presets"
KEYS = (
    "title",
    "source",
    "axes",
    "grid",
    "points",
    "additive",
    "base",
    "for",
    "unfit",
    "paper",
)
CHOSEN = dotted_names_of(Config(), "chooses_teachers")

Settings = dict[str, Any]


@dataclass(frozen=True)
class Variant:
    """A point of a study, before a preset completes it: what it sets, nested, and where it lies."""

    name: str
    axes: dict[str, Any]
    settings: Settings


@dataclass(frozen=True)
class Study:
    """What varies.

    Attributes:
        name: Of the file.
        title: What is asked.
        source: Where the paper asks it.
        axes: Names of what varies.
        variants: The points.
        base: Settings of all points, nested.
        per_data: Further ones by data set.
        unfit: Data sets that it makes no sense on, and why.
        paper: Accuracies that the paper gives.
        additive: Whether each point holds what the points before it set.
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
    """Studies with all their points, checked.

    Attributes:
        studies: Each study with its points.
        repeat: Runs of each point, with seeds counted up.
    """

    studies: tuple[tuple[Study, tuple[Point, ...]], ...]
    repeat: int


def read_sweep_plan(
    names: str, settings: Settings, options: Settings, repeat: int = 1
) -> SweepPlan:
    """Find the studies and complete their points.

    Args:
        names: Of studies: one, a YAML file, several joined by `+`, or `all`.
        settings: A preset's settings, nested.
        options: Nested settings that overrule what a study sets at all points.
        repeat: Runs of each point.

    Raises:
        ConfigError: One line a fault of any point.
    """
    if repeat < 1:
        raise ConfigError(f"repeat must be at least 1, got {repeat}")
    studies = read_studies(names, data_name(merge(settings, options)))
    points = map(tuple, complete_points(studies, settings, options))
    return SweepPlan(tuple(zip(studies, points, strict=True)), repeat)


def study_names() -> list[str]:
    """Names of the studies that come with the package."""
    return sorted(path.stem for path in STUDIES.glob("*.yaml"))


def read_studies(names: str, data: str) -> list[Study]:
    """The studies of a name, a YAML file, several joined by `+`, or `all` that fit a data set.

    Raises:
        ConfigError: If one is not there, is faulty or does not fit.
    """
    if names == "all":
        return [study for study in map(read_study, study_names()) if data not in study.unfit]
    studies = [read_study(name) for name in dict.fromkeys(names.split("+"))]
    if len({study.name for study in studies}) < len(studies):
        raise ConfigError(f"two studies of {names} have one name, and so would their results")
    for study in studies:
        if data in study.unfit:
            raise ConfigError(f"{study.name} does not fit {data}: {study.unfit[data]}")
    return studies


def read_study(name: str) -> Study:
    """Read and check one study.

    Args:
        name: Of one that comes with the package, or a path that ends in .yaml.

    Raises:
        ConfigError: One line a fault.
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
    studies: Iterable[Study], settings: Settings, options: Settings
) -> list[list[Point]]:
    """All points of each study, with all their settings.

    Args:
        studies: What varies.
        settings: A preset's settings, nested.
        options: Settings of the command line, nested.

    Raises:
        ConfigError: One line a fault of any point.
    """
    points: list[list[Point]] = []
    faults: dict[str, list[str]] = {}
    for study in studies:
        for key in _without_effect(study, options):
            faults.setdefault(f"--{key} is what the study varies; leave it out", []).append(
                study.name
            )
        points.append([])
        for variant in study.variants:
            try:
                config = _complete(study, variant, settings, options)
            except ConfigError as error:
                for fault in str(error).splitlines():
                    faults.setdefault(fault, []).append(f"{study.name}, {variant.name}")
            else:
                points[-1].append(Point(variant.name, variant.axes, config))
    if faults:
        told = ((where[0], len(where) - 1, fault) for fault, where in faults.items())
        raise ConfigError(
            "\n".join(
                f"{first}{f' and {more} more' if more else ''}: {fault}"
                for first, more, fault in told
            )
        )
    return points


def _without_effect(study: Study, options: Settings) -> list[str]:
    """Options that every point overrules."""
    own = [set(flat_keys(variant.settings)) for variant in study.variants]
    return [key for key in flat_keys(options) if all(key in keys for keys in own)]


def data_name(settings: Settings) -> str:
    """The data set that nested settings name."""
    return str(settings.get("data", {}).get("name", Config().data.name))


def _complete(study: Study, variant: Variant, settings: Settings, options: Settings) -> Config:
    layers = (
        study.base,
        study.per_data.get(data_name(merge(settings, options)), {}),
        options,
        variant.settings,
    )
    for layer in layers:
        own = {key: value for key, value in layer.items() if key != "preset"}
        if "preset" in layer:
            settings = overlay(settings, layer["preset"])
        settings = merge(settings, own)
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
    if "beta_dr" in options.get("synthesis", {}):
        check_beta_dr(config)
    return config


# Reading.


def _shape_faults(content: Settings) -> Iterator[str]:
    """What is wrong with the file's own keys and their types."""
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
    return Study(
        name=name,
        title=content["title"],
        source=content["source"],
        axes=axes,
        variants=variants,
        base=_nested(content.get("base", {}), "base"),
        per_data={
            data: _nested(part, f"for {data}") for data, part in content.get("for", {}).items()
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
        at = dict(zip(axes, values, strict=True))
        name = ",".join(f"{axis}={_shown(value)}" for axis, value in at.items())
        yield Variant(name, at, _nested(dict(zip(grid, values, strict=True)), f"grid, {name}"))


def _from_points(axes: tuple[str, ...], points: Settings) -> Iterator[Variant]:
    if len(axes) != 1:
        raise ConfigError(f"points vary along one axis, but axes names {len(axes)}")
    for key, settings in points.items():
        yield Variant(str(key), {axes[0]: key}, _nested(settings or {}, f"point {key}"))


def _accumulated(variants: Iterable[Variant]) -> Iterator[Variant]:
    """Each point on top of those before; its preset is laid upon theirs, below what it sets.

    Raises:
        ConfigError: If a point adds nothing; the first may set nothing.
    """
    so_far: Settings | None = None
    for variant in variants:
        own = dict(variant.settings)
        base = read_preset(own.pop("preset")) if "preset" in own else {}
        settings = merge(merge(so_far or {}, base), own)
        if settings == so_far:
            raise ConfigError(f"point {variant.name} adds nothing to the point before")
        so_far = settings
        yield Variant(variant.name, variant.axes, settings)


def _shown(value: Any) -> str:
    """A value in a point's name, as YAML writes it."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def _nested(settings: Any, where: str) -> Settings:
    """Dotted settings as sections, their names checked, choices read."""
    if not isinstance(settings, dict):
        raise ConfigError(f"{where} must be a mapping of settings, found {settings!r}")
    nested: Settings = {}
    for key, value in settings.items():
        if key == "preset":
            read_preset(str(value))  # told now, if there is none
            continue
        chosen = read_choice(key, value, where) if key in CHOSEN else value
        nested = merge(nested, nest(str(key), chosen))
    check_names(nested, where)
    return {**nested, **({"preset": str(settings["preset"])} if "preset" in settings else {})}
