"""Plan a run on this machine: what is there, in which form networks run, and what they cost."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from gvbsm.backbones.cost import multiply_adds
from gvbsm.config import Config, ConfigError
from gvbsm.config.errors import first_line
from gvbsm.config.settled import corruption_kinds, matched_teachers
from gvbsm.data.datasets import ImageData
from gvbsm.data.epochs import settle
from gvbsm.engine.device import Runtime, runtime_for
from gvbsm.engine.forms import Forms
from gvbsm.files.artifacts import is_current
from gvbsm.files.schema import current_history
from gvbsm.pipeline.evaluated_sets import EvaluatedSet, evaluated_sets
from gvbsm.pipeline.forms.choice import PASSES, choose_forms, coming_trials
from gvbsm.pipeline.planning.costs import MeasuredCosts
from gvbsm.pipeline.planning.estimate import ALONE, START, plan_run
from gvbsm.pipeline.planning.plan import Plan
from gvbsm.pipeline.planning.process_plan import ProcessPlan
from gvbsm.pipeline.planning.timing_task import TimingTask
from gvbsm.pipeline.preflight import check_feasible, load_data
from gvbsm.pipeline.workload import workload
from gvbsm.store.distilled import is_whole
from gvbsm.store.image_set import FOREIGN
from gvbsm.store.recipes import Recipes
from gvbsm.store.workdir import Workspace

log = logging.getLogger("gvbsm")

# A run is timed beforehand if the timing, a few seconds, is a small share of it.
LONG = {"cpu": 5e11, "cuda": 5e13}  # multiply-adds: about a minute of a core, or of a GPU
FEW = 5000  # pictures; fewer are no long run, whatever the network
TIMED = 500  # forward passes that the timing of a network costs
SHARE = 0.02  # of the run that the timing may cost


def plan_here(
    config: Config,
    workdir: Path,
    data: ImageData | None = None,
    quiet: bool = False,
    processes: ProcessPlan = ALONE,
) -> Plan:
    """Plan a run on this machine; nothing is written but what the machine's cache keeps.

    Args:
        config: The settings.
        workdir: The work directory; what is current in it takes no time. It need not exist.
        data: The pictures that `config.data` names; None reads them.
        quiet: No progress bars.
        processes: The processes that the run would start.

    Raises:
        ConfigError, DataError, ArtifactError, RunError: If the run could not succeed.
    """
    threads = config.threads or processes.threads
    runtime = runtime_for(replace(config, threads=threads), quiet)
    data = data or load_data(config, runtime)
    config = settle(config, data.class_names)
    check_feasible(config, data)
    sets = list(evaluated_sets(config, workdir))
    runtime = in_raced_forms(config, sets, data, runtime, workdir)
    recipes = Recipes(config, data.fingerprint, runtime.precision, runtime.forms)
    made = made_parts(config, sets, recipes, Workspace(workdir)) if workdir.is_dir() else ()
    costs = measured_costs(config, data, runtime)
    plan = plan_run(config, sets, data, costs, processes, {*made}, costs.memory)
    return plan.with_trials(coming_trials(config, sets, data, runtime, workdir / "forms.json"))


def in_raced_forms(
    config: Config,
    sets: Sequence[EvaluatedSet],
    data: ImageData,
    runtime: Runtime,
    workdir: Path,
) -> Runtime:
    """Return the runtime with the forms in which a run's networks compute; see `choose_forms`.

    Args:
        config: The settings, settled.
        sets: What the run evaluates.
        data: The real pictures.
        runtime: Device, and the form of all work that is too short for a race.
        workdir: The work directory; forms that it has chosen are taken, new ones are not kept.
    """
    table = choose_forms(config, sets, data, runtime, workdir / "forms.json", keep=False)
    return replace(runtime, forms=Forms(table))


def measured_costs(config: Config, data: ImageData, runtime: Runtime) -> MeasuredCosts:
    """Return the costs of a run on this machine.

    Args:
        config: The settings.
        data: The real pictures.
        runtime: Device and forms of the run.
    """
    return MeasuredCosts(TimingTask(data, runtime, runtime.workers(config.data.workers)))


def plan_begun(
    config: Config,
    sets: Sequence[EvaluatedSet],
    data: ImageData,
    runtime: Runtime,
    recipes: Recipes,
    workspace: Workspace,
) -> Plan | None:
    """Plan what is left of a run that has begun; None if it is short, or not in process 0.

    Args:
        config: The settings, settled.
        sets: What the run evaluates.
        data: The real pictures.
        runtime: Device, forms and processes of the run.
        recipes: The run's recipes.
        workspace: The work directory.

    Raises:
        ConfigError: If the user's loss term fails, which the run would meet after its teachers.
    """
    if not runtime.processes.leads or not is_long(config, sets, data, runtime.device.type):
        return None
    made = {START, *made_parts(config, sets, recipes, workspace)}
    count = runtime.processes.world
    shares_cores = runtime.processes.threads is not None
    costs = measured_costs(config, data, runtime)
    try:
        return plan_run(config, sets, data, costs, ProcessPlan(count, shares_cores), made)
    except Exception as error:  # networks of any library raise any; the run itself may succeed
        if isinstance(error, ConfigError) and config.synthesis.extra is not None:
            raise
        log.warning("the time of the run is not known beforehand: %s", first_line(error))
        return None


def is_long(
    config: Config, sets: Sequence[EvaluatedSet], data: ImageData, device_type: str
) -> bool:
    """Whether a run takes so long that its plan is worth some seconds, by its arithmetic."""
    counts = workload(config, sets, data)
    if sum(counts.values()) < FEW:
        return False
    side, channels = data.image_size, data.channels
    passes = {
        name: multiply_adds(name, len(data.class_names), side, channels) for name, _ in counts
    }
    total = sum(n * PASSES[kind] * passes[name] for (name, kind), n in counts.items())
    return total >= max(LONG[device_type], TIMED / SHARE * sum(passes.values()))


def made_parts(
    config: Config, sets: Sequence[EvaluatedSet], recipes: Recipes, workspace: Workspace
) -> set[str]:
    """The keys of the parts of a run that are in its work directory, complete and current.

    Raises:
        ArtifactError: If a file is damaged, or of another program.
    """
    is_made: dict[str, bool] = {}
    for key, current in _parts(config, sets, recipes, workspace):
        is_made[key] = is_made.get(key, True) and current
    return {key for key, made in is_made.items() if made}


def _parts(
    config: Config, sets: Sequence[EvaluatedSet], recipes: Recipes, workspace: Workspace
) -> Iterator[tuple[str, bool]]:
    """Yield the key of each part, and whether it is current; a key may come several times."""
    for name in config.squeeze.backbones:
        yield f"squeeze/{name}", is_current(workspace.teacher(name), recipes.teacher(name))
    yield from _corrupted_parts(config, recipes, workspace)
    for name in matched_teachers(config):
        yield "statistics", is_current(workspace.statistics(name), recipes.statistics(name))
    forgetting = workspace.forgetting(recipes.coreset_backbone)
    yield "forgetting", is_current(forgetting, recipes.forgetting())
    for image_set, seeds in sets:
        if image_set.selection == FOREIGN and not image_set.images.is_file():
            continue  # the run copies it first, and makes its labels and students anew
        images = recipes.images(image_set)
        yield f"synthesis/{image_set.method}", is_current(image_set.images, images)
        for labeled in image_set.label_stores:
            whole = is_whole(labeled.labels, recipes.labels(labeled))
            yield f"labels/{labeled.label_name}", whole
        for student in image_set.config.evaluation.students:
            for seed in seeds:
                recipe = recipes.student(image_set, student, seed)
                history = current_history(image_set.result(student, seed), recipe)
                yield f"evaluation/{image_set.method}/{student}/{seed}", history is not None
    for student in config.evaluation.students:
        for seed in range(config.evaluation.seeds):
            path, recipe = workspace.full(student, seed), recipes.full(student, seed)
            yield f"full/{student}/{seed}", current_history(path, recipe) is not None


def _corrupted_parts(
    config: Config, recipes: Recipes, workspace: Workspace
) -> Iterator[tuple[str, bool]]:
    """Yield the parts of the tests on corrupted pictures, as `_parts` does."""
    for kind in corruption_kinds(config.evaluation.corruptions):
        copies = workspace.corrupted(kind)
        yield f"corruptions/{kind}", is_current(copies, recipes.corrupted(kind))
    for name in config.squeeze.backbones:
        history = current_history(workspace.tested_teacher(name), recipes.tested_teacher(name))
        yield f"corruptions/teacher/{name}", history is not None
