"""The settings that networks are trained with on a distilled set: recorded with it, or given."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Protocol

from torch import Tensor

from gvbsm.config import Config, ConfigError, EvaluationConfig, LabelsConfig
from gvbsm.config.build import build_config
from gvbsm.config.fields import names_of
from gvbsm.config.keys import merge
from gvbsm.data.epochs import batch_size_for, settle_epochs
from gvbsm.data.pixels import Normalization
from gvbsm.data.views import check_cells
from gvbsm.files.network_names import without_folders
from gvbsm.store.label_store import is_normalized
from gvbsm.store.soft_labels import SoftLabels

# The settings that training reads; others are about how a set is distilled.
GENERAL = names_of(Config(), "read_by_train")
LABELS = names_of(LabelsConfig(), "read_by_train")
EVALUATION = names_of(EvaluationConfig(), "read_by_train")
DATA = ("test_crop", "val_fraction", "split_seed")  # by which the real test pictures are chosen


class TrainingSet(Protocol):
    """What training reads of a distilled set (`store.distilled.DistilledDataset`)."""

    @property
    def images(self) -> Tensor:
        """Images, uint8 (images, channels, size, size)."""

    @property
    def labels(self) -> Tensor:
        """Hard labels, int64 (images,)."""

    @property
    def normalization(self) -> Normalization:
        """Mean and standard deviation of the real training pixels."""

    @property
    def soft_labels(self) -> SoftLabels | None:
        """The soft labels of all views; None if they are not stored."""

    @property
    def header(self) -> dict[str, Any]:
        """Its description, with the recorded `settings` of its run."""


def recorded_settings(distilled: TrainingSet) -> dict[str, Any]:
    """The recorded settings of the run: seed, labels, evaluation, data (`DATA`); {} if none is."""
    settings = distilled.header.get("settings")
    return settings if isinstance(settings, dict) else {}


def settings_of_labels(distilled: TrainingSet) -> dict[str, Any]:
    """Return the recorded settings with the logit normalization of the labels that the set has.

    A run whose students differ in it (`labels.logit_normalization_of`) has two sets of labels, of
    which a loaded set has one.
    """
    settings, stored = recorded_settings(distilled), distilled.soft_labels
    if stored is None or (normalized := is_normalized(stored)) is None:
        return settings
    labels = {"logit_normalization": normalized, "logit_normalization_of": {}}
    return merge(settings, {"labels": labels})


def settle(given: Mapping[str, Any], distilled: TrainingSet, model: str = "") -> Config:
    """Merge the settings that are given into those recorded with the set.

    Args:
        given: Nested settings.
        distilled: The set.
        model: Name of the architecture, for its entry in `evaluation.lr_of`.

    Raises:
        ConfigError: If they do not fit the set, or name what training does not read.
    """
    _check_read(given)
    recorded, stored = recorded_settings(distilled), distilled.soft_labels
    labels = {key: value for key, value in recorded.get("labels", {}).items() if key in LABELS}
    evaluation = {k: v for k, v in recorded.get("evaluation", {}).items() if k in EVALUATION}
    data = {key: value for key, value in recorded.get("data", {}).items() if key in DATA}
    rates = recorded.get("evaluation", {}).get("lr_of", {})
    rate = rates.get(model, rates.get(without_folders(model)))
    if rate is not None:
        evaluation = merge(evaluation, {"optimizer": {"lr": rate}})
    seeds = (recorded.get("labels", {}).get("seed"), recorded.get("seed"), Config().seed)
    seed = next(number for number in seeds if number is not None)
    if stored is None:
        evaluation |= {"loss": "hard", "hard_target": "mixed"}  # as the hard-label baselines
    else:
        labels["epochs"], labels["min_steps"] = stored.epochs, 0
    defaults = {"seed": seed, "labels": labels, "evaluation": evaluation, "data": data}
    config = build_config(merge(defaults, dict(given)))
    if stored is None and config.evaluation.loss != "hard":
        raise ConfigError(
            f"evaluation.loss={config.evaluation.loss} needs soft labels, and this set has none; "
            "leave it out, or pass hard"
        )
    if stored is not None and config.labels.epochs > stored.epochs:
        raise ConfigError(
            f"labels.epochs is {config.labels.epochs}, but this set has soft labels for "
            f"{stored.epochs} epochs"
        )
    if stored is not None and config.evaluation.loss != "hard":
        _check_batches(config, recorded.get("labels", {}), len(distilled.labels))
    check_cells(config.labels.views, distilled.images.shape[-1])
    count, batch = len(distilled.labels), config.evaluation.batch_size
    if stored is None:
        config = replace(config, labels=settle_epochs(config.labels, count, batch))
    return config


def _check_batches(config: Config, recorded: Mapping[str, Any], count: int) -> None:
    """Check that batches have the size by which `count` images were labeled, if that matters.

    It does where the teachers normalized by the statistics of each batch.
    """
    if recorded.get("batchnorm") != "batch":
        return
    by, labels = recorded["batch_size"], config.labels
    labeled = batch_size_for(count, by, recorded["full_batch_up_to"])
    trained = batch_size_for(count, config.evaluation.batch_size, labels.full_batch_up_to)
    if trained != labeled:
        raise ConfigError(
            f"this set was labeled in batches of {labeled} (labels.batchnorm=batch), and would be "
            f"trained on in batches of {trained}: set evaluation.batch_size to {by} and "
            f"labels.full_batch_up_to to {recorded['full_batch_up_to']}, or evaluation.loss to hard"
        )


def _check_read(given: Mapping[str, Any]) -> None:
    known = {"labels": LABELS, "evaluation": EVALUATION}
    for section, values in given.items():
        if section not in (*known, *GENERAL):
            raise ConfigError(f"gvbsm train does not read {section}")
        for key in values if section in known else ():
            if key not in known[section]:
                raise ConfigError(f"gvbsm train does not read {section}.{key}")
