"""List the image sets that a run evaluates, and read the results that are there."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, cast

from gvbsm.config import Config, Method
from gvbsm.config.build import for_method, selection_of
from gvbsm.files.artifacts import is_current
from gvbsm.files.schema import checked_header, current_history
from gvbsm.store.distilled import stored_bytes
from gvbsm.store.image_set import ImageSet, image_folder
from gvbsm.store.recipes import Recipes
from gvbsm.store.workdir import Workspace


class EvaluatedSet(NamedTuple):
    """A set of images, and the seeds of the students that are trained on it."""

    image_set: ImageSet
    seeds: range


def evaluated_sets(config: Config, workdir: Path) -> Iterator[EvaluatedSet]:
    """The sets that a run evaluates: first that of its own method, then its baselines.

    Raises:
        ConfigError: If the settings of a baseline are faulty.
    """
    seeds = config.evaluation.seeds
    yield EvaluatedSet(ImageSet(config, workdir), range(seeds))
    for method in config.baselines.methods:
        if method == "teacher" or method == "full":
            continue
        settings = for_method(config, method)
        draws = config.baselines.draws if selection_of(method) == "random" else 1
        for draw in range(min(draws, seeds)):
            folder = image_folder(workdir, config.method, method, draw)
            yield EvaluatedSet(ImageSet(settings, folder, draw), range(draw, seeds, draws))
    for name in config.baselines.sets:
        settings = replace(for_method(config, "random-soft"), method=cast(Method, name))
        folder = workdir / "baselines" / f"set-{name}"
        yield EvaluatedSet(ImageSet(settings, folder), range(seeds))


def needed_teachers(config: Config, image_sets: Iterable[ImageSet]) -> list[str]:
    """The teachers that a run has to have, in the order of `squeeze.backbones`."""
    everyone = "teacher" in config.baselines.methods
    needed = {name for image_set in image_sets for name in image_set.teachers}
    return [name for name in config.squeeze.backbones if everyone or name in needed]


def read_results(
    sets: Iterable[EvaluatedSet], recipes: Recipes
) -> dict[tuple[str, str], list[dict[str, Any]]]:
    """The results of all students that were trained with the present settings.

    Returns:
        Results of all seeds, by method and student.
    """
    results: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for image_set, seeds in sets:
        for student in image_set.config.evaluation.students:
            for seed_index in seeds:
                path = image_set.result(student, seed_index)
                recipe = recipes.student(image_set, student, seed_index)
                if (history := current_history(path, recipe)) is not None:
                    results.setdefault((image_set.method, student), []).append(history)
    return results


def stored_sizes(sets: Iterable[EvaluatedSet]) -> dict[tuple[str, str], dict[str, int | None]]:
    """The bytes that students are trained from, as entries of the rows of `results.json`.

    Returns:
        By method and student `image_bytes` of the pixels and `label_bytes` of the soft labels: 0
        for hard labels, None for teachers that label during training. Of several draws the first.
        Sets whose files are missing are left out.
    """
    sizes: dict[tuple[str, str], dict[str, int | None]] = {}
    for image_set, _ in sets:
        for student in image_set.config.evaluation.students:
            folder = image_set.of_student(student).label_folder
            stored = stored_bytes(image_set.directory, image_set.stores_labels, folder)
            is_missing = image_set.stores_labels and not stored["labels"]
            if is_missing or not stored["images"]:
                continue
            is_known = image_set.stores_labels or image_set.config.evaluation.loss == "hard"
            labels = stored["labels"] if is_known else None
            entries = {"image_bytes": stored["images"], "label_bytes": labels}
            sizes.setdefault((image_set.method, student), entries)
    return sizes


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
    tested = {student: list(filter(None, histories)) for student, histories in results.items()}
    return {student: histories for student, histories in tested.items() if histories}


def read_teachers(
    config: Config, recipes: Recipes, workspace: Workspace
) -> dict[str, dict[str, Any]]:
    """The tests of the teachers, by backbone, if they are a row of the results.

    Those on corrupted pictures are there if the settings have them.
    """
    if "teacher" not in config.baselines.methods:
        return {}
    paths = {name: workspace.teacher(name) for name in config.squeeze.backbones}
    return {
        name: current_history(workspace.tested_teacher(name), recipes.tested_teacher(name))
        or checked_header(path)["history"]
        for name, path in paths.items()
        if is_current(path, recipes.teacher(name))
    }
