"""Send losses and accuracies to TensorBoard, Weights & Biases or Trackio, by accelerate's trackers.

Trackers only receive values, so results do not depend on them. A run continues without a tracker
that fails. A resumed run opens its trackers anew: their curves continue in new files.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from gvbsm.config import Config, ConfigError
from gvbsm.config.build import to_dict
from gvbsm.config.errors import first_line
from gvbsm.engine.device import Log, RunError

log = logging.getLogger("gvbsm")

PROJECT = "gvbsm"


def check_trackers(names: Sequence[str]) -> None:
    """Check before any work that the packages of the trackers are installed.

    Raises:
        ConfigError: If one is not.
    """
    for name in names:
        missing = [module for module in ("accelerate", name) if find_spec(module) is None]
        if missing:
            raise ConfigError(
                f"trackers names {name!r}, which needs {' and '.join(missing)}: "
                f"pip install {' '.join(missing)}"
            )


@contextmanager
def tracking(config: Config, directory: Path) -> Iterator[Log | None]:
    """Open the trackers that the settings name, for the block.

    Args:
        config: All settings; the trackers show them beside the values.
        directory: The work directory. TensorBoard writes to its `logs` folder; the other trackers
            use its name as the run's name.

    Yields:
        The function for `Runtime.log`, or None without trackers.

    Raises:
        RunError: If a tracker cannot be opened, for example without a login.
    """
    if not config.trackers:
        yield None
        return
    settings = dict(_flatten(to_dict(config)))
    trackers: list[Any] = []
    try:
        for name in config.trackers:
            try:
                trackers.append(_open(name, directory, settings))
            except Exception as error:  # trackers raise errors of many types
                raise RunError(f"tracker {name} cannot be opened: {first_line(error)}") from error
        yield partial(_log_to_all, trackers)
    finally:
        for tracker in list(trackers):
            with _removed_on_failure(tracker, trackers):
                tracker.finish()


def _log_to_all(trackers: list[Any], series: str, values: Mapping[str, float], step: int) -> None:
    """Log values to all trackers; one that fails is removed from the list."""
    named = {f"{series}/{key}": value for key, value in values.items()}
    for tracker in list(trackers):
        with _removed_on_failure(tracker, trackers):
            if tracker.name == "tensorboard":
                tracker.log(named, step=step)
            else:  # these have one step count for all series
                tracker.log({**named, f"{series}/step": step})


@contextmanager
def _removed_on_failure(tracker: Any, trackers: list[Any]) -> Iterator[None]:
    """Log a failure in the block, and remove the tracker from the list."""
    try:
        yield
    except Exception as error:  # trackers raise errors of many types
        trackers.remove(tracker)
        log.warning(
            "tracker %s has failed; the run continues without it: %s",
            tracker.name,
            first_line(error),
        )


def _open(name: str, directory: Path, settings: Mapping[str, Any]) -> Any:
    from accelerate.state import PartialState
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS

    PartialState()  # trackers read the process's rank from it
    if name == "tensorboard":
        tracker = LOGGER_TYPE_TO_CLASS[name](PROJECT, str(directory / "logs"))
    else:
        options = {"dir": str(directory)} if name == "wandb" else {}
        tracker = LOGGER_TYPE_TO_CLASS[name](PROJECT, name=directory.name, **options)
    tracker.start()
    tracker.store_init_configuration(dict(settings))
    return tracker


def _flatten(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield dotted names and values; values that are neither numbers nor text become text."""
    for key, value in settings.items():
        if isinstance(value, dict):
            yield from _flatten(value, f"{prefix}{key}.")
        else:
            plain = isinstance(value, (bool, int, float, str))
            yield f"{prefix}{key}", value if plain else str(value)
