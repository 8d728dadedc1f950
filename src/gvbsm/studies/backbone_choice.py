"""Selections such as `first: 2` or `without: convnet` instead of names of backbones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from gvbsm.config import ConfigError


@dataclass(frozen=True)
class BackboneChoice:
    """A selection from `squeeze.backbones`.

    Attributes:
        count: Take the first `count` backbones.
        without: Else, take all whose names do not begin with this.
    """

    count: int | None = None
    without: str | None = None

    def of(self, teachers: list[str]) -> list[str]:
        """The selected backbones.

        Raises:
            ConfigError: If there are fewer than `count`, or if `without` selects none or all.
        """
        if self.count is not None:
            if len(teachers) < self.count:
                raise ConfigError(
                    f"asks for the first {self.count} of squeeze.backbones {teachers}; "
                    "name more of them"
                )
            return teachers[: self.count]
        selected = [name for name in teachers if not name.startswith(str(self.without))]
        if len(selected) in (0, len(teachers)):
            raise ConfigError(
                f"leaves {self.without}* out of squeeze.backbones {teachers}; name at least one "
                "that begins so and one that does not"
            )
        return selected


def read_choice(key: str, value: Any, where: str) -> Any:
    """Return a list of backbones unchanged; turn a mapping into a `BackboneChoice`.

    Args:
        key: Dotted name of the setting.
        value: What the study's file has.
        where: Name of the entry, for the message.

    Raises:
        ConfigError: If it is neither a list nor a selection.
    """
    if not isinstance(value, dict):
        return value
    match value:
        case {"first": int(count)} if len(value) == 1 and count > 0:
            return BackboneChoice(count=count)
        case {"without": str(prefix)} if len(value) == 1 and prefix:
            return BackboneChoice(without=prefix)
    raise ConfigError(
        f"{where}: {key} must be a list, {{first: COUNT}} or {{without: PREFIX}}, found {value!r}"
    )
