"""Checks of the settings of `gvbsm rank`. Nothing here imports torch."""

from __future__ import annotations

from gvbsm.config import Config, ConfigError
from gvbsm.config.build import images_of

FEWEST = 3  # networks: two have only two orders


def check_ranking(config: Config) -> None:
    """Check that the settings are those of a ranking.

    Raises:
        ConfigError: If they name too few networks, or a method that distills no images.
    """
    models = config.evaluation.students
    if len(models) < FEWEST:
        raise ConfigError(
            f"a ranking takes at least {FEWEST} different networks, got {', '.join(models)}: "
            "name them as --models A,B,C"
        )
    if images_of(config.method) != config.method:  # its loss or views would be random-soft's
        raise ConfigError(
            "a ranking compares a distilled set with random pictures, got "
            f"method={config.method}: take gvbsm or sre2l"
        )
