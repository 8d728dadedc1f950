"""The stages in order: skip what is there and matches, make what is missing or out of date."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gvbsm.artifacts import (
    ArtifactError,
    Checkpoint,
    Recipe,
    Statistics,
    is_current,
    load_tensors,
    read_header,
    read_json,
    save,
    write_json,
)
from gvbsm.config import Config
from gvbsm.coreset import select_random
from gvbsm.datasets import ImageData
from gvbsm.distilled import SoftLabels, load_distilled, load_images, load_labels, stream_images
from gvbsm.epochs import settle_epochs
from gvbsm.evaluation import Labeller, train_student
from gvbsm.film import save_film
from gvbsm.labels import generate_labels
from gvbsm.loading import picture_parts
from gvbsm.memory import InParts
from gvbsm.plots import plot_images
from gvbsm.preflight import check_feasible, check_owner, load_data
from gvbsm.recipes import Place, Recipes, baseline_folder
from gvbsm.results import STAGES, collect
from gvbsm.runtime import resolve_runtime
from gvbsm.selection import Selector
from gvbsm.settings import as_config, for_method, selection_of, usual_workdir
from gvbsm.squeeze import squeeze_teacher
from gvbsm.statistics import record_statistics
from gvbsm.synthesis import synthesize
from gvbsm.targets import make_target
from gvbsm.teachers import load_teacher
from gvbsm.tracking import tracking
from gvbsm.workspace import Workspace

log = logging.getLogger("gvbsm")

SHOWN_CLASSES = 20  # rows of the picture


class Run:
    """One work directory, its settings and its data; each stage is a method.

    Args:
        config: The settings.
        workdir: The work directory.
        quiet: No progress bars and no log.
        data: The pictures that `config.data` names, if they have been read.

    Raises:
        ConfigError, DataError, ArtifactError, RunError: If the run could not succeed.
    """

    def __init__(
        self, config: Config, workdir: Path, quiet: bool = False, data: ImageData | None = None
    ) -> None:
        self.workdir = workdir
        self.workspace = Workspace(workdir)
        self.runtime = resolve_runtime(
            config.device, config.precision, config.seed, config.checkpoint_seconds, quiet,
            config.threads,
        )  # fmt: skip
        self.data = data or load_data(config, self.runtime)
        count = config.ipc * len(self.data.class_names)
        labels = settle_epochs(config.labels, count, config.evaluation.batch_size)
        self.config = config = replace(config, labels=labels)
        self.recipes = Recipes(config, self.data.fingerprint, self.runtime.precision)
        self._teachers: dict[str, nn.Module] = {}
        methods = [method for method in config.baselines.methods if method != "full"]
        self._baselines = {method: for_method(config, method) for method in methods}
        check_feasible(config, self.data)
        check_owner(workdir, self.data)

    # Stages.

    def squeeze(self, make: bool = True) -> None:
        """Train the teachers that are missing or out of date."""
        config = self.config
        for backbone in config.squeeze.backbones:
            path = self.workspace.teacher(backbone)
            recipe = self.recipes.teacher(backbone)
            if self.workspace.is_made(path, recipe, "squeeze", make):
                continue
            with self.workspace.timed(f"squeeze/{backbone}"):
                squeeze_teacher(
                    backbone, self.data, config.squeeze, self.runtime, path, recipe,
                    config.data.workers,
                )  # fmt: skip
            top1 = read_header(path)["history"]["top1"][-1]
            log.info("squeeze %s: %.1f %% on the test pictures", backbone, top1)

    def statistics(self, make: bool = True) -> None:
        """Record the statistics that are missing or out of date, in one pass over the data."""
        self.squeeze(make=False)
        config = self.config
        recipes = {name: self.recipes.statistics(name) for name in self._matched_teachers()}
        missing = [
            name
            for name, recipe in recipes.items()
            if not self.workspace.is_made(
                self.workspace.statistics(name), recipe, "statistics", make
            )
        ]
        if not missing:
            return
        teachers = {name: self._teacher(name) for name in missing}
        shared = {"stage": "statistics", "of": [recipes[name] for name in missing]}
        checkpoint = Checkpoint(
            self.workdir / "statistics" / "all.safetensors", shared, config.checkpoint_seconds
        )
        with self.workspace.timed("statistics"):
            recorded = record_statistics(
                teachers, self.data, config.statistics, config.synthesis.views, self.runtime,
                checkpoint, config.data.workers,
            )  # fmt: skip
        for name, found in recorded.items():
            header = {"kind": "statistics", "recipe": recipes[name], "backbone": name}
            save(self.workspace.statistics(name), found.tensors(), header)
        checkpoint.clear()
        log.info("statistics: recorded for %s", ", ".join(recorded))

    def synthesis(self, place: Place | None = None, make: bool = True) -> None:
        """Make the images of a place: optimised, or selected from the real pictures."""
        place = place or Place(self.config, self.workdir)
        recipe = self.recipes.images(place)
        if place.selection is not None:
            if not self.workspace.is_made(place.images, recipe, "synthesis", make):
                with self.workspace.timed(f"synthesis/{place.config.method}"):
                    index = self._real_pictures(place.selection, place.draw)
                    self._keep_real(place.images, place.config.method, recipe, index)
            return
        if place.needs_statistics:
            self.statistics(make=False)
        if self.workspace.is_made(place.images, recipe, "synthesis", make):
            return
        with self.workspace.timed(f"synthesis/{place.config.method}"):
            self._synthesize(place, recipe)

    def _synthesize(self, place: Place, recipe: Recipe) -> None:
        config = place.config
        names = config.synthesis.backbones or config.squeeze.backbones
        targets = []
        for name in names:
            found = None
            if place.needs_statistics:
                found = Statistics.from_tensors(
                    load_tensors(self.workspace.statistics(name), "statistics")[0]
                )
            shape = (self.data.channels, self.data.image_size, self.data.image_size)
            model, n_p = self._teacher(name), config.statistics.n_p
            targets.append(make_target(name, model, found, config.synthesis, n_p, shape))
        starts_real = config.synthesis.init == "real"
        initial = self._real_pictures("random", place.draw) if starts_real else None
        groups = synthesize(
            len(self.data.class_names), config.ipc, initial, targets, config.synthesis,
            config.statistics.n_p, self.data, self.runtime, place.images.parent, recipe,
        )  # fmt: skip
        save_film(place.images.parent, groups.film(), recipe)
        stream_images(
            place.images, config.method, recipe, groups.labels, groups.images(), self.data,
            groups.traces(),
        )  # fmt: skip
        for path in place.images.parent.glob("group-*.safetensors"):
            path.unlink()
        log.info("synthesis %s: %d images", config.method, len(groups.labels))

    def _real_pictures(self, selection: str, draw: int) -> Tensor:
        """Places of the training pictures that are chosen, class by class, int64 (n,)."""
        selector = Selector(
            self.config, self.data, self.runtime, self.workspace, self.recipes, self._teacher
        )
        return selector.select(selection, draw)

    def _keep_real(self, path: Path, method: str, recipe: Recipe, index: Tensor) -> None:
        """Write the training pictures at `index`, int64 (n,), as a set of images."""
        labels, parts = self.data.train.labels[index], picture_parts(self.data, index)
        stream_images(path, method, recipe, labels, parts, self.data)

    def labels(self, place: Place | None = None, make: bool = True) -> None:
        """Label all epochs of a place, unless the teachers label during training."""
        place = place or Place(self.config, self.workdir)
        self.synthesis(place, make=False)
        if not place.stores_labels:
            return
        recipe = self.recipes.labels(place)
        index = place.labels / "index.json"
        if index.is_file() and read_json(index).get("recipe") == recipe:
            return
        if not make:
            raise ArtifactError(self.workspace.not_made(index, "labels"))
        index.unlink(missing_ok=True)  # until all shards are there, there is no label store
        with self.workspace.timed(
            f"labels/{place.directory.name if place.draw else place.config.method}"
        ):
            generate_labels(
                load_tensors(place.images, "images")[0]["images"], len(self.data.class_names),
                self.labelling_teachers(place.config), place.config.labels,
                (self.data.mean, self.data.std), self.runtime, place.labels, recipe,
            )  # fmt: skip
        log.info("labels %s: %d epochs", place.config.method, place.config.labels.epochs)

    def evaluation(self, place: Place | None = None, seed_indices: range | None = None) -> None:
        """Train the students of a place that are missing or out of date."""
        place = place or Place(self.config, self.workdir)
        self.labels(place, make=False)
        config = place.config.evaluation
        for student in config.students:
            for seed_index in seed_indices or range(config.seeds):
                path = place.result(student, seed_index)
                recipe = self.recipes.student(place, student, seed_index)
                if path.is_file() and read_json(path).get("recipe") == recipe:
                    continue
                with self.workspace.timed(
                    f"evaluation/{place.config.method}/{student}/{seed_index}"
                ):
                    self._train(place, student, seed_index, path, recipe)

    def _train(
        self, place: Place, student: str, seed_index: int, path: Path, recipe: Recipe
    ) -> None:
        config = place.config
        tensors, _ = load_tensors(place.images, "images")
        stored: SoftLabels | None = None
        teachers: list[nn.Module] = []
        if place.stores_labels:
            stored = load_labels(place.labels)
        elif config.evaluation.loss != "hard":
            teachers = self.labelling_teachers(config)
        count, size = len(tensors["images"]), self.data.image_size
        labeller = Labeller(count, size, config.labels, self.runtime, stored, teachers)
        history = train_student(
            student, seed_index, tensors["images"], tensors["labels"], labeller, self.data,
            config.evaluation, config.labels, self.runtime, path, recipe, config.data.workers,
        )  # fmt: skip
        log.info(
            "evaluation %s, %s, seed %d: %.1f %%",
            config.method, student, seed_index, history.top1[-1],
        )  # fmt: skip

    # Places and results.

    def places(self) -> Iterator[tuple[str, Place, range]]:
        """Method, place and student seeds of everything that is evaluated, in order."""
        yield (
            self.config.method,
            Place(self.config, self.workdir),
            range(self.config.evaluation.seeds),
        )
        baselines = self.workdir / "baselines"
        for method, config in self._baselines.items():
            draws = self.config.baselines.draws if selection_of(method) == "random" else 1
            for draw in range(min(draws, config.evaluation.seeds)):
                seeds = range(draw, config.evaluation.seeds, draws)
                yield method, Place(config, baselines / baseline_folder(method, draw), draw), seeds

    def all_stages(self) -> dict[str, Any]:
        """Run every stage for the run's method and its baselines; write and return the results."""
        places = list(self.places())
        results: dict[str, Any] = {}
        with self.at_work():
            if self._wants_full() or any(place.needs_teachers for _, place, _ in places):
                self.squeeze()
            if any(place.needs_statistics for _, place, _ in places):
                self.statistics()
            for _, place, seeds in places:
                self.synthesis(place)
                self.labels(place)
                self.evaluation(place, seeds)
                results = self.write_results()
        return results

    def write_results(self) -> dict[str, Any]:
        """Collect what has been evaluated with the present settings into `results.json`."""
        found: dict[tuple[str, str], list[dict[str, Any]]] = {}
        for method, place, seeds in self.places():
            for student in place.config.evaluation.students:
                for seed_index in seeds:
                    path = place.result(student, seed_index)
                    recipe = self.recipes.student(place, student, seed_index)
                    if path.is_file() and (result := read_json(path)).get("recipe") == recipe:
                        found.setdefault((method, student), []).append(result)
        full = {}
        for backbone in self.config.squeeze.backbones:
            path = self.workspace.teacher(backbone)
            if self._wants_full() and is_current(path, self.recipes.teacher(backbone)):
                full[backbone] = read_header(path)["history"]
        pictures = {"train": len(self.data.train), "test": len(self.data.test)}
        seconds = self.workspace.seconds()
        results = collect(self.config, found, full, seconds, pictures, self.runtime)
        write_json(self.workspace.results, results)
        return results

    def draw_picture(self) -> Path:
        """Draw the distilled images, a row a class, beside real ones; return the file."""
        distilled = load_distilled(self.workdir)
        real = load_images(self.sample_real())
        shown = min(SHOWN_CLASSES, len(real.class_names))
        pictures = real.images.view(shown, -1, *real.images.shape[1:])
        columns = min(10, distilled.ipc, pictures.shape[1])
        path = self.workspace.picture
        plot_images(distilled, pictures[:, :columns].flatten(0, 1), columns, path)
        return path

    def sample_real(self) -> Path:
        """Keep real pictures of the first classes, to show and to compare with; return the file.

        As many as there are images, but 10 to 50 a class, and no more than the smallest class has.
        """
        path, recipe = self.workspace.real, self.recipes.real()
        if is_current(path, recipe):
            return path
        labels = self.data.train.labels
        shown = min(SHOWN_CLASSES, len(self.data.class_names))
        smallest = int(torch.bincount(labels)[:shown].min())
        count = min(max(self.config.ipc, 10), 50, smallest)
        index = select_random(labels, shown, count, self.runtime.generator("real"))
        self._keep_real(path, "real", recipe, index)
        return path

    # Small pieces.

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """Have the work directory alone, and tell the trackers what is done, for the block."""
        with self.workspace.locked(), tracking(self.config, self.workdir) as log:
            self.runtime = replace(self.runtime, log=log)
            yield

    def _wants_full(self) -> bool:
        return "full" in self.config.baselines.methods

    def _matched_teachers(self) -> tuple[str, ...]:
        return self.config.synthesis.backbones or self.config.squeeze.backbones

    def labelling_teachers(self, config: Config) -> list[nn.Module]:
        """The networks that label a method's images, on the device; they must have been trained."""
        names = config.labels.backbones or config.squeeze.backbones
        return [InParts(self._teacher(name)) for name in names]

    def _teacher(self, backbone: str) -> nn.Module:
        if backbone not in self._teachers:
            path = self.workspace.teacher(backbone)
            self._teachers[backbone] = load_teacher(path, self.data, self.runtime)
        return self._teachers[backbone]


def run(
    config: Config | str | Mapping[str, Any],
    workdir: str | Path | None = None,
    quiet: bool = False,
) -> dict[str, Any]:
    """Run the whole pipeline and return what `results.json` holds.

    Args:
        config: Settings, the name of a preset, or a nested mapping of settings.
        workdir: Where everything is kept; what is there already and matches is not made again. None
            is `runs/PRESET`, as on the command line, or `runs/DATA` for other settings.
        quiet: No progress bars.

    Raises:
        ConfigError, DataError, ArtifactError, RunError: With one clear line.
    """
    settings = as_config(config)
    if workdir is None:
        workdir = usual_workdir(config if isinstance(config, str) else settings.data.name)
    current = Run(settings, Path(workdir), quiet)
    results = current.all_stages()
    current.draw_picture()
    return results


def run_stage(
    stage: str, config: Config | str | Mapping[str, Any], workdir: str | Path, quiet: bool = False
) -> None:
    """Run one stage of the run's own method; what it builds on must be there.

    Raises:
        ConfigError, DataError, ArtifactError, RunError: With one clear line.
    """
    current = Run(as_config(config), Path(workdir), quiet)
    stages: dict[str, Callable[[], None]] = {name: getattr(current, name) for name in STAGES}
    with current.at_work():
        stages[stage]()
    current.write_results()
