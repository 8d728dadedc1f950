"""Checks that run before any long work: networks, data, settings and the work directory."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch

from gvbsm._version import __version__
from gvbsm.backbones import code_of
from gvbsm.backbones.features import check_features
from gvbsm.backbones.pretrained import Pretrained
from gvbsm.config import BY_FEATURES, Config, ConfigError, Rival, SqueezeConfig
from gvbsm.config.build import for_method, selection_of, squeeze_of, to_dict
from gvbsm.config.fields import settings_in
from gvbsm.config.keys import flatten
from gvbsm.config.paths import user_path
from gvbsm.config.provenance import Origin
from gvbsm.config.settled import coreset_teacher, matched_teachers
from gvbsm.data.class_sizes import (
    class_counts,
    few_pictures,
    image_counts,
    uneven_classes,
)
from gvbsm.data.corrupted.copies import check_corruptions, folder_content
from gvbsm.data.datasets import ImageData, read_dataset
from gvbsm.data.loading import fewest_at_once
from gvbsm.data.pictures import DataError
from gvbsm.data.sources.memory import InMemory
from gvbsm.engine.device import Runtime
from gvbsm.engine.progress.spelling import spell_count
from gvbsm.engine.replicas import check_replicable
from gvbsm.engine.trackers import check_trackers
from gvbsm.files.artifacts import ArtifactError, read_json, write_json
from gvbsm.files.network_names import file_stem
from gvbsm.files.plugins import admit
from gvbsm.pipeline.checks.sets import (
    check_alone,
    check_set,
    check_trainable,
    config_errors,
    empty_network,
)
from gvbsm.pipeline.selected_sets import check_curriculum
from gvbsm.pipeline.selection import check_difficulty
from gvbsm.store.recipes import full_training
from gvbsm.store.workdir import Workspace

log = logging.getLogger("gvbsm")

SHOWN_CHANGES = 6  # settings that differ from the preset


def load_data(config: Config, runtime: Runtime, pictures: InMemory | None = None) -> ImageData:
    """Read the real pictures of the settings, and log what was read.

    Args:
        config: The settings.
        runtime: Shows the progress.
        pictures: Pictures from Python code, in place of those that the settings name.
    """
    if config.data.root == "":
        raise ConfigError("--data.root is empty; name a folder or file, or leave it out")
    data = read_dataset(
        config.data,
        progress=lambda items: runtime.track(items, "reading pictures"),
        pictures=pictures,
    )
    if data.reading is not None and runtime.processes.leads:
        channels = spell_count(data.channels, "channel")
        log.info("data %s: %s, %d px", data.name, channels, data.image_size)
        for line in data.reading.lines():
            log.info("  %s", line)
    return data


def log_header(config: Config, runtime: Runtime, origin: Origin, workdir: Path) -> None:
    """Log with what a run computes, where its settings come from, and where it writes."""
    if not runtime.processes.leads:
        return
    threads, world = torch.get_num_threads(), runtime.processes.world
    device = f"device {runtime.device}"
    if runtime.device.type == "cuda":
        device += f" ({torch.cuda.get_device_name(runtime.device)})"
    cores = f"{world} processes of " * (world > 1) + spell_count(threads, "thread")
    log.info("%s, %s, %s", device, cores, runtime.precisions)
    names, more = ", ".join(origin.changed[:SHOWN_CHANGES]), len(origin.changed) - SHOWN_CHANGES
    changed = f", changed: {names}" * bool(names) + f" and {more} more" * (more > 0)
    log.info("settings: %s%s", origin.preset or f"data {config.data.name}", changed)
    log.info("work directory: %s (gvbsm %s)", workdir, __version__)


def log_small_classes(config: Config, data: ImageData, runtime: Runtime) -> None:
    """Log whether classes have fewer training pictures than images, and if they are uneven."""
    counts = class_counts(data.train.labels, data.class_names)
    images = image_counts(config, data.class_names).of_class
    sentences = [few_pictures(counts, images), uneven_classes(counts)]
    for sentence in filter(None, sentences if runtime.processes.leads else ()):
        log.warning("%s", sentence)


def _networks(config: Config) -> list[str]:
    """The teachers and students of a run."""
    students = (*config.evaluation.students, *(config.continual.students or ()))
    return list(dict.fromkeys((*config.squeeze.backbones, *students)))


def _code_names(config: Config) -> list[str]:
    """The networks and the loss term of a run, whose names may be those of the user's code."""
    extra = config.synthesis.extra
    return [*_networks(config), *([] if extra is None else [extra])]


def check_feasible(config: Config, data: ImageData) -> None:
    """Check that every stage can run: networks, weights, settings of them, and pictures.

    The user's own code is loaded. Networks are called once on the meta device, which takes no
    memory.

    Raises:
        ConfigError, DataError: With one clear line.
    """
    admit(_code_names(config))
    _check_file_names(config)
    check_trackers(config.trackers)
    for name in config.squeeze.backbones:
        check_trainable(name, len(data.class_names), data.channels, data.image_size)
        _check_weights(name, squeeze_of(config.squeeze, name), data)
        _check_batches(name, squeeze_of(config.squeeze, name), data)
    check_corruptions(config.evaluation.corruptions, data)
    methods = (config.method, *config.baselines.methods)
    _check_pictures(config, methods, "baselines.methods", data)
    _check_features(config, methods, data)
    check_set(config, data)
    for name in config.evaluation.students if "full" in config.baselines.methods else ():
        _check_batches(name, full_training(config), data)
    check_difficulty(config, data)
    check_curriculum(config, config.baselines.methods, data)
    _check_overrides(config, data)


def _check_overrides(config: Config, data: ImageData) -> None:
    """Check the settings of single baselines, for those that are named."""
    named = {*config.baselines.methods, *config.continual.methods}
    if config.baselines.sets:
        named.add("random-soft")  # whose settings the students of these sets have
    for name in config.baselines.overrides:
        if name not in named:
            continue
        with config_errors(f"baselines.overrides.{name}: "):
            rival = for_method(config, cast(Rival, name))
            admit(_code_names(rival))
            _check_pictures(rival, (), "baselines.methods", data)
            _check_features(rival, (), data)
            check_set(rival, data)
            # All sets share the order of the pictures, which the run's teachers measure.
            measured = replace(rival.synthesis, backbones=matched_teachers(config))
            check_difficulty(replace(rival, synthesis=measured), data)


def check_replicas(config: Config, data: ImageData, runtime: Runtime) -> None:
    """Check that several processes can train together the networks that they share.

    Raises:
        ConfigError: Naming the network, or settings that exclude each other.
    """
    teachers, students = config.squeeze.backbones, config.evaluation.students
    students += config.continual.students or ()
    for section, names in (("squeeze", teachers), ("evaluation", students)):
        if getattr(config, section).parallel == "networks" or runtime.processes.world == 1:
            continue
        cuts = {section: {getattr(config, section).micro_batch}}
        if section == "squeeze":
            cuts[section] = {squeeze_of(config.squeeze, name).micro_batch for name in names}
        elif "full" in config.baselines.methods:
            cuts["squeeze"] = {full_training(config).micro_batch}
        for cutting, sizes in cuts.items():
            if sizes != {None}:
                raise ConfigError(
                    f"{cutting}.micro_batch and {section}.parallel=pictures both cut a batch; "
                    "with several processes leave micro_batch out"
                )
        for name in names:
            with config_errors(f"{section}.parallel=pictures: {name}: "):
                check_replicable(empty_network(name, data), runtime.device)


def check_continual(config: Config, data: ImageData) -> None:
    """Check that the class-incremental protocol can run, on top of `check_feasible`.

    Raises:
        ConfigError, DataError: With one clear line.
    """
    section, classes = config.continual, len(data.class_names)
    if config.method != "gvbsm" and section.methods:
        raise ConfigError(
            f"method={config.method} is itself a baseline: set continual.methods to []"
        )
    if section.steps > classes:
        raise ConfigError(
            f"continual.steps is {section.steps}, but there are {classes} classes; "
            f"take at most {classes} steps"
        )
    first = math.ceil(classes / section.steps)
    fewest = sorted(image_counts(config, data.class_names).of_class)[:first]
    if sum(fewest) < 2:
        raise ConfigError(
            "the first step of continual has a single image; take fewer --continual.steps or a "
            "larger --ipc"
        )
    tested = torch.bincount(data.test.labels, minlength=classes)
    if not bool(tested.all()):
        raise DataError(
            f"class {data.class_names[int(tested.argmin())]!r} has no test pictures, and each step "
            "of continual is tested on those of its classes; add some"
        )
    for name in section.students or ():
        check_trainable(name, first, data.channels, data.image_size)
    _check_pictures(config, section.methods, "continual.methods", data)
    _check_features(config, section.methods, data)
    check_curriculum(config, section.methods, data)


def _check_weights(name: str, config: SqueezeConfig, data: ImageData) -> None:
    """Check that pre-trained weights are published, or that the user's file of them loads."""
    if not config.pretrained:
        return
    with config_errors():
        shape = (data.image_size, data.channels)
        Pretrained.of(name, config, data.class_names, *shape).check()


def _check_batches(name: str, config: SqueezeConfig, data: ImageData) -> None:
    """Check that a network that is trained on the real pictures can take the smallest batch."""
    if not config.pretrained:
        fewest = fewest_at_once(len(data.train), config.batch_size, config.micro_batch)
        check_alone(name, "squeeze", fewest, data)


def _check_file_names(config: Config) -> None:
    """Check that no two networks share the name of their files."""
    files: dict[str, str] = {}
    for name in _networks(config):
        if (other := files.setdefault(file_stem(name), name)) != name:
            raise ConfigError(f"{other} and {name} have one file name; rename one")


def _check_features(config: Config, methods: Sequence[str], data: ImageData) -> None:
    """Check that the teacher whose features are compared has one vector of them an image."""
    chosen = {*map(selection_of, methods), config.synthesis.init}
    if not {*BY_FEATURES} & chosen and config.synthesis.residual_source != "nearest":
        return
    name, shape = coreset_teacher(config), (data.channels, data.image_size, data.image_size)
    with config_errors(f"coreset.backbone {name}: "):
        check_features(empty_network(name, data).eval(), shape)


def _check_pictures(config: Config, methods: Sequence[str], key: str, data: ImageData) -> None:
    """Check that each class has enough real pictures for these methods and the start."""
    counts = class_counts(data.train.labels, data.class_names)
    name = min(counts, key=counts.__getitem__)
    fewest = counts[name]
    if config.synthesis.weight_class and not fewest:
        raise DataError(
            f"class {name!r} has no training pictures, and synthesis.weight_class needs the "
            "statistics of each class; set it to 0"
        )
    start = config.synthesis.init
    takers = [method for method in methods if selection_of(method)]
    takers += [f"synthesis.init={start}"] if start != "noise" else []
    if takers and not fewest:
        raise DataError(
            f"{', '.join(takers)}: a training picture of each class is needed, but {name!r} has "
            f"none; add some, or leave out methods of --{key} and start from noise"
        )


def check_places(config: Config) -> None:
    """Check that sets of other methods are there; a name of the Hub is looked up when it is read.

    Raises:
        ConfigError: Naming the first that is not.
    """
    for name, place in config.baselines.sets.items():
        path = user_path(place)
        is_path = place.startswith(("/", ".", "~")) or path.parent.is_dir()
        if is_path and not path.exists():
            raise ConfigError(
                f"baselines.sets {name}: there is no {path}; name class folders, an .npz, a work "
                "directory or an export"
            )


def check_owner(workdir: Path, data: ImageData) -> None:
    """Check that a work directory is new or belongs to this data set.

    So a wrong --workdir cannot overwrite the artifacts of another data set.

    Raises:
        ArtifactError: If it belongs to other data, cannot be written to, or another run is at work
            there.
    """
    existing = next(path for path in (workdir, *workdir.absolute().parents) if path.exists())
    if not existing.is_dir():
        raise ArtifactError(f"{existing} is a file; give a folder as --workdir")
    if not os.access(existing, os.W_OK):
        raise ArtifactError(f"{existing} cannot be written to; give another --workdir")
    path, workspace = workdir / "data.json", Workspace(workdir)
    with workspace.locked():
        if not path.is_file():
            # An export of a stopped run reads it here: there are no results with its settings.
            crop = {} if data.test_crop == 1 else {"test_crop": data.test_crop}
            write_json(path, {**_identity(data), **crop})
            return
    _check_same(workdir, read_json(path), data)


def check_same_pictures(config: Config, workdir: Path, pictures: InMemory) -> None:
    """Check that the run in a work directory, if there is one, is of these pictures from Python.

    They are read once for this, at the side of that run.

    Raises:
        ArtifactError: If it is of others.
        DataError: If they are not as described.
    """
    path = workdir / "data.json"
    if not path.is_file():
        return
    recorded = read_json(path)
    side = config.data.image_size or recorded.get("image_size")
    data = read_dataset(replace(config.data, image_size=side), pictures=pictures)
    _check_same(workdir, recorded, data)


def _identity(data: ImageData) -> dict[str, Any]:
    """What a work directory records of its data."""
    return {
        "name": data.name,
        "fingerprint": data.fingerprint,
        "classes": len(data.class_names),
        "image_size": data.image_size,
    }


def _check_same(workdir: Path, recorded: dict[str, Any], data: ImageData) -> None:
    recorded.pop("test_crop", None)  # the fingerprint covers it
    Workspace(workdir).check_same_data(recorded, _identity(data))


def check_alike(config: Config, data: ImageData, runtime: Runtime) -> None:
    """Check that all processes were started with the same settings, pictures and versions.

    Settings of a machine may differ: the path of the pictures, how they are read, threads.

    Raises:
        ProcessError: Naming what differs.
    """
    shared = {
        name for name, field, _ in settings_in(config) if not field.metadata.get("of_a_machine")
    }
    flat = flatten(to_dict(config))
    settings = {key: value for key, value in flat.items() if key in shared}
    made_with = {"device": runtime.device.type, "precision": runtime.precision}
    versions = {"gvbsm": __version__, "torch": torch.__version__}
    code = {f"code of {name}": code for name in _code_names(config) if (code := code_of(name))}
    corrupted = folder_content(config.evaluation.corruptions, config.seed)
    pictures = {"pictures": data.fingerprint, "corrupted pictures": corrupted}
    runtime.processes.agree({**settings, **made_with, **versions, **code, **pictures})
