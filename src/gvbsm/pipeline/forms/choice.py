"""Choose the form of each network in each kind of work, by a race.

A race takes a second or two. It is run where it is short beside the work that the settings ask for,
once a machine: its times are kept in the user's cache folder. What a work directory has chosen is
kept in its `forms.json`, so that a resumed run computes the same bits on any machine.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from torch import nn

from gvbsm.backbones import build_backbone
from gvbsm.backbones.cost import multiply_adds
from gvbsm.config import Config
from gvbsm.data.class_sizes import image_counts
from gvbsm.data.datasets import ImageData
from gvbsm.data.epochs import batch_size_for
from gvbsm.engine.device import Runtime
from gvbsm.engine.forms import Form, Kind
from gvbsm.engine.forms.race import (
    CANDIDATES,
    CLOSE,
    ROUNDS,
    Trial,
    Work,
    fastest,
    noise,
    race,
)
from gvbsm.engine.seeds import seeded
from gvbsm.files.artifacts import read_json, write_json
from gvbsm.files.schema import ChosenForms, checked
from gvbsm.pipeline.evaluated_sets import EvaluatedSet
from gvbsm.pipeline.forms.compiling import CompileTask, compile_form, trial_seconds
from gvbsm.pipeline.forms.machine_cache import MachineCache, of_code
from gvbsm.pipeline.forms.works import prepare
from gvbsm.pipeline.workload import STAGES, workload

log = logging.getLogger("gvbsm")

WORTH = 20  # a race is run if the work takes this many times as long
PASSES = {"training": 3, "pixels": 2, "inference": 1}  # forward passes that a batch costs
OVERHEAD = 1e10  # multiply-adds that the building of a race costs


def choose_forms(
    config: Config,
    sets: Iterable[EvaluatedSet],
    data: ImageData,
    runtime: Runtime,
    path: Path,
    stages: Collection[str] = STAGES,
    keep: bool = True,
) -> dict[str, dict[Kind, str]]:
    """Return the table of a run's forms (`engine.forms.Forms`); new ones are added to `path`.

    Whether a race is worth its time depends on the work of the whole run, so that a network has one
    form in all stages.

    Args:
        config: The run's settings; only `precision: auto` leaves a choice.
        sets: What the run evaluates.
        data: The real pictures.
        runtime: Device, and the form of all work that is too short for a race.
        path: The work directory's `forms.json`.
        stages: The stages that are to be run: others get the forms that are known.
        keep: Whether to write new forms. If not, no network is compiled to see whether that pays.

    Raises:
        ArtifactError: If the file is damaged.
    """
    recorded = _recorded(path)
    table = recorded.get(runtime.device.type, {})
    sets = list(sets)
    task = replace(RaceTask.of(config, sets, data, runtime), compiles=keep)
    new: dict[tuple[str, Kind], Form] = {}
    whole = workload(config, sets, data)
    for name, kind in workload(config, sets, data, stages):
        chosen = table.get(name, {}).get(kind)
        if not task.is_open(kind) or (chosen and task.allows(kind, chosen)):
            continue
        if (form := task.choose(name, kind, whole[name, kind], runtime)) is not None:
            new[name, kind] = form
    for (name, kind), form in new.items():
        table.setdefault(name, {})[kind] = form.name
    if new and keep:
        write_json(path, {"forms": {**recorded, runtime.device.type: table}})
    return {
        name: {kind: form for kind, form in row.items() if task.allows(kind, form)}
        for name, row in table.items()
    }


def coming_trials(
    config: Config,
    sets: Iterable[EvaluatedSet],
    data: ImageData,
    runtime: Runtime,
    path: Path,
) -> dict[str, float]:
    """Return the networks that a run will try to compile, with about the seconds of each.

    The runtime has the forms that `choose_forms` has chosen without compiling, and `path` is the
    work directory's `forms.json`.

    Raises:
        ArtifactError: If the file is damaged.
    """
    sets, recorded = list(sets), _recorded(path).get(runtime.device.type, {})
    task, trials = RaceTask.of(config, sets, data, runtime), defaultdict[str, float](float)
    for (name, kind), pictures in workload(config, sets, data).items():
        form = runtime.forms.of(name, kind)
        if form is None or form.compiled or kind not in task.batches:
            continue
        chosen = recorded.get(name, {}).get(kind)
        if chosen is None or not task.allows(kind, chosen):
            build = partial(_network, task, name, kind)
            compiled = task.compile_task(name, kind, pictures)
            trials[name] += trial_seconds(form, build, compiled, runtime)
    return {name: seconds for name, seconds in trials.items() if seconds}


def _network(task: RaceTask, name: str, kind: Kind) -> nn.Module:
    return task.build(name, kind)[0]


def _recorded(path: Path) -> dict[str, dict[str, dict[Kind, str]]]:
    """The forms by kind of work, network and type of device; empty without a file."""
    if not path.exists():
        return {}
    return checked(ChosenForms, read_json(path), path).model_dump()["forms"]  # type: ignore[no-any-return]


@dataclass(frozen=True)
class RaceTask:
    """What networks are called on in their races, and the forms that may win.

    Attributes:
        classes: Number of classes.
        shape: (channels, height, width) of a picture.
        candidates: The forms; a single one if the settings fix the precision.
        batches: Images in a batch, by kind of work that may be compiled.
        networks: Number of networks of one build in training.
        compiles: Whether networks are compiled to see whether that pays.
    """

    classes: int
    shape: tuple[int, int, int]
    candidates: tuple[Form, ...] = CANDIDATES
    batches: Mapping[Kind, int] = field(default_factory=dict)
    networks: int = 1
    compiles: bool = True

    @classmethod
    def of(
        cls, config: Config, sets: Sequence[EvaluatedSet], data: ImageData, runtime: Runtime
    ) -> RaceTask:
        """Return the task of a run."""
        synthesis, classes = config.synthesis, len(data.class_names)
        count = image_counts(config, data.class_names).total
        shape = (data.channels, data.image_size, data.image_size)
        candidates = CANDIDATES if config.precision == "auto" else (runtime.form,)
        batches: dict[Kind, int] = {}
        if config.precision == "auto":
            full_batch = config.labels.full_batch_up_to
            batches["training"] = batch_size_for(count, config.evaluation.batch_size, full_batch)
        if synthesis.compile == "auto":
            images = min(synthesis.batch_size, count)
            batches["pixels"] = images * (synthesis.groups or 1)
        students = sum(len(seeds) for _, seeds in sets)
        return cls(classes, shape, candidates, batches, students)

    def is_open(self, kind: Kind) -> bool:
        """Whether the settings leave a choice for a kind of work."""
        return len(self.candidates) > 1 or kind in self.batches

    def allows(self, kind: Kind, name: str) -> bool:
        """Whether the settings allow a form that was chosen earlier, by its name."""
        form = Form.named(name)
        fixed = len(self.candidates) == 1
        if fixed and form._replace(compiled=False) != self.candidates[0]:
            return False
        return kind in self.batches or not form.compiled

    def choose(self, name: str, kind: Kind, pictures: int, runtime: Runtime) -> Form | None:
        """Return the fastest form of a network, by the machine's earlier race or by a new one.

        Args:
            name: The network.
            kind: What is computed.
            pictures: Number of pictures that it is computed for.
            runtime: Device.

        Returns:
            The form; None if the work is too short for a race.
        """
        forms = len(self.candidates)
        raced = len(noise(self.shape)) * forms * (ROUNDS + 1)
        surplus = pictures - WORTH * raced
        if surplus <= 0:  # whatever the network costs
            return None
        forward = multiply_adds(name, self.classes, self.shape[-1], self.shape[0])
        if surplus * PASSES[kind] * forward < WORTH * OVERHEAD:
            return None
        network, work = self.build(name, kind)
        form = self.candidates[0]
        if forms > 1:
            cache = MachineCache(runtime)
            key = f"{of_code(name)} {kind} {self.classes} {self.shape}"
            if (rows := cache.get(key)) is None:
                rows = [list(trial) for trial in race(network, work, self.shape, runtime)]
                cache.put(key, rows)
            trials = [Trial(*row) for row in rows]  # type: ignore[arg-type]
            form = fastest(trials, network)
            _log_race(name, kind, form, trials)
        if self.compiles and kind in self.batches:
            form = compile_form(form, network, self.compile_task(name, kind, pictures), runtime)
        return form

    def compile_task(self, name: str, kind: Kind, pictures: int) -> CompileTask:
        """Return what would be compiled of a network that so many pictures pass."""
        images, networks = self.batches[kind], self.networks if kind == "training" else 1
        return CompileTask(kind, name, (images, *self.shape), pictures / images, networks)

    def build(self, name: str, kind: Kind) -> tuple[nn.Module, Work]:
        """Return a network as a kind of work calls it, and that work."""
        with seeded(0, "race"):
            network = build_backbone(name, self.classes, self.shape[-1], self.shape[0])
            return prepare(network, kind, self.shape)


def _log_race(name: str, kind: Kind, form: Form, trials: Sequence[Trial]) -> None:
    """Log the chosen form, and the time of each form beside it."""
    times = [
        f"{trial.form} {1000 * trial.seconds:.3g}"
        + ("" if trial.cosine >= CLOSE else f" (cosine to float64 {trial.cosine:.2f})")
        for trial in trials
    ]
    log.info("%s of %s in %s; ms a batch: %s", kind, name, form.name, ", ".join(times))
