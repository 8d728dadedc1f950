"""Losses and accuracies to TensorBoard, Weights & Biases or Trackio, through accelerate's trackers.

A tracker gets values and is never asked for any: results do not depend on it. A run goes on without
one that fails, and after a stop in new files of the tracker's.
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
    """Check that what the trackers need is installed, before any work.

    Raises:
        ConfigError: Naming what is missing.
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
        config: All settings; the trackers keep them beside the values.
        directory: The work directory; TensorBoard's files go to its `logs` folder, and its name is
            the run's for the others.

    Yields:
        What `Runtime.log` is to call, or None without trackers.

    Raises:
        RunError: If a tracker cannot be opened, such as one that wants a login.
    """
    if not config.trackers:
        yield None
        return
    settings = dict(_flat(to_dict(config)))
    trackers: list[Any] = []
    try:
        for name in config.trackers:
            try:
                trackers.append(_open(name, directory, settings))
            except Exception as error:  # a tracker's own, of any kind
                raise RunError(f"tracker {name} cannot be opened: {first_line(error)}") from error
        yield partial(_log_to_all, trackers)
    finally:
        for tracker in list(trackers):
            with _dropped_if_it_fails(tracker, trackers):
                tracker.finish()


def _log_to_all(trackers: list[Any], series: str, values: Mapping[str, float], step: int) -> None:
    """Log values to all trackers; one that fails is removed from the list."""
    named = {f"{series}/{key}": value for key, value in values.items()}
    for tracker in list(trackers):
        with _dropped_if_it_fails(tracker, trackers):
            if tracker.name == "tensorboard":
                tracker.log(named, step=step)
            else:  # their steps are one count for all series
                tracker.log({**named, f"{series}/step": step})


@contextmanager
def _dropped_if_it_fails(tracker: Any, trackers: list[Any]) -> Iterator[None]:
    """Go on without a tracker that fails, as one whose own process was killed; the log says so."""
    try:
        yield
    except Exception as error:  # a tracker's own, of any kind
        trackers.remove(tracker)
        log.warning(
            "tracker %s has failed and gets no more values: %s", tracker.name, first_line(error)
        )


def _open(name: str, directory: Path, settings: Mapping[str, Any]) -> Any:
    from accelerate.state import PartialState
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS

    PartialState()  # trackers ask it which process they are in
    if name == "tensorboard":
        tracker = LOGGER_TYPE_TO_CLASS[name](PROJECT, str(directory / "logs"))
    else:
        options = {"dir": str(directory)} if name == "wandb" else {}
        tracker = LOGGER_TYPE_TO_CLASS[name](PROJECT, name=directory.name, **options)
    tracker.start()
    tracker.store_init_configuration(dict(settings))
    return tracker


def _flat(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted names and values; what is no number or text, as text."""
    for key, value in settings.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            plain = isinstance(value, (bool, int, float, str))
            yield f"{prefix}{key}", value if plain else str(value)
