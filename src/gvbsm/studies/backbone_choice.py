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
        only: Take the backbone of this number alone, counted from 1.
        without: Else, take all whose names do not begin with this.
    """

    count: int | None = None
    only: int | None = None
    without: str | None = None

    def of(self, teachers: list[str]) -> list[str]:
        """The selected backbones.

        Raises:
            ConfigError: If there are fewer than `count` or `only`, or if `without` selects none or
                all.
        """
        if (least := self.count or self.only) is not None:
            if len(teachers) < least:
                which = f"the first {least}" if self.count else f"number {least}"
                raise ConfigError(
                    f"asks for {which} of squeeze.backbones {teachers}; name more of them"
                )
            return teachers[: self.count] if self.count else [teachers[least - 1]]
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
        case {"only": int(number)} if len(value) == 1 and number > 0:
            return BackboneChoice(only=number)
        case {"without": str(prefix)} if len(value) == 1 and prefix:
            return BackboneChoice(without=prefix)
    raise ConfigError(
        f"{where}: {key} must be a list, {{first: COUNT}}, {{only: NUMBER}} or "
        f"{{without: PREFIX}}, found {value!r}"
    )
