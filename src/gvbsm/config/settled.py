"""Settings that depend on other settings: compute their value."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, get_args

from gvbsm.config import Config, ConfigError, Corruption, CorruptionsConfig, LabelsConfig


def settle_beta_dr(config: Config) -> Config:
    """Return the settings with the `beta_dr` that `beta_dr_of` has for their images per class."""
    synthesis = config.synthesis
    beta_dr = synthesis.beta_dr_of.get(config.ipc, synthesis.beta_dr)
    return replace(config, synthesis=replace(synthesis, beta_dr=beta_dr))


def check_beta_dr(config: Config) -> None:
    """Check that `beta_dr_of` does not overrule a `beta_dr` from the command line.

    Raises:
        ConfigError: If it does.
    """
    given, settled = config.synthesis.beta_dr, settle_beta_dr(config).synthesis.beta_dr
    if settled != given:
        raise ConfigError(
            f"synthesis.beta_dr is {given}, but synthesis.beta_dr_of has {settled} at {config.ipc} "
            "images per class; add --synthesis.beta_dr_of '{}'"
        )


def ipc_entries(config: Config) -> dict[str, Any]:
    """Return `ipc`, and `ipc_of` where classes differ, as recipes and results hold them.

    Args:
        config: The settings, settled for the classes (`data.class_sizes.settle_ipc`).
    """
    return {"ipc": config.ipc} | ({"ipc_of": config.ipc_of} if config.ipc_of else {})


def matched_teachers(config: Config) -> tuple[str, ...]:
    """Return the names of the teachers that images are matched with: those named, or all."""
    return config.synthesis.backbones or config.squeeze.backbones


def labeling_teachers(config: Config) -> tuple[str, ...]:
    """Return the names of the teachers that label images: those named, or all."""
    return config.labels.backbones or config.squeeze.backbones


def coreset_teacher(config: Config) -> str:
    """Return the name of the teacher that selects real pictures: the one named, or the first."""
    return config.coreset.backbone or config.squeeze.backbones[0]


def corruption_kinds(config: CorruptionsConfig) -> tuple[str, ...]:
    """Return the kinds of corruption, in the order of the settings' help: `all` stands for each."""
    _, *known = get_args(Corruption)
    return tuple(kind for kind in known if "all" in config.kinds or kind in config.kinds)


def settle_teachers(labels: LabelsConfig, backbones: tuple[str, ...]) -> LabelsConfig:
    """Return the settings with the names of all labeling teachers, if there are weights.

    Args:
        labels: The settings.
        backbones: The teachers that label if `labels.backbones` names none.
    """
    return replace(labels, backbones=labels.backbones or backbones) if labels.weights else labels
