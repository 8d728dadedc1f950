"""What a run's settings came from: a preset's name, and what the command line changed of it.

It is told beside the results and has no part in them: settings alone say what is made.

This file imports no torch, so that the command line answers at once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from gvbsm.config import Config
from gvbsm.config.build import preset_names
from gvbsm.config.fields import without_effect
from gvbsm.config.keys import flatten


@dataclass(frozen=True)
class Origin:
    """Where settings came from.

    Attributes:
        preset: A preset, or several joined by `+`, as the command named them; of a YAML file the
            name alone, as its place says something of the machine. None if it is not known.
        changed: Dotted names of the settings that the command line gave another value, without
            those that change nothing in the results.
    """

    preset: str | None = None
    changed: tuple[str, ...] = ()

    @classmethod
    def of(cls, preset: str, before: Mapping[str, Any], after: Mapping[str, Any]) -> Origin:
        """From a preset's name and all settings, nested, without and with the command line's."""
        idle = without_effect(Config())
        old, new = _flat(before), _flat(after)
        changed = (key for key in new if new[key] != old.get(key) and key not in idle)
        return cls(_named(preset), tuple(changed))

    @classmethod
    def read(cls, content: Mapping[str, Any]) -> Origin:
        """From the entry `origin` of a file of results.

        Raises:
            KeyError, TypeError: If the entry is missing or damaged.
        """
        entry = content["origin"]
        return cls(entry["preset"], tuple(entry["changed"]))

    @property
    def is_beyond_the_paper(self) -> bool:
        """Whether the preset is one of those that leave the paper's recipe on purpose."""
        return self.is_packaged and str(self.preset).split("+")[0].endswith("-best")

    @property
    def is_packaged(self) -> bool:
        """Whether the preset is of those that come with this version, and so can be read again."""
        return self.preset is not None and set(self.preset.split("+")) <= set(preset_names())

    def as_json(self) -> dict[str, Any]:
        """The entries of `origin` in a JSON file."""
        return {**asdict(self), "changed": list(self.changed)}

    def __str__(self) -> str:
        """For people: `cifar10, 2 settings changed on the command line`; empty if not known."""
        if self.preset is None:
            return ""
        count = len(self.changed)
        many = "" if count == 1 else "s"
        return self.preset + (f", {count} setting{many} changed on the command line" * bool(count))


UNKNOWN = Origin()


def origin_of(settings: object) -> Origin:
    """What is known of settings that Python gives: the preset, if it is a preset's name."""
    return Origin(_named(settings)) if isinstance(settings, str) else UNKNOWN


def _named(preset: str) -> str:
    return "+".join(Path(part).name for part in preset.split("+"))


def _flat(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key: list(value) if isinstance(value, tuple) else value
        for key, value in flatten(settings).items()
    }
