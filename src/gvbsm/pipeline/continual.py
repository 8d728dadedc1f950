"""Class-incremental learning on the sets of a work directory (appendix F, figure 10).

The protocol is that of DM (section 4.3; VICO-UoE/DatasetCondensation@cebb844, CL_DM.py), after
GDumb. The classes arrive in steps, in a random order. The memory holds the images of all classes
seen so far. After each step a student is trained from scratch on the memory alone, and tested on
the real test pictures of these classes. The average incremental accuracy is the mean over all
steps.

Differences from DM:

- Labels are soft. The teachers label each batch of the memory during training: a stored label may
  belong to a mix of an image with one of a class that has not arrived. Each teacher's logits are
  cut to the classes seen before the ensemble, and a student has one output for each of them. DM's
  students have an output for every class from the start. With hard labels both are the same, as an
  output that is never a target is soon never the largest. Soft labels would train such an output
  with the teachers' knowledge of classes that have not arrived.
- Each order of the classes has one student, and a selection of its own if the set is random real
  pictures. The deviation over orders thus includes that over students and selections. DM has five
  orders of three students.
- If the classes do not divide evenly, the first steps have one class more; DM drops them.

Limit: the teachers are trained on all classes from the start, so that images and soft labels made
with them depend on all classes. This is so in the paper, too, where the whole distilled set is made
before the protocol begins. DM distills each class by itself. Of the sets here, only random pictures
with hard labels do not depend on later classes.

`DIR/continual/METHOD-STUDENT-ORDER-CLASSES.json` is a result of `evaluation` with the number of
classes seen in its name. `DIR/continual.json` holds:

    classes      classes seen after each step: [2, 4, 6, 8, 10]
    class_names  names of all classes
    orders       one list an order: indices of the classes as they arrive
    rows         one a method and student:
        method   gvbsm, random-soft, sre2l, ...
        student  name of the architecture
        ipc      images per class
        ipc_of   images of the classes that have another number, by name, if there are any
        steps    for each step the top-1 accuracy in percent on the test pictures of the classes
                 seen, {"mean", "std", "values"}: one value an order
        average  the average incremental accuracy in percent, {"mean", "std", "values"} likewise
        seconds  time of the row's trainings
    note         the limit above, in one sentence
    config       all settings
    origin       the preset, and the settings that the command line changed
    versions     software, device and precision
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from torch import Generator, Tensor, nn

from gvbsm.config import Config, LabelStorageConfig
from gvbsm.config.build import as_config, for_method, selection_of, to_dict
from gvbsm.config.paths import user_path
from gvbsm.config.provenance import Origin, origin_of
from gvbsm.config.settled import ipc_entries
from gvbsm.data.datasets import ImageData
from gvbsm.data.epochs import settle_epochs
from gvbsm.data.pictures import Split
from gvbsm.engine.processes import Processes
from gvbsm.engine.torch_defaults import torch_defaults
from gvbsm.files.artifacts import read_json, write_json
from gvbsm.files.network_names import file_stem
from gvbsm.files.tensors import load_tensors
from gvbsm.pipeline.artifacts import Artifact
from gvbsm.pipeline.checks.sets import check_batches
from gvbsm.pipeline.preflight import check_continual
from gvbsm.pipeline.results import spread, sum_seconds, versions
from gvbsm.pipeline.run import Run
from gvbsm.stages.evaluation import train_student
from gvbsm.stages.judge import Judge
from gvbsm.store.image_set import ImageSet, image_folder

log = logging.getLogger("gvbsm")

Training = Artifact[tuple[ImageSet, int, int]]
"""A set with a student's settings, the number of an order, and the classes seen."""

NOTE = (
    "The teachers, and so images and soft labels made with them, know all classes from the start; "
    "random pictures with hard labels alone are free of this."
)


def class_order(classes: int, generator: Generator) -> list[int]:
    """Draw the order in which the classes arrive."""
    return torch.randperm(classes, generator=generator).tolist()


def classes_seen(classes: int, steps: int) -> list[int]:
    """The number of classes seen after each step.

    Args:
        classes: Number of classes.
        steps: Steps, at most one a class; the first `classes % steps` have one class more.
    """
    size, over = divmod(classes, steps)
    return [step * size + min(step, over) for step in range(1, steps + 1)]


def keep_classes(split: Split, seen: Sequence[int], classes: int) -> Split:
    """Keep the pictures of some classes, labeled with the position of their class in `seen`.

    Args:
        split: Pictures of all classes.
        seen: Classes that are kept, in the order of the new labels.
        classes: Number of classes of `split`.
    """
    position = torch.full((classes,), -1)
    position[torch.tensor(seen)] = torch.arange(len(seen))
    labels = position[split.labels]
    kept = (labels >= 0).nonzero().squeeze(1)
    return replace(split.select(kept), labels=labels[kept])


def memory_data(data: ImageData, images: Tensor, labels: Tensor, seen: Sequence[int]) -> ImageData:
    """The data of a student: the images of the classes seen, and their real test pictures.

    Args:
        data: The real data of all classes; its mean and deviation are kept for the teachers.
        images: A set of images of all classes, uint8 (images, channels, size, size).
        labels: Their classes, int64 (images,).
        seen: The classes seen so far, in the order in which they arrived.
    """
    classes = len(data.class_names)
    return replace(
        data,
        class_names=tuple(data.class_names[label] for label in seen),
        train=keep_classes(Split(labels, images), seen, classes),
        test=keep_classes(data.test, seen, classes),
    )


class SeenOutputs(nn.Module):
    """A teacher whose logits are cut to the classes seen, in their order.

    Args:
        teacher: A network with an output for each class.
        seen: The classes seen so far, int64 (seen,), on the teacher's device.
    """

    def __init__(self, teacher: nn.Module, seen: Tensor) -> None:
        super().__init__()
        self._teacher, self._seen = teacher, seen

    def forward(self, pictures: Tensor) -> Tensor:
        """Logits (batch, seen)."""
        logits: Tensor = self._teacher(pictures)
        return logits[:, self._seen]


def at_step(config: Config, images: int) -> Config:
    """A method's settings for a memory of so many images, labeled during training."""
    size = config.evaluation.batch_size
    least = config.continual.min_steps
    labels = replace(
        config.labels,
        epochs=config.continual.epochs or config.labels.epochs,
        min_steps=config.labels.min_steps if least is None else least,
    )
    labels = settle_epochs(labels, images, size)
    return replace(
        config,
        labels=replace(labels, batch_size=size, store=False, storage=LabelStorageConfig()),
        evaluation=replace(config.evaluation, tests=1),
    )


def _methods_of(config: Config) -> Iterator[tuple[str, Config]]:
    """Yield the name and the settings of the run's own method, and of those beside it.

    Raises:
        ConfigError: If the settings of a baseline are faulty.
    """
    yield config.method, config
    for method in dict.fromkeys(config.continual.methods):
        yield method, for_method(config, method)


class Protocol:
    """The protocol on one work directory.

    Args:
        run: The work directory with its settings and data.

    Raises:
        ConfigError, DataError: If the protocol could not succeed.
    """

    def __init__(self, run: Run) -> None:
        with run.processes.checking():
            check_continual(run.config, run.data)
            self._methods = tuple(_methods_of(run.config))
        self._run, config, classes = run, run.config.continual, len(run.data.class_names)
        self._students = config.students or run.config.evaluation.students[:1]
        self._counts = classes_seen(classes, config.steps)
        self._orders = [
            class_order(classes, run.runtime.generator("continual", number))
            for number in range(config.orders)
        ]
        memories = [order[:count] for order in self._orders for count in self._counts]
        with run.processes.checking():
            for images in sorted(set(map(self._images_of, memories))):
                for _, settings in self._methods:
                    check_batches(settings, self._students, images, run.data)

    def learn(self) -> dict[str, Any]:
        """Train the students that are missing; write and return the content of `continual.json`."""
        counts = self._counts
        sizes = [after - before for before, after in zip([0, *counts], counts, strict=False)]
        log.info(
            "continual: %d classes come in steps of %s", counts[-1], " + ".join(map(str, sizes))
        )
        rows = []
        results: dict[str, Any] = {}
        for method, config in self._methods:
            image_sets = [self._make_images(config, number) for number in range(len(self._orders))]
            for student in self._students:
                curves = self._curves(image_sets, student)
                rows.append(self._row(method, student, config, curves))
                results = self._results(rows)
                if self._run.processes.leads:
                    write_json(self._run.workspace.continual, results)
        return results

    def _images_of(self, seen: Sequence[int]) -> int:
        return sum(self._run.counts.of_class[label] for label in seen)

    def _image_set(self, config: Config, number: int) -> ImageSet:
        """The set of a method for an order; each order has its own selection of random pictures."""
        draw = number if selection_of(config.method) == "random" else 0
        own = self._run.config.method
        return ImageSet(config, image_folder(self._run.workdir, own, config.method, draw), draw)

    def _make_images(self, config: Config, number: int) -> ImageSet:
        """Make the images for one order, with the teachers that they need; return their set."""
        image_set, run = self._image_set(config, number), self._run
        run.squeeze(names=image_set.teachers)
        if image_set.needs_statistics:
            run.statistics()
        run.synthesis(image_set)
        return image_set

    def _curves(self, image_sets: Sequence[ImageSet], student: str) -> list[list[float]]:
        """The accuracies after each step of each order; `image_sets` has one set an order.

        The students do not depend on each other, so that several processes train them side by side.
        """
        run, counts = self._run, self._counts
        trainings = [
            self._training(image_set, student, number, count)
            for number, image_set in enumerate(image_sets)
            for count in counts
        ]

        def accuracy(training: Training) -> float:
            return float(read_json(training.path)["top1"][-1])

        def log_accuracy(training: Training) -> None:
            image_set, number, count = training.of
            place = image_set.method, student, number, count
            line = "continual %s, %s, order %d, %d classes: %.1f %%"
            log.info(line, *place, accuracy(training))

        missing = run.team.missing(trainings, Artifact.is_tested)
        parallel = run.config.evaluation.parallel
        for training, team in run.team.deal(
            missing, len(trainings), parallel, log_accuracy, "training"
        ):
            with run.team.timed(training.clock, team):
                self._train(training, student, team)
        accuracies = [accuracy(training) for training in trainings]
        return [
            accuracies[start : start + len(counts)]
            for start in range(0, len(trainings), len(counts))
        ]

    def _training(self, image_set: ImageSet, student: str, number: int, count: int) -> Training:
        """The training of a student on the images of the first `count` classes of an order."""
        run, seen = self._run, self._orders[number][:count]
        image_set = replace(image_set, config=at_step(image_set.config, self._images_of(seen)))
        name = f"{image_set.method}-{file_stem(student)}-{number}-{count}.json"
        path = run.workdir / "continual" / name
        recipe = run.recipes.continual(image_set, student, number, seen)
        clock = f"continual/{image_set.method}/{student}/{number}/{count}"
        return Artifact((image_set, number, count), path, recipe, clock)

    def _train(self, training: Training, student: str, team: Processes) -> None:
        image_set, number, count = training.of
        run, seen = self._run, self._orders[number][:count]
        config = image_set.of_student(student).config
        tensors, _ = load_tensors(image_set.images, "images")
        memory = memory_data(run.data, tensors["images"], tensors["labels"], seen)
        images = memory.train.images
        assert images is not None
        columns = torch.tensor(seen, device=run.runtime.device)
        task = run.context.student_task(
            config, images, memory.train.labels, wrap=lambda net: SeenOutputs(net, columns)
        )
        runtime = run.runtime_of("evaluation", config).of(student, "training")
        judge = Judge(memory, runtime, runtime.workers(config.data.workers), team)
        train_student(student, number, task, judge, runtime, training.path, training.recipe)

    def _row(
        self, method: str, student: str, config: Config, curves: Sequence[Sequence[float]]
    ) -> dict[str, Any]:
        seconds = self._run.workspace.seconds()
        return {
            "method": method,
            "student": student,
            **ipc_entries(config),
            "steps": [spread(list(values)) for values in zip(*curves, strict=True)],
            "average": spread([fmean(curve) for curve in curves]),
            "seconds": sum(
                sum_seconds(seconds, f"continual/{method}/{student}/{number}/", self._counts)
                for number in range(len(self._orders))
            ),
        }

    def _results(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        return {
            "classes": self._counts,
            "class_names": list(self._run.data.class_names),
            "orders": self._orders,
            "rows": list(rows),
            "note": NOTE,
            "config": to_dict(self._run.config),
            "origin": self._run.origin.as_json(),
            "versions": versions(self._run.runtime),
        }


@torch_defaults()
def run_continual(
    config: Config | str | Mapping[str, Any],
    workdir: str | Path,
    quiet: bool = False,
    *,
    origin: Origin | None = None,
) -> dict[str, Any]:
    """Run the protocol and return the content of `continual.json`.

    Teachers and images are made if they are missing or out of date.

    Args:
        config: Settings, the name of a preset, or a nested mapping of settings.
        workdir: The work directory.
        quiet: No progress bars.
        origin: Where the settings came from, kept with the results; None takes a preset's name.

    Raises:
        ConfigError, DataError, ArtifactError, RunError: With one clear line.
    """
    current = Run(as_config(config), user_path(workdir), quiet, origin=origin or origin_of(config))
    current.team.check_replaceable(current.workspace.continual)
    with current.at_work():
        return Protocol(current).learn()
