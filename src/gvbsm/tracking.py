"""Losses and accuracies to TensorBoard, Weights & Biases or Trackio, through accelerate's trackers.

A tracker is told what happens and never asked: results do not depend on it, and a run that is
stopped goes on in new files of the tracker's.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from gvbsm.config import Config, ConfigError
from gvbsm.runtime import Log, RunError
from gvbsm.settings import to_dict

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
        config: All settings; the trackers keep them beside what they are told.
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
    with ExitStack() as finish:
        trackers = []
        for name in config.trackers:
            try:
                trackers.append(_open(name, directory, settings))
            except Exception as error:  # a tracker's own, of any kind
                first = (str(error).splitlines() or [type(error).__name__])[0]
                raise RunError(f"tracker {name} cannot be opened: {first}") from error
            finish.callback(trackers[-1].finish)

        def tell(series: str, values: Mapping[str, float], step: int) -> None:
            named = {f"{series}/{key}": value for key, value in values.items()}
            for tracker in trackers:
                if tracker.name == "tensorboard":
                    tracker.log(named, step=step)
                else:  # their steps are one count for all series
                    tracker.log({**named, f"{series}/step": step})

        yield tell


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
