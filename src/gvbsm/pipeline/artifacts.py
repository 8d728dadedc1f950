"""The files that a run makes: the recipe of each, and the name of its time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

from gvbsm.config import Config
from gvbsm.config.settled import corruption_kinds, matched_teachers
from gvbsm.files.artifacts import Recipe
from gvbsm.files.schema import current_history
from gvbsm.pipeline.evaluated_sets import EvaluatedSet, needed_teachers
from gvbsm.store.image_set import FOREIGN, ImageSet
from gvbsm.store.recipes import Recipes
from gvbsm.store.workdir import Workspace

Item = TypeVar("Item")


class Artifact(NamedTuple, Generic[Item]):
    """A file that a run makes.

    Attributes:
        of: What it is made of, such as the name of a teacher.
        path: The file; of several, the one that is written last.
        recipe: Settings and inputs that determine it.
        clock: Name of its time in `seconds.json`.
    """

    of: Item
    path: Path
    recipe: Recipe
    clock: str

    def is_tested(self) -> bool:
        """Whether it holds the tests of a network that was trained with this recipe.

        Raises:
            ArtifactError: If the file is damaged.
        """
        return current_history(self.path, self.recipe) is not None


@dataclass(frozen=True)
class Artifacts:
    """The artifacts of a run, from its settings, its recipes and its work directory."""

    config: Config
    recipes: Recipes
    workspace: Workspace

    def teacher(self, name: str) -> Artifact[str]:
        """A trained teacher."""
        path, recipe = self.workspace.teacher(name), self.recipes.teacher(name)
        return Artifact(name, path, recipe, f"squeeze/{name}")

    def statistics(self, name: str) -> Artifact[str]:
        """The statistics of a teacher."""
        path, recipe = self.workspace.statistics(name), self.recipes.statistics(name)
        return Artifact(name, path, recipe, "statistics")

    def corrupted(self, kind: str) -> Artifact[str]:
        """The test pictures' copies by a kind of corruption."""
        path, recipe = self.workspace.corrupted(kind), self.recipes.corrupted(kind)
        return Artifact(kind, path, recipe, f"corruptions/{kind}")

    def tested_teacher(self, name: str) -> Artifact[str]:
        """The tests of a teacher on corrupted pictures."""
        path, recipe = self.workspace.tested_teacher(name), self.recipes.tested_teacher(name)
        return Artifact(name, path, recipe, f"corruptions/teacher/{name}")

    def student(
        self, image_set: ImageSet, name: str, seed_index: int
    ) -> Artifact[tuple[ImageSet, str, int]]:
        """The result of a student of a set."""
        path, recipe = (
            image_set.result(name, seed_index),
            self.recipes.student(image_set, name, seed_index),
        )
        clock = f"evaluation/{image_set.method}/{name}/{seed_index}"
        return Artifact((image_set, name, seed_index), path, recipe, clock)

    def students(self, sets: Iterable[EvaluatedSet]) -> list[Artifact[tuple[ImageSet, str, int]]]:
        """The results of all students of some sets."""
        return [
            self.student(image_set, name, seed_index)
            for image_set, seeds in sets
            for name in image_set.config.evaluation.students
            for seed_index in seeds
        ]

    def full(self) -> list[Artifact[tuple[str, int]]]:
        """The results of the students that are trained on all real pictures."""
        return [
            Artifact(
                (name, index),
                self.workspace.full(name, index),
                self.recipes.full(name, index),
                f"full/{name}/{index}",
            )
            for name in self.config.evaluation.students
            for index in range(self.config.evaluation.seeds)
        ]

    def all(self, sets: Iterable[EvaluatedSet]) -> Iterator[Artifact[Any]]:
        """Yield every artifact of a run that evaluates these sets, in the order of the stages.

        Images of another method's set that are not copied yet have no recipe, and are left out.
        """
        sets, methods = list(sets), self.config.baselines.methods
        image_sets = [image_set for image_set, _ in sets]
        yield from map(self.teacher, needed_teachers(self.config, image_sets))
        if any(image_set.needs_statistics for image_set in image_sets):
            yield from map(self.statistics, matched_teachers(self.config))
        yield from self._of_pictures(image_sets)
        corruptions = self.config.evaluation.corruptions
        kinds = corruption_kinds(corruptions)
        if corruptions.folder is None:
            yield from map(self.corrupted, kinds)
        if kinds and "teacher" in methods:
            yield from map(self.tested_teacher, self.config.squeeze.backbones)
        for evaluated in sets:
            image_set, _ = evaluated
            if image_set.selection == FOREIGN and not image_set.images.is_file():
                continue
            images, clock = self.recipes.images(image_set), f"synthesis/{image_set.method}"
            yield Artifact(image_set, image_set.images, images, clock)
            for store in image_set.label_stores:
                index, recipe = store.labels / "index.json", self.recipes.labels(store)
                yield Artifact(store, index, recipe, f"labels/{store.label_name}")
            yield from self.students([evaluated])
        if "full" in methods:
            yield from self.full()

    def _of_pictures(self, image_sets: Iterable[ImageSet]) -> Iterator[Artifact[None]]:
        """Yield what the real pictures are selected and divided by."""
        workspace, recipes = self.workspace, self.recipes
        if any(image_set.needs_difficulty for image_set in image_sets):
            yield Artifact(None, workspace.difficulty, recipes.difficulty(), "difficulty")
        if any(image_set.needs_forgetting for image_set in image_sets):
            path = workspace.forgetting(recipes.coreset_backbone)
            yield Artifact(None, path, recipes.forgetting(), "forgetting")
