"""The sets of images that a run evaluates, and what has come out so far."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from gvbsm.config import Config
from gvbsm.config.build import for_method, selection_of
from gvbsm.files.artifacts import is_current
from gvbsm.files.schema import checked_header, current_history
from gvbsm.store.recipes import Place, Recipes, baseline_folder
from gvbsm.store.workdir import Workspace

Evaluated = tuple[str, Place, range]
"""Method, place and student seeds of a set."""


def all_places(config: Config, workdir: Path) -> Iterator[Evaluated]:
    """Everything that is evaluated: the run's own method, then its baselines."""
    seeds = config.evaluation.seeds
    yield config.method, Place(config, workdir), range(seeds)
    baselines = workdir / "baselines"
    for method in config.baselines.methods:
        if method == "teacher" or method == "full":
            continue
        settings = for_method(config, method)
        draws = config.baselines.draws if selection_of(method) == "random" else 1
        for draw in range(min(draws, seeds)):
            place = Place(settings, baselines / baseline_folder(method, draw), draw)
            yield method, place, range(draw, seeds, draws)


def needed_teachers(config: Config, places: Sequence[Place]) -> list[str]:
    """The teachers that a run has to have, in the order of `squeeze.backbones`.

    Args:
        config: The run's settings.
        places: What is evaluated.
    """
    everyone = "teacher" in config.baselines.methods
    asked = {name for place in places for name in place.teachers}
    return [name for name in config.squeeze.backbones if everyone or name in asked]


def read_results(
    places: Iterator[Evaluated], recipes: Recipes
) -> dict[tuple[str, str], list[dict[str, Any]]]:
    """The results of all students that were trained with the present settings.

    Args:
        places: What is evaluated.
        recipes: The run's.

    Returns:
        Results of all seeds, by method and student.
    """
    found: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for method, place, seeds in places:
        for student in place.config.evaluation.students:
            for seed_index in seeds:
                path = place.result(student, seed_index)
                recipe = recipes.student(place, student, seed_index)
                if (result := current_history(path, recipe)) is not None:
                    found.setdefault((method, student), []).append(result)
    return found


def read_full(
    config: Config, recipes: Recipes, workspace: Workspace
) -> dict[str, list[dict[str, Any]]]:
    """The results of the students that were trained on all real pictures, by student."""
    if "full" not in config.baselines.methods:
        return {}
    results = {
        student: [
            current_history(workspace.full(student, index), recipes.full(student, index))
            for index in range(config.evaluation.seeds)
        ]
        for student in config.evaluation.students
    }
    tested = {name: [each for each in found if each] for name, found in results.items()}
    return {name: histories for name, histories in tested.items() if histories}


def read_teachers(
    config: Config, recipes: Recipes, workspace: Workspace
) -> dict[str, dict[str, Any]]:
    """The histories of the teachers, by backbone, if they are a row of the results."""
    if "teacher" not in config.baselines.methods:
        return {}
    paths = {name: workspace.teacher(name) for name in config.squeeze.backbones}
    return {
        name: checked_header(path)["history"]
        for name, path in paths.items()
        if is_current(path, recipes.teacher(name))
    }
