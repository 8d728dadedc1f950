"""The first word of a command that takes settings: a preset, a YAML file, or pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from gvbsm.config.preset_files import read_preset, usual_workdir
from gvbsm.pipeline.budget.pictures import PRESET, pictures_of, settings_of


class Start(NamedTuple):
    """What the first word of a command names.

    Attributes:
        preset: The preset, or several joined by `+`; of pictures, the preset of such data.
        settings: Its settings, nested.
        workdir: The usual work directory.
    """

    preset: str
    settings: dict[str, Any]
    workdir: Path


def read_first_word(word: str, ipc: int | None = None) -> Start:
    """Read what the first word of a command names.

    A preset takes precedence over a folder of the same name, which is then `./NAME`.

    Args:
        word: The word.
        ipc: Images per class that the command asks for; None leaves them to the preset.

    Raises:
        ConfigError: If there is nothing of this name, or its settings are faulty.
    """
    path = pictures_of(word)
    if path is not None:
        return Start(PRESET, *settings_of(path))
    return Start(word, read_preset(word, ipc), usual_workdir(word))
