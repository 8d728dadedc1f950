"""Whether a work directory already holds all that a command makes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from gvbsm.config import Config
from gvbsm.config.build import to_dict
from gvbsm.config.fields import without_effect
from gvbsm.config.keys import flatten
from gvbsm.data.epochs import settle
from gvbsm.engine.forms import NO_FORMS, Forms
from gvbsm.files.artifacts import ArtifactError, is_current, read_json
from gvbsm.pipeline.evaluated_sets import (
    EvaluatedSet,
    evaluated_sets,
    read_full,
    read_results,
    read_teachers,
)
from gvbsm.store.distilled import is_whole
from gvbsm.store.image_set import ImageSet
from gvbsm.store.recipes import Recipes
from gvbsm.store.workdir import Workspace


def is_finished(verb: str, config: Config, workdir: Path) -> bool:
    """Whether a verb would find nothing to make, if the pictures are those of the last run.

    Args:
        verb: run, continual or a stage.
        config: The settings.
        workdir: The work directory.
    """
    workspace = Workspace(workdir)
    try:
        data = read_json(workdir / "data.json")
        settled = settle(config, int(data["classes"]))
        precision = "fp32" if config.precision == "auto" else config.precision
        recipes = Recipes(settled, data["fingerprint"], precision, _recorded_forms(config, workdir))
        checks: dict[str, Callable[[], bool]] = {
            "run": lambda: _has_results(settled, workspace, recipes),
            "continual": lambda: _has_protocol(settled, workspace),
        }
        if verb in checks:
            return checks[verb]()
        return _has_stage(verb, settled, workspace, recipes)
    except (ArtifactError, KeyError, TypeError, ValueError):
        return False  # missing or damaged


def _recorded_forms(config: Config, workdir: Path) -> Forms:
    """The forms in which the networks were computed on the CPU."""
    path = workdir / "forms.json"
    chosen = config.precision == "auto" and path.is_file()
    return Forms(read_json(path)["forms"].get("cpu", {})) if chosen else NO_FORMS


def _has_results(config: Config, workspace: Workspace, recipes: Recipes) -> bool:
    """Whether all rows of the results are there, with all seeds."""
    methods, seeds = config.baselines.methods, config.evaluation.seeds
    expected = {"full": len(config.evaluation.students), "teacher": len(config.squeeze.backbones)}
    full = read_full(config, recipes, workspace)
    return (
        workspace.results.is_file()
        and _has_students([*evaluated_sets(config, workspace.directory)], recipes)
        and ("full" not in methods or len(full) == expected["full"])
        and all(len(histories) == seeds for histories in full.values())
        and (
            "teacher" not in methods
            or len(read_teachers(config, recipes, workspace)) == expected["teacher"]
        )
    )


def _has_students(sets: list[EvaluatedSet], recipes: Recipes) -> bool:
    students = sum(
        len(image_set.config.evaluation.students) * len(seeds) for image_set, seeds in sets
    )
    return sum(map(len, read_results(sets, recipes).values())) == students


def _has_protocol(config: Config, workspace: Workspace) -> bool:
    """Whether the results of the class-incremental protocol have these settings."""
    old, new = (
        {
            key: value
            for key, value in flatten(settings).items()
            if key not in without_effect(config)
        }
        for settings in (read_json(workspace.continual)["config"], to_dict(config))
    )
    return old == new


def _has_stage(verb: str, config: Config, workspace: Workspace, recipes: Recipes) -> bool:
    """Whether the artifacts of one stage of the run's own method are there."""
    image_set, backbones = ImageSet(config, workspace.directory), config.squeeze.backbones
    match verb:
        case "squeeze":
            return all(
                is_current(workspace.teacher(name), recipes.teacher(name)) for name in backbones
            )
        case "statistics":
            return all(
                is_current(workspace.statistics(name), recipes.statistics(name))
                for name in config.synthesis.backbones or backbones
            )
        case "synthesis":
            return is_current(image_set.images, recipes.images(image_set))
        case "labels":
            return all(is_whole(s.labels, recipes.labels(s)) for s in image_set.label_stores)
        case "evaluation":
            students = EvaluatedSet(image_set, range(config.evaluation.seeds))
            return _has_students([students], recipes)
        case _:
            return False
