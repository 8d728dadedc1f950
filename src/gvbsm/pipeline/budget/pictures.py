"""Start from a path of pictures: a folder, or an .npz file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gvbsm.config import ConfigError
from gvbsm.config.keys import merge, nearest
from gvbsm.config.paths import user_path, whole_path
from gvbsm.config.preset_files import parts_of, preset_names, read_preset
from gvbsm.files.manifest import is_claimed

PRESET = "own"  # of the user's own pictures; it is fitted into a time budget
SETTINGS_FILES = (".yaml", ".yml")


def pictures_of(word: str) -> Path | None:
    """Return the path of the pictures that a word names; None if it names presets.

    Presets and settings files, joined by `+` or not, take precedence over a folder of that name.

    Raises:
        ConfigError: If it names neither. A joined preset that is missing is left to `read_preset`.
    """
    if not word:  # such as a variable of the shell that is not set
        raise ConfigError("the name of the pictures or preset is empty; . is the current folder")
    parts = parts_of(word)
    if all(part in preset_names() or part.endswith(SETTINGS_FILES) for part in parts):
        return None
    path = user_path(word)
    if path.is_dir() or (path.suffix == ".npz" and path.is_file()):
        return path
    if path.exists():
        raise ConfigError(
            f"{word} is neither a preset, a settings file (.yaml), a folder of pictures nor an "
            ".npz file"
        )
    if "/" in word or path.suffix == ".npz":
        raise ConfigError(f"there is no file or folder {word}, and no preset of that name")
    if len(parts) == 1:
        raise ConfigError(
            f"there is no preset {word!r}, and no file or folder of that name; "
            f"{nearest(word, preset_names())}"
        )
    return None


def settings_of(path: Path) -> tuple[dict[str, Any], Path]:
    """Return the preset's settings for the pictures at a path, and the usual work directory.

    Raises:
        ConfigError: If the folder is a work directory.
    """
    if is_claimed(path) and (path / "data.json").is_file():
        raise ConfigError(
            f"{path} is a work directory; to continue its run: gvbsm run PRESET --workdir {path}"
        )
    whole = whole_path(path)
    kind, name = ("folder", whole.name) if path.is_dir() else ("npz", whole.stem)
    settings = merge(read_preset(PRESET), {"data": {"name": kind, "root": str(path)}})
    return settings, Path("runs") / name
