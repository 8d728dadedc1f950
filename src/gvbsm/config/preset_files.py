"""Presets: YAML files of settings, joined by `+`, of which later ones take precedence.

Beside its settings a file may have a table `at_ipc`: numbers of images per class, each with
settings that take precedence over the file's own at this number alone. They are laid in when a
preset is read, so that no other code knows the table.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

from gvbsm.config import Config, ConfigError
from gvbsm.config.keys import check_names, flat_keys, merge, nearest
from gvbsm.config.paths import user_path
from gvbsm.config.yaml_files import read_yaml

PRESETS = Path(__file__).parent / "presets"
TABLE = "at_ipc"


class PresetFile(NamedTuple):
    """A preset of the package, or a user's settings file.

    Attributes:
        name: Its name; of a user's file without its folder.
        settings: Its settings, nested.
        at_ipc: Images per class -> settings that take precedence at this number alone, nested.
    """

    name: str
    settings: dict[str, Any]
    at_ipc: Mapping[int, dict[str, Any]]

    def layers(self, ipc: object) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield the settings at a number of images per class, with the name of their place."""
        yield self.name, self.settings
        if isinstance(ipc, int) and ipc in self.at_ipc:
            yield f"{self.name}, {TABLE} {ipc}", self.at_ipc[ipc]

    def at(self, ipc: object) -> dict[str, Any]:
        """Return all settings at a number of images per class."""
        settings: dict[str, Any] = {}
        for _, layer in self.layers(ipc):
            settings = merge(settings, layer)
        return settings


class PresetSummary(NamedTuple):
    """What a preset is for.

    Attributes:
        name: Its name.
        kind: A whole recipe, an overlay that is joined to one, or a baseline, which is an overlay
            that puts another method in the place of G-VBSM.
        text: First sentence of its file.
    """

    name: str
    kind: Literal["recipe", "overlay", "baseline"]
    text: str


def preset_names() -> list[str]:
    """Return the names of the presets in the package."""
    return sorted(path.stem for path in PRESETS.glob("*.yaml"))


def preset_summaries() -> Iterator[PresetSummary]:
    """Describe all presets, in the order of their names."""
    for name in preset_names():
        path = PRESETS / f"{name}.yaml"
        settings = read_yaml(path)
        lines = path.read_text(encoding="utf-8").splitlines()
        comments = itertools.takewhile(lambda line: line.startswith("# "), lines)
        text = " ".join(comment[2:].strip() for comment in comments)
        sentence = re.split(r"\. |\.?:? gvbsm run ", text, maxsplit=1)[0]
        if "name" in settings.get("data", {}):
            yield PresetSummary(name, "recipe", sentence)
        else:
            yield PresetSummary(name, "baseline" if "method" in settings else "overlay", sentence)


def parts_of(preset: str) -> list[str]:
    """Split a name at each `+` that joins presets and files; one in the path of a file joins none.

    Args:
        preset: A preset, or several joined by `+`, such as `c++/my.yaml+random-soft`.
    """
    words, parts = preset.split("+"), list[str]()
    while words:
        names = ("+".join(words[:count]) for count in range(len(words), 1, -1))
        parts.append(next((name for name in names if user_path(name).is_file()), words[0]))
        del words[: parts[-1].count("+") + 1]
    return parts


def usual_workdir(preset: str, before: str = "") -> Path:
    """Return the default work directory of a preset: `runs/` and its name.

    Args:
        preset: A preset, or several joined by `+`; of a file the name without folder and suffix.
        before: What the name of the directory begins with.
    """
    return Path("runs") / (before + "+".join(Path(part).stem for part in parts_of(preset)))


def read_preset(name: str, ipc: object = None) -> dict[str, Any]:
    """Read a preset, a YAML file, or several joined by `+`, of which later ones take precedence.

    Args:
        name: The preset.
        ipc: Images per class of the run, whose settings in the tables `at_ipc` are laid in; None
            takes the number of the preset. What is no number has none. The setting `ipc` itself
            stays the preset's.

    Raises:
        ConfigError: If there is no such preset or file, or it is faulty; one line a fault.
    """
    return overlay({}, name, ipc)


def overlay(settings: dict[str, Any], name: str, ipc: object = None) -> dict[str, Any]:
    """Lay a preset, or several joined by `+` one after the other, over nested settings.

    Where the preset names a method, the settings that `baselines.overrides` has for this method
    are laid over both, and leave the table.

    Args:
        settings: The nested settings.
        name: The preset.
        ipc: As for `read_preset`; None takes the number of the preset, or else of the settings.

    Raises:
        ConfigError: As `read_preset`.
    """
    files = [_read_file(part) for part in parts_of(name)]
    ipc = _ipc_of(settings, *(file.settings for file in files)) if ipc is None else ipc
    for content in (file.at(ipc) for file in files):
        overrides = merge(settings, content).get("baselines", {}).get("overrides") or {}
        for layer in with_overrides(content, overrides):
            settings = merge(settings, layer)
    return settings


def sources(name: str, ipc: object = None) -> dict[str, str]:
    """Return the place of each setting of a preset: `cifar10-best`, or `cifar10-best, at_ipc 1`.

    Returns:
        Dotted name of a setting -> the last of the files joined by `+`, or of the tables in them,
        that sets it.
    """
    files = [_read_file(part) for part in parts_of(name)]
    ipc = _ipc_of(*(file.settings for file in files)) if ipc is None else ipc
    layers = itertools.chain(*(file.layers(ipc) for file in files))
    return {key: place for place, settings in layers for key in flat_keys(settings)}


def with_overrides(
    preset: dict[str, Any], overrides: Mapping[str, dict[str, Any]]
) -> Iterator[dict[str, Any]]:
    """Yield the nested settings of a preset, and then what `overrides` has for its method.

    What it has for other methods stays in the table.
    """
    yield preset
    method = preset.get("method", "")
    if method in overrides:
        yield overrides[method]
        others = {name: settings for name, settings in overrides.items() if name != method}
        yield {"baselines": {"overrides": others}}


def _ipc_of(*layers: Mapping[str, Any]) -> object:
    """Images per class by the last of nested settings that sets them, or else the default."""
    return next((layer["ipc"] for layer in reversed(layers) if "ipc" in layer), Config().ipc)


def _read_file(name: str) -> PresetFile:
    is_file = name.endswith((".yaml", ".yml"))
    path = user_path(name) if is_file else PRESETS / f"{name}.yaml"
    if not path.is_file():
        if is_file:
            raise ConfigError(f"there is no settings file {name}")
        raise ConfigError(f"there is no preset {name!r}; {nearest(name, preset_names())}")
    settings = read_yaml(path)
    table = settings.pop(TABLE, {})
    check_names(settings, where=name)
    _check_table(table, where=f"{name}, {TABLE}")
    return PresetFile(path.name if is_file else name, settings, table)


def _check_table(table: Any, where: str) -> None:
    if not isinstance(table, dict):
        raise ConfigError(f"{where} must map images per class to settings, found {table!r}")
    for ipc, settings in table.items():
        if isinstance(ipc, bool) or not isinstance(ipc, int) or ipc < 1:
            raise ConfigError(f"{where} must name numbers of images per class, found {ipc!r}")
        if not isinstance(settings, dict):
            raise ConfigError(f"{where} {ipc} must be a mapping of settings, found {settings!r}")
        if "ipc" in settings:
            raise ConfigError(f"{where} {ipc} sets ipc, which chooses the entry; leave it out")
        check_names(settings, where=f"{where} {ipc}")
