"""Settings that depend on other settings, brought to one value."""

from __future__ import annotations

from dataclasses import replace

from gvbsm.config import Config, ConfigError, LabelsConfig


def settle_beta_dr(config: Config) -> Config:
    """Return the settings with `beta_dr` as `beta_dr_of` says for their images per class."""
    synthesis = config.synthesis
    chance = synthesis.beta_dr_of.get(config.ipc, synthesis.beta_dr)
    return replace(config, synthesis=replace(synthesis, beta_dr=chance))


def check_beta_dr(config: Config) -> None:
    """Check that a `beta_dr` that was asked for is not overruled by `beta_dr_of`.

    Raises:
        ConfigError: If it is.
    """
    asked, chance = config.synthesis.beta_dr, settle_beta_dr(config).synthesis.beta_dr
    if chance != asked:
        raise ConfigError(
            f"synthesis.beta_dr is {asked}, but synthesis.beta_dr_of says {chance} at {config.ipc} "
            "images per class; add --synthesis.beta_dr_of '{}'"
        )


def settle_teachers(labels: LabelsConfig, backbones: tuple[str, ...]) -> LabelsConfig:
    """The settings in which weights, where there are any, have all teachers' names beside them.

    Args:
        labels: The settings.
        backbones: The teachers that label if `labels.backbones` names none.
    """
    return replace(labels, backbones=labels.backbones or backbones) if labels.weights else labels
