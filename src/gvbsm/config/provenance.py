"""Provenance of a run's settings: the preset, and what the user changed of it.

It is written beside the results and does not change them: they depend on the settings alone.

This file does not import torch, so that the command line answers at once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from gvbsm.config import Config
from gvbsm.config.fields import without_effect
from gvbsm.config.keys import flatten
from gvbsm.config.preset_files import parts_of, preset_names


@dataclass(frozen=True)
class Origin:
    """The preset of settings, and the changes to it.

    Attributes:
        preset: A preset, or several joined by `+`, as given to the command; of a YAML file only the
            name, since its folder belongs to the machine. None if it is not known.
        changed: Dotted names of the settings that the user changed, without those on which
            the results do not depend.
    """

    preset: str | None = None
    changed: tuple[str, ...] = ()

    @classmethod
    def of(cls, preset: str, before: Mapping[str, Any], after: Mapping[str, Any]) -> Origin:
        """Compare all settings, nested, without and with the user's changes."""
        ignored = without_effect(Config())
        old, new = _flat(before), _flat(after)
        changed = (key for key in new if new[key] != old.get(key) and key not in ignored)
        return cls(_named(preset), tuple(changed))

    @classmethod
    def read(cls, content: Mapping[str, Any]) -> Origin:
        """Read the entry `origin` of a file of results.

        Raises:
            KeyError, TypeError: If the entry is missing or damaged.
        """
        entry = content["origin"]
        return cls(entry["preset"], tuple(entry["changed"]))

    @property
    def is_beyond_the_paper(self) -> bool:
        """Whether the preset is one that departs from the paper's recipe (`-best`)."""
        return self.is_packaged and str(self.preset).split("+")[0].endswith("-best")

    @property
    def is_packaged(self) -> bool:
        """Whether the preset comes with this version, and so can be read again."""
        return self.preset is not None and set(self.preset.split("+")) <= set(preset_names())

    def as_json(self) -> dict[str, Any]:
        """Return the entry `origin` of a JSON file."""
        return {**asdict(self), "changed": list(self.changed)}

    def __str__(self) -> str:
        """Return `cifar10, 2 settings changed by the user`; empty if it is not known."""
        if self.preset is None:
            return ""
        count = len(self.changed)
        plural = "" if count == 1 else "s"
        return self.preset + (f", {count} setting{plural} changed by the user" * bool(count))


UNKNOWN = Origin()


def origin_of(settings: object) -> Origin:
    """Return the provenance of settings from Python: the preset, if they are a preset's name."""
    return Origin(_named(settings)) if isinstance(settings, str) else UNKNOWN


def _named(preset: str) -> str:
    return "+".join(Path(name).name for name in parts_of(preset))


def _flat(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key: list(value) if isinstance(value, tuple) else value
        for key, value in flatten(settings).items()
    }
