"""Backbones that a study chooses from those of the run, whatever these are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from gvbsm.config import ConfigError


@dataclass(frozen=True)
class BackboneChoice:
    """Backbones, chosen from `squeeze.backbones`: the first `count`, or all without a prefix."""

    count: int | None = None
    without: str | None = None

    def of(self, teachers: list[str]) -> list[str]:
        """The chosen ones.

        Raises:
            ConfigError: If there are too few, or none to leave out.
        """
        if self.count is not None:
            if len(teachers) < self.count:
                raise ConfigError(
                    f"asks for the first {self.count} of squeeze.backbones {teachers}; "
                    "name more of them"
                )
            return teachers[: self.count]
        left = [name for name in teachers if not name.startswith(str(self.without))]
        if len(left) in (0, len(teachers)):
            raise ConfigError(
                f"leaves {self.without}* out of squeeze.backbones {teachers}; some must begin so, "
                "and some not"
            )
        return left


def read_choice(key: str, value: Any, where: str) -> Any:
    """A list as it is, and what a study's file has in its place as a choice.

    Raises:
        ConfigError: If it is neither.
    """
    if not isinstance(value, dict):
        return value
    match value:
        case {"first": int(count)} if len(value) == 1 and count > 0:
            return BackboneChoice(count=count)
        case {"without": str(prefix)} if len(value) == 1 and prefix:
            return BackboneChoice(without=prefix)
    raise ConfigError(
        f"{where}: {key} is a list, {{first: COUNT}} or {{without: BEGINNING}}, found {value!r}"
    )
