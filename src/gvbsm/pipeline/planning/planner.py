"""Plan a run on this machine: what is there, in which form networks run, and what they cost."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from gvbsm.backbones.cost import multiply_adds
from gvbsm.config import Config, ConfigError
from gvbsm.config.errors import first_line
from gvbsm.data.datasets import ImageData
from gvbsm.data.epochs import settle
from gvbsm.engine.device import Runtime, runtime_for
from gvbsm.engine.forms import Forms
from gvbsm.files.artifacts import is_current
from gvbsm.pipeline.artifacts import Artifact, Artifacts
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

    Forms that the work directory has chosen are taken; new ones are not kept.
    """
    table = choose_forms(config, sets, data, runtime, workdir / "forms.json", keep=False)
    return replace(runtime, forms=Forms(table))


def measured_costs(config: Config, data: ImageData, runtime: Runtime) -> MeasuredCosts:
    """Return the costs of a run on this machine."""
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
    for artifact in Artifacts(config, recipes, workspace).all(sets):
        is_made[artifact.clock] = _is_made(artifact) and is_made.get(artifact.clock, True)
    return {key for key, made in is_made.items() if made}


def _is_made(artifact: Artifact[Any]) -> bool:
    """Whether an artifact is complete and current."""
    if artifact.path.name == "index.json":
        return is_whole(artifact.path.parent, artifact.recipe)
    if artifact.path.suffix == ".json":
        return artifact.is_tested()
    return is_current(artifact.path, artifact.recipe)
