"""Keep the settings that were chosen for a budget in the work directory, and read them again.

`budget.json` holds what was asked for and what was chosen, so that the same command goes on with
the same settings, unless a settings file that it names has changed. `settings.yaml` holds the
settings for people: to read, edit and run. Nothing here imports torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gvbsm.config import Config
from gvbsm.config.build import build_config, settings_lines, settings_with_effect, to_dict
from gvbsm.config.fields import replaced, without_effect
from gvbsm.config.keys import nested, short_command_of, value_at
from gvbsm.files.artifacts import (
    atomic,
    check_replaceable,
    fingerprint,
    read_json,
    write_json,
)
from gvbsm.files.schema import ChosenSettings, checked
from gvbsm.pipeline.budget.request import Request
from gvbsm.store.workdir import Workspace

NAME, SETTINGS = "budget.json", "settings.yaml"
PICTURES = ("classes", "pictures", "side")  # facts that do not change from one command to the next


def recorded_settings(config: Config, request: Request, workdir: Path) -> Config | None:
    """Return the settings that were chosen for the same request before; None if there are none.

    Args:
        config: The settings of this command, before they are fitted. The recorded ones get those of
            its settings on which the results do not depend, such as the number of threads.
        request: What is asked for.
        workdir: The work directory.

    Raises:
        ArtifactError, ConfigError: If the record is damaged.
    """
    path = workdir / NAME
    if not path.is_file():
        return None
    record = checked(ChosenSettings, read_json(path), path)
    if record.request != request.as_json() or record.before != fingerprint(
        settings_with_effect(config)
    ):
        return None
    of_this_command = {name: value_at(config, name) for name in without_effect(Config())}
    return replaced(build_config(record.settings), nested(of_this_command))


def check_keepable(workdir: Path) -> None:
    """Check that `keep_settings` may write its files, before anything is measured.

    Raises:
        ArtifactError: If the user has changed one of them, the folder holds other files, or another
            run is at work there.
    """
    if not workdir.exists():
        return
    with Workspace(workdir).locked():
        for name in (NAME, SETTINGS):
            check_replaceable(workdir / name)


def keep_settings(
    config: Config, before: Config, request: Request, facts: Mapping[str, Any], workdir: Path
) -> Path:
    """Write both files; return the path of `settings.yaml`.

    Args:
        config: The chosen settings.
        before: The settings that were fitted: those of the preset, with those that are given.
        request: What they were chosen for.
        facts: What is known about the pictures, JSON-like.
        workdir: The work directory.

    Raises:
        ArtifactError: If it holds other files or a run of other pictures, or as `check_keepable`.
    """
    path, asked = workdir / SETTINGS, fingerprint(settings_with_effect(before))
    record = {"request": request.as_json(), "before": asked, "facts": dict(facts)}
    with Workspace(workdir).locked():
        _check_pictures(config, facts, workdir)
        with atomic(path) as draft:
            draft.write_text(settings_text(config), encoding="utf-8")
        write_json(workdir / NAME, {**record, "settings": to_dict(config)})
    return path


def _check_pictures(config: Config, facts: Mapping[str, Any], workdir: Path) -> None:
    """Check that a run in the work directory is of these pictures, by what was kept of them."""
    path, of_run, workspace = workdir / NAME, workdir / "data.json", Workspace(workdir)
    if not of_run.is_file():
        return
    if (side := config.data.image_size) is not None:
        before = {"image_size": read_json(of_run).get("image_size")}
        workspace.check_same_data(before, {"image_size": side})
    if facts and path.is_file() and (kept := checked(ChosenSettings, read_json(path), path).facts):
        before, now = ({key: table.get(key) for key in PICTURES} for table in (kept, facts))
        workspace.check_same_data(before, now)


def settings_text(config: Config) -> str:
    """Return the settings that differ from their defaults as the text of a YAML file."""
    lines = settings_lines(config, only_changed=True)
    return "\n".join([f"# Run it: {short_command_of(config.data.name, 'FILE.yaml')}", *lines, ""])
