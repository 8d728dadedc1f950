"""Run the stages in order; each makes its artifacts that are missing or out of date."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

from gvbsm.config import Config
from gvbsm.config.build import squeeze_of
from gvbsm.config.provenance import UNKNOWN, Origin
from gvbsm.config.settled import matched_teachers
from gvbsm.data.class_sizes import image_counts
from gvbsm.data.datasets import ImageData
from gvbsm.data.epochs import settle
from gvbsm.engine.device import Log, Runtime, runtime_for
from gvbsm.engine.forms import Forms, Kind
from gvbsm.engine.processes import join
from gvbsm.engine.trackers import tracking
from gvbsm.files.artifacts import ArtifactError, Recipe, write_json
from gvbsm.files.schema import checked_header
from gvbsm.files.tensors import load_tensors
from gvbsm.pipeline.artifacts import Artifact
from gvbsm.pipeline.context import RunContext
from gvbsm.pipeline.evaluated_sets import (
    EvaluatedSet,
    evaluated_sets,
    needed_teachers,
    read_full,
    read_results,
    read_teachers,
    stored_sizes,
)
from gvbsm.pipeline.forms.choice import choose_forms
from gvbsm.pipeline.planning.plan import Plan
from gvbsm.pipeline.planning.planner import plan_begun
from gvbsm.pipeline.preflight import (
    check_alike,
    check_feasible,
    check_owner,
    check_places,
    check_replicas,
    load_data,
    log_header,
    log_small_classes,
)
from gvbsm.pipeline.results import collect
from gvbsm.pipeline.selected_sets import keep_selected, sample_real
from gvbsm.pipeline.selection import (
    nearest_pictures,
    picture_divisions,
    remove_work_files,
    start_of,
)
from gvbsm.pipeline.teachers import Teachers
from gvbsm.pipeline.training.corruptions import judge_teachers
from gvbsm.pipeline.training.full_data import train_full
from gvbsm.pipeline.training.students import train_students
from gvbsm.pipeline.work_sharing import Teamwork
from gvbsm.pipeline.workload import STAGES
from gvbsm.stages.group_files import has_group_files
from gvbsm.stages.labels import LabelTask, make_labels
from gvbsm.stages.squeeze import squeeze_teacher
from gvbsm.stages.statistics import (
    StatisticsTask,
    record_chunks,
    remove_saved_chunks,
    save_statistics,
)
from gvbsm.stages.supervised import PictureTraining
from gvbsm.stages.synthesis import synthesize_set
from gvbsm.stages.synthesis_task import SynthesisTask
from gvbsm.store.distilled import images_header, is_whole, load_labels, remove_labels
from gvbsm.store.film import save_film
from gvbsm.store.image_set import ImageSet
from gvbsm.store.recipes import Recipes, seed_of
from gvbsm.store.statistics_codec import load_statistics
from gvbsm.store.workdir import Workspace, await_files

log = logging.getLogger("gvbsm")


class Run:
    """One work directory, its settings and its data; each stage is a method.

    Args:
        config: The settings.
        workdir: The work directory.
        quiet: No progress bars and no log.
        data: The pictures that `config.data` names; None reads them.
        origin: Where the settings came from, kept with the results.
        stages: The stages that will be called: forms are raced for these alone.

    Raises:
        ConfigError, DataError, ArtifactError, RunError: If the run could not succeed.
    """

    def __init__(
        self,
        config: Config,
        workdir: Path,
        quiet: bool = False,
        data: ImageData | None = None,
        origin: Origin = UNKNOWN,
        stages: Collection[str] = STAGES,
    ) -> None:
        self.workdir, self.origin = workdir, origin
        self.processes = processes = join()
        self.workspace = Workspace(workdir, processes.rank)
        self.team = Teamwork(self.workspace, processes)
        with processes.checking():
            self.runtime = runtime_for(config, quiet, processes)
            self.data = data or load_data(config, self.runtime)
            self.config = config = settle(config, self.data.class_names)
            self.counts = image_counts(config, self.data.class_names)
            check_feasible(config, self.data)
            log_small_classes(config, self.data, self.runtime)
            check_replicas(config, self.data, self.runtime)
            if processes.leads:
                check_places(config)
                check_owner(workdir, self.data)
        check_alike(config, self.data, self.runtime)
        self.team.check_replaceable(self.workspace.results)
        forms = Forms(processes.same(lambda: self._choose_forms(stages)))
        self.runtime = replace(self.runtime, forms=forms)
        self.recipes = Recipes(config, self.data.fingerprint, self.runtime.precision, forms)
        self.teachers = Teachers(self.workspace, self.data, self.runtime, self.recipes)

    def _choose_forms(self, stages: Collection[str]) -> dict[str, dict[Kind, str]]:
        path, sets = self.workdir / "forms.json", self.evaluated_sets
        with self.workspace.locked():  # a run that begins meanwhile would choose other forms
            return choose_forms(self.config, sets, self.data, self.runtime, path, stages)

    # Stages.

    def squeeze(self, make: bool = True, names: Sequence[str] | None = None) -> None:
        """Train the teachers that are missing or out of date: those of `names`, or all."""
        config, artifacts = self.config, self.context.artifacts
        backbones = config.squeeze.backbones if names is None else names

        def is_made(teacher: Artifact[str]) -> bool:
            return self.workspace.is_made(teacher.path, teacher.recipe, "squeeze", make)

        def log_accuracy(teacher: Artifact[str]) -> None:
            top1 = checked_header(teacher.path)["history"]["top1"][-1]
            log.info("squeeze %s: %.1f %% on the test pictures", teacher.of, top1)

        missing = self.team.missing(map(artifacts.teacher, backbones), is_made)
        for teacher, team in self.team.deal(
            missing, len(backbones), config.squeeze.parallel, log_accuracy, "teacher"
        ):
            with self.team.timed(teacher.clock, team):
                workers = self.runtime.workers(config.data.workers)
                training = squeeze_of(config.squeeze, teacher.of)
                task = PictureTraining("squeeze", teacher.of, training, workers)
                runtime = self.runtime_of("squeeze")
                if not training.pretrained:
                    runtime = runtime.of(teacher.of, "training")
                squeeze_teacher(task, self.data, runtime, teacher.path, teacher.recipe, team)

    def statistics(self, make: bool = True) -> None:
        """Record the statistics that are missing or out of date, all in one pass over the data."""
        config, names = self.config, matched_teachers(self.config)
        self.squeeze(make=False, names=names)

        def is_made(made: Artifact[str]) -> bool:
            return self.workspace.is_made(made.path, made.recipe, "statistics", make)

        every = [*map(self.context.artifacts.statistics, names)]
        missing = self.team.missing(every, is_made)
        if not missing:
            if make and self.processes.leads:
                remove_saved_chunks(self.workdir / "statistics", [item.recipe for item in every])
            return
        teachers = {item.of: self.teachers.matched(item.of) for item in missing}
        shared = {"stage": "statistics", "of": [item.recipe for item in missing]}
        with self.team.timed("statistics", self.processes):
            parts = picture_divisions(self.context)
            task = StatisticsTask(
                config.statistics,
                config.synthesis.views,
                self.workdir / "statistics",
                shared,
                self.runtime.workers(config.data.workers),
                parts,
            )
            chunks = record_chunks(teachers, self.data, task, self.runtime_of("squeeze"))
            self.processes.barrier()
            if self.processes.leads:
                await_files(chunks)
                files = {item.of: (item.path, item.recipe) for item in missing}
                sizes = {"class": len(self.data.class_names), "group": config.ipc}
                save_statistics(chunks, files, sizes)
        self.team.meet([item.path for item in missing])
        log.info("statistics: recorded for %s", ", ".join(teachers))

    def synthesis(self, image_set: ImageSet | None = None, make: bool = True) -> None:
        """Synthesize the images of a set, or select them from the real pictures."""
        image_set = image_set or ImageSet(self.config, self.workdir)
        recipe = self.recipes.images(image_set)
        if image_set.needs_statistics:
            self.statistics(make=False)

        def is_made() -> bool:
            made = self.workspace.is_made(image_set.images, recipe, "synthesis", make)
            if made and make and has_group_files(image_set.images, recipe):
                remove_work_files(image_set.images)  # a run was killed before it did
            return made

        if self.processes.same(is_made):
            return
        with self.team.timed(f"synthesis/{image_set.method}", self.processes):
            if image_set.selection is None:
                self._synthesize(image_set, recipe)
            elif self.processes.leads:
                keep_selected(self.context, image_set, recipe)
        self.team.meet([image_set.images])

    def _synthesize(self, image_set: ImageSet, recipe: Recipe) -> None:
        config = image_set.config
        names = matched_teachers(config)
        recorded = names if image_set.needs_statistics else ()
        statistics = {name: load_statistics(self.workspace.statistics(name)) for name in recorded}
        n_p = config.statistics.n_p
        teachers = self.teachers.targets(names, statistics, config.synthesis, n_p)
        runtime = self.runtime_of("synthesis", config)
        context = replace(self.context, config=config, runtime=runtime)
        initial, nearest = start_of(context, image_set), nearest_pictures(context, image_set)
        task = SynthesisTask(
            config.synthesis, teachers, statistics, self.data, self.counts, n_p, initial, nearest
        )
        header = images_header(config.method, recipe, self.data)
        groups = synthesize_set(task, runtime, image_set.images, header)
        if not self.processes.leads:
            return
        await_files(groups.paths)
        save_film(image_set.images.parent, groups.film(), recipe)
        groups.finish()
        remove_work_files(image_set.images)
        log.info("synthesis %s: %d images", config.method, len(groups.labels))

    def labels(
        self, image_set: ImageSet | None = None, make: bool = True, convert_only: bool = False
    ) -> None:
        """Make the soft labels of a set's students, unless the teachers label during training."""
        image_set = image_set or ImageSet(self.config, self.workdir)
        self.synthesis(image_set, make=False)
        for labeled_set in image_set.label_stores:
            self._label(labeled_set, make, convert_only)
        if make and self.processes.leads:
            for folder in filter(remove_labels, image_set.unnamed_label_folders):
                log.info("labels %s: removed %s, which no setting names", image_set.method, folder)

    def _label(self, image_set: ImageSet, make: bool, convert_only: bool) -> None:
        recipe, index = self.recipes.labels(image_set), image_set.labels / "index.json"

        def is_made() -> bool:
            complete = is_whole(image_set.labels, recipe)
            if not complete and not make:
                raise ArtifactError(self.workspace.not_made(index, "labels"))
            if complete and make:
                # A conversion may have been killed before it removed the old files.
                load_labels(image_set.labels).tidy()
            return complete

        if self.processes.same(is_made):
            return
        with self.team.timed(f"labels/{image_set.label_name}", self.processes):
            images = load_tensors(image_set.images, "images")[0]["images"]
            classes, normalization = len(self.data.class_names), self.data.normalization
            make_labels(
                LabelTask(images, classes, image_set.config.labels, normalization),
                lambda: self.teachers.for_labels(image_set.config),
                self.runtime_of("labels", image_set.config),
                image_set.labels,
                recipe,
                image_set.label_name,
                convert_only,
            )
        self.team.meet([index])

    def evaluation(
        self, image_set: ImageSet | None = None, seed_indices: range | None = None
    ) -> None:
        """Train the students of a set that are missing or out of date."""
        image_set = image_set or ImageSet(self.config, self.workdir)
        seeds = seed_indices or range(image_set.config.evaluation.seeds)
        self._evaluate([EvaluatedSet(image_set, seeds)])

    def _evaluate(self, sets: Sequence[EvaluatedSet]) -> None:
        """Train the students of several sets; several processes train them side by side."""
        for image_set, _ in sets:
            self.labels(image_set, make=False)
        train_students(sets, self.context)

    # All together.

    @cached_property
    def evaluated_sets(self) -> tuple[EvaluatedSet, ...]:
        """The sets that the run evaluates, in order.

        Raises:
            ConfigError: If the settings of a baseline are faulty.
        """
        return tuple(evaluated_sets(self.config, self.workdir))

    @cached_property
    def plan(self) -> Plan | None:
        """What is left to do, and its cost; None if that is little, or if this is not process 0."""
        sets, recipes, workspace = self.evaluated_sets, self.recipes, self.workspace
        return plan_begun(self.config, sets, self.data, self.runtime, recipes, workspace)

    def all_stages(
        self, use: Callable[[Mapping[str, Any]], object] | None = None
    ) -> dict[str, Any]:
        """Run every stage for the run's method and its baselines; write and return the results.

        Args:
            use: Draws or writes something from the results in the work directory, while no other
                run is at work there; process 0 calls it.
        """
        sets = self.evaluated_sets
        image_sets = [image_set for image_set, _ in sets]
        # One set after the other; several processes train the students of all sets side by side.
        steps = [[evaluated] for evaluated in sets] if self.processes.world == 1 else [sets]
        results: dict[str, Any] = {}
        with self.at_work():
            if self.plan is not None:
                log.info("plan: %s", self.plan.summary())
                self.team.follow(self.plan.wall_seconds)
            self.squeeze(names=needed_teachers(self.config, image_sets))
            judge_teachers(self.context)
            if any(image_set.needs_statistics for image_set in image_sets):
                self.statistics()
            for step in steps:
                for image_set, _ in step:
                    self.synthesis(image_set)
                    self.labels(image_set)
                if not results:  # results of earlier images must not stand beside these
                    results = self.write_results()
                self._evaluate(step)
                results = self.write_results()
            if "full" in self.config.baselines.methods:
                train_full(self.context)
                results = self.write_results()
            if use is not None and self.processes.leads:
                use(results)
        return results

    def write_results(self) -> dict[str, Any]:
        """Write the results of the students of the present settings to `results.json`."""
        return self.processes.same(self._write_results)

    def _write_results(self) -> dict[str, Any]:
        students = read_results(self.evaluated_sets, self.recipes)
        full = read_full(self.config, self.recipes, self.workspace)
        teachers = read_teachers(self.config, self.recipes, self.workspace)
        pictures = {"train": len(self.data.train), "test": len(self.data.test)}
        seconds = self.workspace.seconds()
        results = collect(self.config, students, full, teachers, seconds, pictures, self.runtime)
        sizes = stored_sizes(self.evaluated_sets)
        for row in results["rows"]:
            row |= sizes.get((row["method"], row["student"]), {})
        results |= {**self.data.record(), "origin": self.origin.as_json()}
        write_json(self.workspace.results, results)
        return results

    def real_pictures(self) -> Path:
        """Write a sample of the real pictures, to show beside the images; return its file."""
        return sample_real(self.context)

    @property
    def context(self) -> RunContext:
        """What its stages work with."""
        return RunContext(
            self.config, self.data, self.runtime, self.recipes, self.teachers, self.team
        )

    def runtime_of(self, section: str, config: Config | None = None) -> Runtime:
        """The runtime with the seed of a section of a set's settings; None takes the run's."""
        return replace(self.runtime, seed=seed_of(config or self.config, section))

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """Lock the work directory and open the trackers."""
        with self.team.begun(), self._tracking() as tracker:
            log_header(self.config, self.runtime, self.origin, self.workdir)
            self.runtime = replace(self.runtime, log=tracker)
            yield

    def _tracking(self) -> AbstractContextManager[Log | None]:
        return tracking(self.config, self.workdir) if self.processes.leads else nullcontext()
