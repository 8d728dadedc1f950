"""Predict the parts of a run from its settings and from the cost of a picture in each work.

Pure arithmetic: nothing is read or timed here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from gvbsm.config import BY_DIFFICULTY, BY_FEATURES, Config, SqueezeConfig
from gvbsm.config.build import squeeze_of
from gvbsm.config.settled import coreset_teacher, corruption_kinds, matched_teachers
from gvbsm.data.class_sizes import image_counts
from gvbsm.data.datasets import ImageData
from gvbsm.data.epochs import batch_size_for
from gvbsm.engine.device import Runtime
from gvbsm.engine.progress.spelling import spell_count
from gvbsm.pipeline.evaluated_sets import EvaluatedSet, needed_teachers
from gvbsm.pipeline.planning.pieces import REPORT, TEST_BATCH, AskedCosts, Pieces
from gvbsm.pipeline.planning.plan import Group, Plan, PlannedPart
from gvbsm.pipeline.planning.process_plan import ProcessPlan
from gvbsm.pipeline.planning.work import Costs, Memory, Work
from gvbsm.pipeline.planning.work_settings import pixel_settings, view_settings
from gvbsm.pipeline.workload import (
    label_pictures,
    online_views,
    stored_views,
    student_views,
    synthesis_pictures,
    teacher_pictures,
)
from gvbsm.stages.labels import new_store
from gvbsm.stages.selection.curriculum import distilled_counts, round_counts
from gvbsm.stages.selection.nearest import POOL
from gvbsm.stages.selection.starts import CROP_PICTURES, CROPS
from gvbsm.stages.statistics import CHUNK
from gvbsm.store.film import CLASSES, FRAMES
from gvbsm.store.image_set import CURRICULUM, FOREIGN, ImageSet
from gvbsm.store.label_codec import row_bytes
from gvbsm.store.recipes import full_training

START = "start-up"  # key of what comes before the first stage
START_SECONDS = 4.0  # until the first stage: libraries, settings and pictures in memory
REPORT_SECONDS = 5.0  # the table, the picture and the report
LOGGED = 110  # iterations of a synthesis whose loss terms are logged, which takes longer
RARE = 0.1  # share of the iterations below which the longer ones are not counted apart
ALONE = ProcessPlan()


def plan_run(
    config: Config,
    sets: Sequence[EvaluatedSet],
    data: ImageData,
    costs: Costs,
    processes: ProcessPlan = ALONE,
    made: Collection[str] = (),
    memory: Memory = lambda _: None,
) -> Plan:
    """Predict a run from its settings.

    Args:
        config: The settings, settled for the number of classes (`data.epochs.settle`).
        sets: What the run evaluates (`evaluated_sets`).
        data: The real pictures; only their number, classes, channels and side are read.
        costs: Seconds a picture of each kind of work.
        processes: The processes of the run.
        made: Keys of the parts that are already there.
        memory: The most memory of each kind of work.
    """
    estimate = _Estimate(config, data, AskedCosts(costs), processes, frozenset(made), memory)
    parts = [
        estimate.part(START, "start-up", "libraries and pictures", lambda: START_SECONDS),
        *estimate.teachers(sets),
        *estimate.corruptions(),
        *estimate.statistics(sets),
        *estimate.sets(sets),
        *estimate.full(),
        estimate.part(REPORT, "report", "table and report", lambda: REPORT_SECONDS),
    ]
    return Plan(tuple(parts), processes.count)


class _Estimate(Pieces):
    """The parts of a run, stage by stage."""

    @property
    def images(self) -> int:
        """Images of each set."""
        return image_counts(self.config, self.data.class_names).total

    # Stages.

    def teachers(self, sets: Sequence[EvaluatedSet]) -> list[PlannedPart]:
        """The teachers, which are dealt to the processes."""
        config = self.config
        parts = []
        for name in needed_teachers(config, [image_set for image_set, _ in sets]):
            squeeze = squeeze_of(config.squeeze, name)
            if teacher_pictures(config, name, self.data):
                cost = partial(self.training_on_pictures, name, squeeze, squeeze.tests)
                what = f"{name}, {spell_count(squeeze.epochs, 'epoch')}"
            else:
                cost, what = partial(self.testing, name), f"{name}, published weights"
            part = self.part(f"squeeze/{name}", "teachers", what, cost)
            parts.append(replace(part, nbytes=self.weight_bytes(name)))
        return self.dealt(parts, len(parts), config.squeeze.parallel)

    def statistics(self, sets: Sequence[EvaluatedSet]) -> list[PlannedPart]:
        """The statistics of all matched teachers, recorded in one pass over the pictures."""
        config = self.config
        if not any(image_set.needs_statistics for image_set, _ in sets):
            return []
        names = matched_teachers(config)
        cost = partial(self._recording, names)
        what = f"of {spell_count(len(names), 'teacher')}"
        return [self.part("statistics", "statistics", what, cost)]

    def _recording(self, names: Sequence[str]) -> float:
        section, train = self.config.statistics, len(self.data.train)
        groups, passes = self.config.synthesis.difficulty_groups, section.passes
        settings = {
            "n_p": section.n_p,
            "by_part": self.config.synthesis.weight_class > 0 or groups,
        }
        picture = self.cost("real views", "", section.batch_size, views=self.config.synthesis.views)
        for name in names:
            picture += self.cost("recording", name, section.batch_size, **settings)
        chunks = passes * math.ceil(train / section.batch_size / CHUNK)
        measured = self._difficulty() if groups else 0.0
        return measured + self.processes.shared(picture * passes * train, chunks)

    def _difficulty(self) -> float:
        """Seconds in which one process measures the difficulty of the pictures."""
        settings = {"n_p": self.config.statistics.n_p, "by_part": True}
        picture = self.cost("test pictures", "", TEST_BATCH)
        for name in matched_teachers(self.config):
            picture += self.cost("recording", name, TEST_BATCH, **settings)
        return picture * len(self.data.train)

    def sets(self, sets: Sequence[EvaluatedSet]) -> Iterator[PlannedPart]:
        """Images, labels and students of all sets.

        One process trains the students of a set before the next set is made. Several train the
        students of all sets side by side.
        """
        folders: set[Path] = set()
        students: list[PlannedPart] = []
        recorded = False
        for image_set, seeds in sets:
            if image_set.directory not in folders:
                records = image_set.needs_forgetting and not recorded
                yield from self._images(image_set, records)
                recorded = recorded or records
            folders.add(image_set.directory)
            yield from self._labels(image_set)
            trained = [
                self._student(image_set, name, seed)
                for name in image_set.config.evaluation.students
                for seed in seeds
            ]
            if self.processes.count == 1:
                yield from trained
            students += trained
        if self.processes.count > 1:
            yield from self.dealt(students, len(students), self.config.evaluation.parallel)

    def full(self) -> list[PlannedPart]:
        """The students that are trained on all real pictures."""
        config = self.config
        if "full" not in config.baselines.methods:
            return []
        squeeze = full_training(config)
        parts = [
            self.part(
                f"full/{name}/{seed}",
                "baselines",
                f"{name} on all pictures",
                partial(self._training_on_all, name, squeeze),
            )
            for name in config.evaluation.students
            for seed in range(config.evaluation.seeds)
        ]
        return self.dealt(parts, len(parts), config.evaluation.parallel)

    def _training_on_all(self, name: str, squeeze: SqueezeConfig) -> float:
        """Seconds of a student on all real pictures, and of its tests."""
        training = self.training_on_pictures(name, squeeze, squeeze.tests)
        return training + self.corrupted_testing(name)

    def corruptions(self) -> list[PlannedPart]:
        """The corrupted copies of test pictures, and the tests of teachers on them."""
        section, names = self.config.evaluation.corruptions, self.config.squeeze.backbones
        kinds = corruption_kinds(section)
        made = [self._copies(kind) for kind in kinds if section.folder is None]
        copies = self.dealt(made, len(kinds), "networks")
        if not kinds or "teacher" not in self.config.baselines.methods:
            return copies
        teachers = [
            self.part(
                f"corruptions/teacher/{name}",
                "baselines",
                f"test of {name} on corrupted pictures",
                partial(self._judging, name),
            )
            for name in names
        ]
        return copies + self.dealt(teachers, len(names), "networks")

    def _copies(self, kind: str) -> PlannedPart:
        section, data = self.config.evaluation.corruptions, self.data
        count = len(section.severities) * self.corrupted_pictures

        def seconds() -> float:
            settings = {"kind": kind, "severities": section.severities}
            return count * self.cost("corrupting", "", 1, **settings)

        what = f"{spell_count(count, 'picture')} of {kind}"
        part = self.part(f"corruptions/{kind}", "students", what, seconds)
        return replace(part, nbytes=count * data.channels * data.image_size**2)

    def _judging(self, name: str) -> float:
        return self.testing(name) + self.corrupted_testing(name)

    # A set.

    def _images(self, image_set: ImageSet, records: bool) -> Iterator[PlannedPart]:
        """The images of a set; the first that needs it records what is forgotten."""
        config, side = image_set.config, self.data.image_size
        count = self.images
        key, group = f"synthesis/{image_set.method}", _group(image_set, self.config, "images")
        picture_bytes = self.data.channels * side**2
        nbytes = count * picture_bytes
        if image_set.selection is None:
            iterations = spell_count(config.synthesis.iterations, "iteration")
            what = f"{spell_count(count, 'image')}, {iterations}"
            cost = partial(self._synthesis, image_set)
            nbytes += min(CLASSES, len(self.data.class_names)) * FRAMES * picture_bytes
        elif image_set.selection == FOREIGN:
            what, cost = spell_count(count, "copied image"), partial(float)
        else:
            what, training = spell_count(count, "real picture"), 0.0
            if records:
                # Within the selection, which is timed as a whole.
                part = self.part("forgetting", group, "training", self.forgetting)
                yield replace(part, wall_seconds=0.0)
                training = part.seconds
            cost = partial(self._selecting, image_set, training)
        if image_set.method != self.config.method:
            what += f" of {image_set.method}"
        yield replace(self.part(key, group, what, cost), nbytes=nbytes)

    def _synthesis(self, image_set: ImageSet) -> float:
        """Seconds of a synthesis and of the choice of its start."""
        pieces = -(-self.images // image_set.config.synthesis.batch_size)
        seconds, alone = self._iterations(image_set), self._start(image_set)
        if image_set.retrieves:  # images and their starts at each border, and pools by each process
            backbone, borders = coreset_teacher(self.config), image_set.config.synthesis.stages - 1
            seconds += self.testing(backbone, 2 * borders * self.images)
            pools = min(len(self.data.train), POOL * len(self.data.class_names))
            alone += self.testing(backbone, pools)
        return alone + self.processes.shared(seconds, pieces)

    def _iterations(self, image_set: ImageSet) -> float:
        """Seconds of the iterations of all images in one process."""
        config, section = image_set.config, image_set.config.synthesis
        most = len(self.data.class_names) if section.loop == "original" else self.images
        batch = min(section.batch_size, most)
        sides = section.stage_sizes or (self.data.image_size,)
        # Round r of R starts after r/R of the iterations.
        share = (section.rounds + 1) / (2 * section.rounds) / len(sides)
        seconds = 0.0
        for (name, _), pictures in synthesis_pictures(image_set, self.images).items():
            for side in sides:
                iteration = partial(Work, "pixels", name, batch, side)
                seconds += pictures * share * self._iteration(config, iteration)
        return seconds

    def _iteration(self, config: Config, work: Callable[..., Work]) -> float:
        """Seconds a picture of an iteration, of which some are logged."""
        settings = pixel_settings(config, -(-self.images // len(self.data.class_names)))
        logged = min(1.0, LOGGED / config.synthesis.iterations)
        shares = {True: logged, False: 1 - logged} if logged >= RARE else {False: 1.0}
        return sum(
            share * self.costs(work((*settings, ("logged", is_logged))))
            for is_logged, share in shares.items()
            if share
        )

    def _start(self, image_set: ImageSet) -> float:
        """Seconds in which the start of the synthesis is chosen."""
        config, train = image_set.config, len(self.data.train)
        section, names = config.synthesis, matched_teachers(config)
        if section.init in BY_FEATURES:
            return self.selection(section.init)
        if section.init in BY_DIFFICULTY:  # measured once in a run, and before that for groups
            own = image_set.method == self.config.method
            return self._difficulty() if own and not section.difficulty_groups else 0.0
        if section.init == "lowest_loss":
            return sum(self.testing(name, train) for name in names)
        if section.init == "crops":
            pictures = min(train, CROP_PICTURES * len(self.data.class_names)) * CROPS
            return sum(self.testing(name, pictures) for name in names)
        return 0.0

    def _selecting(self, image_set: ImageSet, training: float) -> float:
        """Seconds in which real pictures are selected, with those of the training for it."""
        assert image_set.selection is not None
        filters = self._filters() if image_set.selection == CURRICULUM else 0.0
        return training + filters + self.selection(image_set.selection)

    def _filters(self) -> float:
        """Seconds in which the filters of a curriculum are trained on the growing set."""
        section, student = self.config.coreset, self.config.evaluation.students[0]
        counts = image_counts(self.config, self.data.class_names).of_class
        distilled = distilled_counts(counts, section.distilled_share)
        real = [count - own for count, own in zip(counts, distilled, strict=True)]
        labeled = replace(self.config, labels=replace(self.config.labels, store=False))
        training = self._training_on_set(ImageSet(labeled, Path()), student)
        tested, size, seconds = self.testing(student, len(self.data.train)), sum(distilled), 0.0
        for selected in round_counts(real, section.curricula):
            seconds += size / self.images * training + tested
            size += sum(selected)
        return seconds

    def _labels(self, image_set: ImageSet) -> Iterator[PlannedPart]:
        for labeled in image_set.label_stores:
            config, classes = labeled.config, len(self.data.class_names)
            count, side = self.images, self.data.image_size
            store = new_store(Path(), config.labels, count, classes, side, _ANY_RUNTIME, {})
            what = f"{spell_count(len(store.kept), 'epoch')} of {spell_count(count, 'image')}"
            if labeled.method != self.config.method:
                what += f" of {labeled.method}"
            key, group = f"labels/{labeled.label_name}", _group(labeled, self.config, "labels")
            part = self.part(key, group, what, partial(self._storing, config, len(store.shards)))
            row = row_bytes(store.fields, classes, store.storage)
            yield replace(part, nbytes=stored_views(config, count) * row)

    def _storing(self, config: Config, shards: int) -> float:
        """Seconds of a label store of so many shards."""
        count, views = self.images, stored_views(config, self.images)
        batch = batch_size_for(count, config.labels.batch_size, config.labels.full_batch_up_to)
        seconds = views * self.cost("label store", "", batch, **view_settings(config, count))
        return self.processes.shared(seconds + self._labeling(config, views, batch), shards)

    def _labeling(self, config: Config, views: int, batch: int) -> float:
        pictures, stored = label_pictures(config, views), config.labels.store
        together = stored and config.labels.batchnorm == "running"
        return sum(
            count * self.cost("labeling", name, batch, stored=together)
            for (name, _), count in pictures.items()
        )

    def _student(self, image_set: ImageSet, name: str, seed: int) -> PlannedPart:
        key, what = f"evaluation/{image_set.method}/{name}/{seed}", f"{name} on {image_set.method}"
        group = _group(image_set, self.config, "students")
        return self.part(key, group, what, partial(self._training_on_set, image_set, name))

    def _training_on_set(self, image_set: ImageSet, name: str) -> float:
        """Seconds of a student of a set, and of its tests."""
        config, section, count = image_set.config, image_set.config.evaluation, self.images
        views = student_views(config, count)
        batch = batch_size_for(count, section.batch_size, config.labels.full_batch_up_to)
        micro = min(batch, section.micro_batch or batch)
        step = {"optimizer": section.optimizer.name, "averaged": section.ema > 0}
        drawn = view_settings(config, count) | {"stored": image_set.stores_labels}
        seconds = views * self.cost("training", name, micro, **step)
        seconds += views * self.cost("set batches", "", batch, **drawn)
        if not image_set.stores_labels:
            seconds += self._labeling(config, online_views(config, count), batch)
        tests = min(section.tests, config.labels.epochs)
        return seconds + tests * self.testing(name) + self.corrupted_testing(name)


# Labels are laid out in files alike on every device.
_ANY_RUNTIME = Runtime(torch.device("cpu"), "fp32", seed=0)


def _group(image_set: ImageSet, config: Config, group: Group) -> Group:
    return group if image_set.method == config.method else "baselines"
