"""What the stages of a run work with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from torch import Tensor, nn

from gvbsm.config import Config
from gvbsm.data.class_sizes import image_counts
from gvbsm.data.datasets import ImageData
from gvbsm.engine.device import Runtime
from gvbsm.pipeline.artifacts import Artifacts
from gvbsm.pipeline.teachers import Teachers
from gvbsm.pipeline.work_sharing import Teamwork
from gvbsm.store.batches import Labeler, StudentTask
from gvbsm.store.recipes import Recipes, seed_of
from gvbsm.store.soft_labels import SoftLabels
from gvbsm.store.workdir import Workspace


@dataclass(frozen=True)
class RunContext:
    """Settings, pictures, networks and work directory of a run.

    Attributes:
        config: The run's settings, or those of one of its sets.
        data: The real pictures.
        runtime: Device, precision, seed, processes.
        recipes: The run's recipes.
        teachers: The run's teachers.
        team: The processes in their work directory.
    """

    config: Config
    data: ImageData
    runtime: Runtime
    recipes: Recipes
    teachers: Teachers
    team: Teamwork

    @property
    def workspace(self) -> Workspace:
        """The work directory."""
        return self.team.workspace

    @property
    def artifacts(self) -> Artifacts:
        """The files that the run makes."""
        return Artifacts(self.config, self.recipes, self.workspace)

    @property
    def counts(self) -> tuple[int, ...]:
        """Images of each class, (classes,)."""
        return image_counts(self.config, self.data.class_names).of_class

    @property
    def workers(self) -> int:
        """Processes that decode pictures."""
        return self.runtime.workers(self.config.data.workers)

    def student_task(
        self,
        config: Config,
        images: Tensor,
        labels: Tensor,
        stored: SoftLabels | None = None,
        wrap: Callable[[nn.Module], nn.Module] = lambda network: network,
    ) -> StudentTask:
        """Return the training of a student on a set.

        Args:
            config: The settings of the set, for this student.
            images: uint8 (n, channels, size, size).
            labels: Classes of the images, int64 (n,).
            stored: Its label store; without one the teachers label during the training.
            wrap: Changes each teacher that labels during the training.
        """
        is_labeled = stored is not None or config.evaluation.loss == "hard"
        teachers = [] if is_labeled else list(map(wrap, self.teachers.for_labels(config)))
        runtime = replace(self.runtime, seed=seed_of(config, "labels"))
        size, normalization = self.data.image_size, self.data.normalization
        labeler = Labeler(len(images), size, config.labels, runtime, stored, teachers)
        return StudentTask(images, labels, labeler, normalization, config.evaluation, config.labels)
