"""Checks of the settings of one set of images, and of its students, before any long work."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from gvbsm.backbones import build_empty, check_known, check_takes
from gvbsm.config import Config, ConfigError, SynthesisConfig
from gvbsm.config.settled import matched_teachers
from gvbsm.config.stages import EXTRA_TAKES
from gvbsm.data.class_sizes import class_counts, image_counts
from gvbsm.data.datasets import ImageData
from gvbsm.data.epochs import batch_size_for
from gvbsm.data.loading import fewest_at_once
from gvbsm.data.pictures import DataError
from gvbsm.data.views import check_cells
from gvbsm.engine.progress.spelling import spell_count
from gvbsm.files.plugins import called_by_name
from gvbsm.stages.selection.starts import CROPS


def check_set(config: Config, data: ImageData) -> None:
    """Check that the images of a set can be made and labeled, and its students trained.

    Args:
        config: The settings of the set: those of the run, or of one of its baselines.
        data: The real pictures.

    Raises:
        ConfigError, DataError: With one clear line.
    """
    images = image_counts(config, data.class_names).total
    for name in config.evaluation.students:
        check_trainable(name, len(data.class_names), data.channels, data.image_size)
    check_batches(config, config.evaluation.students, images, data)
    _check_tables(config)
    _check_extra(config.synthesis)
    check_cells(config.labels.views, data.image_size)
    kept, classes = config.labels.storage.top_k, len(data.class_names)
    if kept is not None and kept >= classes:
        raise ConfigError(
            f"labels.storage.top_k keeps {kept} logits of each view, but there are {classes} "
            "classes; keep fewer, or leave it out"
        )
    if config.synthesis.init == "crops":
        _check_crops(config, data)
    _check_sides(config, data)


def check_batches(config: Config, students: Sequence[str], images: int, data: ImageData) -> None:
    """Check that students can take the smallest batch of so many images.

    Raises:
        ConfigError: Naming the settings, the network and the size.
    """
    evaluation = config.evaluation
    size = batch_size_for(images, evaluation.batch_size, config.labels.full_batch_up_to)
    fewest = fewest_at_once(images, size, evaluation.micro_batch)
    for name in students:
        check_alone(name, "evaluation", fewest, data)


def check_trainable(name: str, classes: int, channels: int, side: int) -> None:
    """Check that a network can be built for pictures of a size, trained on them, and tested.

    Raises:
        ConfigError: Naming the network and the size.
    """
    with config_errors():
        check_takes(name, classes, side, channels)


def check_alone(name: str, section: str, fewest: int, data: ImageData) -> None:
    """Check that a network can be trained on one picture at once, if that is the fewest.

    BatchNorm cannot normalize a single picture where its map has one pixel.

    Args:
        name: The network.
        section: The section of the settings that holds the size of the batches.
        fewest: The fewest pictures that it is called with (`data.loading.fewest_at_once`).
        data: The real pictures.

    Raises:
        ConfigError: Naming the settings, the network and the size.
    """
    if fewest == 1:
        with config_errors(f"{section}.batch_size and micro_batch leave one picture at once: "):
            check_takes(name, len(data.class_names), data.image_size, data.channels, at_once=1)


def empty_network(name: str, data: ImageData) -> nn.Module:
    """Build a network for the data, without values.

    Raises:
        ConfigError: If it cannot be built.
    """
    with config_errors():
        return build_empty(name, len(data.class_names), data.image_size, data.channels)


@contextmanager
def config_errors(where: str = "") -> Iterator[None]:
    """Raise a ValueError of the block as a fault of the settings at `where`."""
    try:
        yield
    except ValueError as error:
        raise ConfigError(f"{where}{error}") from None


def _check_tables(config: Config) -> None:
    """Check that the networks exist that tables of settings name."""
    tables: dict[str, Mapping[str, Any]] = {
        "squeeze.settings_of": config.squeeze.settings_of,
        "labels.logit_normalization_of": config.labels.logit_normalization_of,
        "evaluation.lr_of": config.evaluation.lr_of,
    }
    for key, table in tables.items():
        for name in table:
            with config_errors(f"{key}: "):
                check_known(name)


def _check_extra(config: SynthesisConfig) -> None:
    """Check that the user's loss term takes what it is given."""
    if config.extra is not None:
        called_by_name(config.extra, EXTRA_TAKES)


def _check_crops(config: Config, data: ImageData) -> None:
    """Check that each class has enough crops for its tiles, and that tiles fill an image."""
    across = config.synthesis.crop_tiles
    counts = class_counts(data.train.labels, data.class_names)
    images = image_counts(config, data.class_names).of_class
    for (name, count), needed in zip(counts.items(), images, strict=True):
        if count * CROPS < needed * across**2:
            raise DataError(
                f"synthesis.init=crops: {needed * across**2} crops of class {name!r} are needed "
                f"({spell_count(needed, 'image')} of {spell_count(across**2, 'crop')}), at most "
                f"{CROPS} of a picture, but it has {spell_count(count, 'training picture')}; "
                "lower --ipc, or start from noise"
            )
    if data.image_size % across:
        raise ConfigError(
            f"synthesis.crop_tiles is {across}, which does not divide the pictures' size of "
            f"{data.image_size} pixels; take 1, or another data.image_size"
        )


def _check_sides(config: Config, data: ImageData) -> None:
    """Check that the last stage has the size of the pictures, and that teachers take all sizes."""
    sizes = config.synthesis.stage_sizes
    if sizes and sizes[-1] != data.image_size:
        raise ConfigError(
            f"synthesis.stage_sizes must end with the pictures' side of {data.image_size} pixels, "
            f"got {list(sizes)}"
        )
    for name in matched_teachers(config):
        for side in sorted({*sizes} - {data.image_size}):
            model = empty_network(name, data).eval()
            try:
                with torch.no_grad():
                    model(torch.zeros(1, data.channels, side, side, device="meta"))
            except (RuntimeError, AssertionError, ValueError):
                raise ConfigError(
                    f"synthesis.stage_sizes: {name} takes pictures of {data.image_size} pixels "
                    f"alone, not of {side}; leave the network out of synthesis.backbones, or the "
                    "size out of synthesis.stage_sizes"
                ) from None
