"""Settings under the paper's names, and the commands that repeat a run."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gvbsm.config.keys import (
    PATH_WORDS,
    command_of,
    path_options,
    path_settings,
    value_at,
    without_paths,
)
from gvbsm.config.paths import MEMORY
from gvbsm.config.provenance import UNKNOWN, Origin
from gvbsm.config.yaml_files import format_yaml
from gvbsm.pipeline.budget.pictures import PRESET as OWN_PICTURES
from gvbsm.reporting.facts import PAPER, differences, preset_name


@dataclass(frozen=True)
class Term:
    """A setting with the paper's symbol.

    Attributes:
        key: Dotted name of the setting.
        meaning: A description in a few words.
        symbol: The paper's symbol; empty if it has none.
        index: Subscript of the symbol.
    """

    key: str
    meaning: str
    symbol: str = ""
    index: str = ""


SECTIONS = {
    "Squeeze (model pre-training)": (
        Term("squeeze.backbones", "candidate backbones: the teachers", "f", "cand"),
        Term("squeeze.epochs", "epochs of each teacher"),
        Term("squeeze.batch_size", "real pictures in a step"),
        Term("squeeze.optimizer.lr", "learning rate of the teachers"),
    ),
    "Statistics and synthesis (data synthesis: DD, GBM, GSM)": (
        Term("ipc", "images per class", "IPC"),
        Term("ipc_of", "images of single classes", "IPC"),
        Term("synthesis.init", "what the images start from"),
        Term("synthesis.iterations", "steps for each batch of images"),
        Term("synthesis.batch_size", "images that are optimized together"),
        Term("synthesis.loop", "reorder loop, or the original one"),
        Term("synthesis.optimizer.lr", "learning rate of the pixels"),
        Term("synthesis.alpha", "weight of the past in the EMA of statistics (Eq. 6)", "α"),
        Term("synthesis.beta_dr", "chance that a convolution is not matched (GSM)", "β", "dr"),
        Term("statistics.n_p", "side of a patch in pixels of the feature map (GSM)", "N", "p"),
        Term("synthesis.tau", "temperature of densification (Eq. 5)", "τ"),
        Term("synthesis.weight_cross_entropy", "weight of the classification loss"),
        Term("synthesis.weight_batchnorm", "its weight in the loss (Eq. 6)", "L′", "BN"),
        Term("synthesis.weight_conv", "its weight in the loss (Eq. 10)", "L′", "Conv"),
        Term("synthesis.weight_densification", "its weight in the loss (Eq. 5)", "L", "DD"),
        Term("synthesis.first_layer_multiplier", "extra weight of the first layer"),
    ),
    "Labels (soft-label generation)": (
        Term("labels.epochs", "epochs with labels, and of each student's training"),
        Term("labels.batch_size", "images that are labeled together"),
        Term("labels.views.cutmix", "parameter of CutMix; 0 is off"),
        Term("labels.logit_normalization", "normalization of the logits (Eq. 8)", "LN"),
        Term(
            "labels.logit_normalization_of",
            "normalization of the logits for single students",
            "LN",
        ),
    ),
    "Evaluation": (
        Term("evaluation.students", "architectures trained from scratch on the set"),
        Term("evaluation.seeds", "students of each architecture"),
        Term("evaluation.loss", "mse_gt is MSE + γ GT (Eq. 11)"),
        Term("evaluation.gamma", "weight of the hard labels (GT) in that loss", "γ"),
        Term("evaluation.optimizer.name", "optimizer of the students"),
        Term("evaluation.optimizer.lr", "learning rate of the students"),
        Term("evaluation.batch_size", "images in a step"),
    ),
}
"""Phase, under the paper's name -> its settings."""


@dataclass(frozen=True)
class Value:
    """A term with the run's value and the preset's, as text; None where they are equal."""

    term: Term
    value: str
    preset: str | None


def settings_table(
    config: Mapping[str, Any], preset: Mapping[str, Any] | None
) -> list[tuple[str, list[Value]]]:
    """Title and values of each section."""
    return [
        (title, [_value(term, config, preset) for term in terms])
        for title, terms in SECTIONS.items()
    ]


def _value(term: Term, config: Mapping[str, Any], preset: Mapping[str, Any] | None) -> Value:
    value = value_at(config, term.key)
    preset_value = value if preset is None else value_at(preset, term.key)
    is_same = preset_value == value
    return Value(term, _format_value(value), None if is_same else _format_value(preset_value))


def preset_words(config: Mapping[str, Any], origin: Origin = UNKNOWN) -> str | None:
    """Name of the preset for comparison, with the paper's table if it reproduces one."""
    if (name := preset_name(config, origin)) is None:
        return None
    data, *others = name.split("+")
    table = PAPER.get(data) if set(others) <= {config["method"]} else None
    return f"{name}, the paper's table {table}" if table else name


def settings_yaml(config: Mapping[str, Any]) -> str:
    """All settings as a YAML file for `gvbsm run`, without paths of this machine."""
    return format_yaml(without_paths(dict(config)))


def commands(
    config: Mapping[str, Any],
    preset: Mapping[str, Any] | None,
    name: str,
    origin: Origin = UNKNOWN,
) -> list[str]:
    """Commands that repeat the run: from the settings file, and from the preset if there is one.

    The preset of a user's own pictures is left out: a command that names it fits the settings that
    it does not give into a time budget. Pictures from Python have a call and no command.
    """
    tail = [*path_options(config), "--workdir", f"runs/{name}"]
    shell_commands = [command_of(config, "settings.yaml", f"runs/{name}")]
    base, from_python = preset_name(config, origin), value_at(config, "data.name") == MEMORY
    if preset is not None and base != OWN_PICTURES and not from_python:
        options = [
            shlex.join([f"--{key}", _option(value)])
            for key, value in differences(config, preset).items()
            if key not in path_settings()
        ]
        lines = [f"gvbsm run {base}", *options, shlex.join(tail)]
        shell_commands.append(" \\\n  ".join(lines))
    return shell_commands


@dataclass(frozen=True)
class Change:
    """A setting that the user changed: its value, and the preset's if it is known."""

    key: str
    value: str
    preset: str | None


def changes(
    config: Mapping[str, Any], preset: Mapping[str, Any] | None, origin: Origin
) -> list[Change]:
    """The settings that the user changed, with their values."""
    known = preset if origin.is_packaged else None
    return [
        Change(
            key,
            _without_paths_of(key, value_at(config, key)),
            None if known is None else _format_value(value_at(known, key)),
        )
        for key in origin.changed
    ]


def _without_paths_of(key: str, value: Any) -> str:
    """A value as the page shows it, with a word for a path of the machine."""
    if key in path_settings() and value:
        return ", ".join(value) if isinstance(value, dict) else PATH_WORDS[key]
    return _format_value(value)


def _option(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _format_value(value: Any) -> str:
    """A value as the page shows it: lists with commas, on or off, thousands separated."""
    if isinstance(value, list):
        return ", ".join(map(_format_value, value))
    if isinstance(value, dict) and value:
        return ", ".join(f"{name}: {_format_value(item)}" for name, item in value.items())
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, int):
        return f"{value:,}"
    return "none" if value in (None, {}) else str(value)
